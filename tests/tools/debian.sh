#!/bin/sh
# debian.sh FILE: makes the real image for the tests, a minimal Debian 12, as a gzip tarball.
# Wants root and mmdebstrap or debootstrap, and a Debian mirror ($MIRROR, else the machine's own).
set -eu
out=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mirror=${MIRROR:-$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    sed -nE 's/^(URIs:|deb)( \[[^]]*\])? +(https?:[^ ]+).*/\3/p' | grep '/debian/*$' | head -n 1)}
mirror=${mirror:-http://deb.debian.org/debian}
if command -v mmdebstrap >/dev/null; then
    mmdebstrap --quiet --variant=minbase --mode=root --dpkgopt=force-unsafe-io bookworm "$work/all.tar" "$mirror"
    mkdir "$work/tree"
    tar -C "$work/tree" -xpf "$work/all.tar"
else
    debootstrap --variant=minbase bookworm "$work/tree" "$mirror"
fi
# As published images: no device files, package lists or logs. Of the caches, what apt makes again.
rm -rf "$work"/tree/dev/* "$work"/tree/var/lib/apt/lists/*_* "$work"/tree/var/cache/apt/*.bin \
    "$work"/tree/var/cache/apt/archives/*.deb "$work"/tree/var/log/*.log
# The sources that this machine uses (it may be a local mirror), so that apt-get works in the image, too.
printf 'deb %s bookworm main\n' "$mirror" >"$work/tree/etc/apt/sources.list"
tar -C "$work/tree" --sort=name --numeric-owner -czf "$out.new" .
mv "$out.new" "$out"
