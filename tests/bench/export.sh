#!/bin/bash
# export.sh (make bench): packed images and tarballs, against the tools that everybody else calls.
#
# Rows: export to SquashFS (zstd, gzip, lz4; the same level and block size) against mksquashfs, to tar.gz against
# GNU tar | pigz, and import of the same files against unsquashfs. Ours begins with the layers, the others with a tree that
# is there already. Tools take turns within each round; figures are the best of all rounds. Then: the same bytes with one
# processor and with all, and in two directories.
# Settings: ROUNDS (3), DEBIAN (a tarball of an image; else this machine's own /usr/share, 200 MiB of it), BENCH_DIR
# (target/bench-export), OTHER_DIR (a directory on another file system, /dev/shm).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
ROUNDS=${ROUNDS:-3}
DEBIAN=${DEBIAN:-${CH_TEST_DEBIAN_TARBALL:-}}
OTHER_DIR=${OTHER_DIR:-/dev/shm}
OURS=${CH_IMAGE:-$top/ch-image}
work=${BENCH_DIR:-${CARGO_TARGET_DIR:-$top/target}/bench-export}
PATH=$PATH:/usr/sbin:/sbin
unset CH_IMAGE_STORAGE

have() { command -v "$1" >/dev/null 2>&1; }
if ! have mksquashfs || ! have unsquashfs; then
    echo "export.sh: mksquashfs and unsquashfs are not here: nothing to compare with" >&2
    exit 0
fi
rm -rf "$work"
mkdir -p "$work"
other=$(mktemp -d "$OTHER_DIR/ch-bench.XXXXXX")
trap 'rm -rf "$other"' EXIT
store=$work/storage

# The images: one layer, and eight.
if [ -z "$DEBIAN" ]; then
    mkdir -p "$work/tree/bin" "$work/tree/dev" "$work/tree/usr/share"
    { find /usr/share -xdev -type f -readable -size -4096k -printf '%s %p\n' 2>/dev/null || true; } | LC_ALL=C sort -k2 |
        awk 'NF == 2 && size < 200 * 1048576 { size += $1; print $2 }' |
        tar -T - -P --transform 's,^/,,' -cf - | tar -C "$work/tree" -xf -
    DEBIAN=$work/tree
fi
"$OURS" import -s "$store" "$DEBIAN" one >"$work/log" 2>&1
mkdir -p "$work/context"
from=one
for n in 2 3 4 5 6 7 8; do
    for i in $(seq 200); do seq "$((i * n))" "$((i * 50))" >"$work/context/file$i"; done
    printf 'FROM %s\nCOPY . /layer%s/\n' "$from" "$n" >"$work/df"
    from=layers$n
    if [ "$n" = 8 ]; then from=eight; fi
    "$OURS" build -s "$store" -t "$from" -f "$work/df" "$work/context" >"$work/log" 2>&1
done

# timed NAME COMMAND...: appends seconds and peak memory (KiB) to NAME.
timed() {
    local name=$1; shift
    /usr/bin/time -f '%e %M' -a -o "$work/$name" "$@" >"$work/log" 2>&1 </dev/null || {
        echo "$name failed: $(tail -n 1 "$work/log")" >&2
    }
}
# synced NAME PATH COMMAND...: the same, and what was written is on stable storage in the end, as with ours.
synced() {
    local name=$1 path=$2; shift 2
    # shellcheck disable=SC2016
    timed "$name" sh -c 'path=$1; shift; "$@" && sync -f "$path"' sh "$path" "$@"
}
best() { sort -n "$work/$1" | head -n 1 | cut -d' ' -f1; }
peak() { cut -d' ' -f2 "$work/$1" | sort -n | tail -n 1; }
bytes() { stat -c %s "$1" 2>/dev/null || du -sb "$1" | cut -f1; }
row() {
    awk -v row="$1" -v a="$(best ours)" -v b="$(best theirs)" -v m="$(peak ours)" -v n="$(peak theirs)" -v s="$2" -v t="$3" \
        'BEGIN {
            size = "-"
            if (s) size = sprintf("%.3f", s / t)
            printf("%-26s %8.2f %8.2f %8.2f %8s %8.0f %8.0f\n", row, a, b, a / b, size, m / 1024, n / 1024)
        }'
    rm -f "$work/ours" "$work/theirs"
}

printf '%-26s %8s %8s %8s %8s %8s %8s\n' "(best of $ROUNDS, seconds)" ours theirs wall size MiB MiB
for image in one eight; do
    tree=$work/tree-$image
    "$OURS" export -s "$store" "$image" "$tree/" >"$work/log" 2>&1
    for compress in zstd:1 zstd:3 gzip:1 gzip:6 lz4; do
        level=${compress#*:}
        options="-comp ${compress%:*} -b 128K"
        [ "$level" = "$compress" ] || options="$options -Xcompression-level $level"
        for _ in $(seq "$ROUNDS"); do
            timed ours "$OURS" export -s "$store" --overwrite --compress "$compress" "$image" "$work/ours.sqfs"
            # shellcheck disable=SC2086
            synced theirs "$work/theirs.sqfs" \
                mksquashfs "$tree" "$work/theirs.sqfs" $options -noappend -all-root -quiet -no-progress
        done
        row "$image: export $compress" "$(bytes "$work/ours.sqfs")" "$(bytes "$work/theirs.sqfs")"
        for _ in $(seq "$ROUNDS"); do
            rm -rf "$work/store-import" "$work/unpacked"
            timed ours "$OURS" import -s "$work/store-import" "$work/theirs.sqfs" x
            synced theirs "$work" unsquashfs -q -n -d "$work/unpacked" "$work/theirs.sqfs"
        done
        row "$image: import $compress" 0 1
    done
    if have pigz; then
        for _ in $(seq "$ROUNDS"); do
            timed ours "$OURS" export -s "$store" --overwrite "$image" "$work/ours.tar.gz"
            synced theirs "$work/theirs.tar.gz" sh -c 'tar -C "$0" --owner=0 --group=0 -cf - . | pigz >"$1"' "$tree" "$work/theirs.tar.gz"
        done
        row "$image: export tar.gz" "$(bytes "$work/ours.tar.gz")" "$(bytes "$work/theirs.tar.gz")"
    fi
    "$OURS" export -s "$store" --overwrite "$image" "$work/all.sqfs" >"$work/log" 2>&1
    taskset -c 0 "$OURS" export -s "$store" --overwrite "$image" "$work/alone.sqfs" >"$work/log" 2>&1
    "$OURS" export -s "$store" --overwrite "$image" "$other/x.sqfs" >"$work/log" 2>&1
    if cmp "$work/all.sqfs" "$work/alone.sqfs" && cmp "$work/all.sqfs" "$other/x.sqfs"; then
        echo "$image: the same bytes with one processor, and on $(stat -f -c %T "$work") and $(stat -f -c %T "$other")"
    fi
done
rm -rf "$work"
