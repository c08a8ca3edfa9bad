#!/bin/sh
# base.sh DIR: a base image made of this machine's own shell and a few tools, with the libraries they are linked to.
# For the demo and the benchmark, which must do without network and registry.
set -eu
base=$1
for dir in bin dev etc proc root sys tmp usr/bin var/tmp; do mkdir -p "$base/$dir"; done
echo 'root:x:0:0:root:/root:/bin/sh' >"$base/etc/passwd"
echo 'root:x:0:' >"$base/etc/group"
for tool in sh cat cp id ls mkdir rm true uname wc; do
    file=$(command -v "$tool" || true)
    # Where it is only a command of the shell, there may be a program, too.
    [ -x "$file" ] || file=/bin/$tool
    file=$(readlink -f "$file")
    cp "$file" "$base/bin/$tool"
    # ldd fails on a static program: it needs nothing.
    for library in $(ldd "$file" 2>/dev/null | tr -s ' \t' '\n\n' | grep '^/' || true); do
        mkdir -p "$base$(dirname "$library")"
        [ -e "$base$library" ] || cp -L "$library" "$base$library"
    done
done
