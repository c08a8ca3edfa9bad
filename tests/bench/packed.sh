#!/bin/bash
# packed.sh (part of make bench): what it costs to run a packed image.
#
# Rows: start; a walk over all names, cold and again; reading all files, cold and again; a file of SIZE MiB, cold; 64
# processes that each list and read a part, cold. "Cold" is the first look through a new mount: the image file itself is
# in memory. Columns: ch-run with the file, with a directory, with what squashfuse_ll mounts, and (as root) with what the
# kernel mounts. They take turns within each round; figures are medians in milliseconds, and ratios to the first.
# Wants a Debian image as a tarball (CH_TEST_DEBIAN_TARBALL). Settings: ROUNDS (3), SIZE (1024), COMPRESS (zstd).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
ROUNDS=${ROUNDS:-3}
SIZE=${SIZE:-1024}
COMPRESS=${COMPRESS:-zstd}
work=${BENCH_DIR:-${CARGO_TARGET_DIR:-$top/target}/bench}/packed
OURS=${CH_IMAGE:-$top/ch-image}
RUN=${CH_RUN:-$(dirname "$OURS")/ch-run}
if [ -z "${CH_TEST_DEBIAN_TARBALL:-}" ]; then
    echo "packed.sh: no rows for packed images: CH_TEST_DEBIAN_TARBALL names no Debian image" >&2
    exit 0
fi
ways="packed directory"
if command -v squashfuse_ll >/dev/null && command -v fusermount3 >/dev/null; then ways="$ways squashfuse_ll"; fi
if [ "$(id -u)" = 0 ]; then ways="$ways kernel"; fi

mkdir -p "$work/at"
export CH_IMAGE_STORAGE=$work/storage
[ ! -e "$work/storage" ] || "$OURS" reset >/dev/null 2>&1
trap '"$OURS" reset >/dev/null 2>&1' EXIT
rm -f "$work"/*.times
"$OURS" import "$CH_TEST_DEBIAN_TARBALL" debian >"$work/log" 2>&1
# Half of the large file can be compressed.
"$OURS" build -t image - >"$work/log" 2>&1 <<END
FROM debian
RUN for i in \$(seq $((SIZE / 2))); do head -c 1M /dev/urandom; head -c 512K /dev/zero; yes "\$i" | head -c 512K; done >/large
END
"$OURS" export --overwrite --compress "$COMPRESS" image "$work/image.sqfs" >"$work/log" 2>&1
"$OURS" export --overwrite --format dir image "$work/image" >"$work/log" 2>&1

# measure NAME SCRIPT...: scripts run one after the other in one container; each prints its milliseconds under NAME.
clock='ms() { s=$(date +%s%N); sh -c "$2" >/dev/null 2>&1; e=$(date +%s%N); echo "$1 $(((e - s) / 1000000))"; }'
in_image() {
    local way=$1 script=$2 image=$work/at
    case $way in
    packed) image=$work/image.sqfs ;;
    directory) image=$work/image ;;
    squashfuse_ll) squashfuse_ll "$work/image.sqfs" "$work/at" ;;
    kernel) mount -t squashfs -o loop,ro,nosuid,nodev "$work/image.sqfs" "$work/at" ;;
    esac
    "$RUN" --no-home "$image" -- sh -c "$clock; $script"
    case $way in
    squashfuse_ll) fusermount3 -u "$work/at" ;;
    kernel) umount "$work/at" ;;
    esac
}
walk='find / -xdev -size +1 -printf x'
read='find /bin/ /etc /lib/ /usr -xdev -type f -exec cat {} +'
many='for i in $(seq 64); do { ls -lR /usr/share /etc; cat /usr/bin/*[a-m]; } & done; wait'
for round in $(seq "$ROUNDS"); do
    for way in $ways; do
        {
            in_image "$way" "ms walk '$walk'; ms walk-again '$walk'; ms read '$read'; ms read-again '$read'"
            in_image "$way" "ms large 'cat /large'"
            in_image "$way" "ms many '$many'"
            case $way in packed) image=$work/image.sqfs ;; *) image=$work/image ;; esac
            begin=$(date +%s%N)
            for _ in 1 2 3 4 5 6 7 8 9 10; do "$RUN" --no-home "$image" -- /bin/true; done
            case $way in packed | directory) echo "start $((($(date +%s%N) - begin) / 10000000))" ;; esac
        } | while read -r row time; do echo "$time" >>"$work/$row-$way.times"; done
    done
done

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
printf '\npacked images (%s): medians of %s rounds in milliseconds (and ratio to packed)\n%-12s' "$COMPRESS" "$ROUNDS" row
printf '%18s' $ways
echo
for row in start walk walk-again read read-again large many; do
    printf '%-12s' $row
    ours=$(median "$work/$row-packed.times")
    for way in $ways; do
        if [ -s "$work/$row-$way.times" ]; then
            awk -v t="$(median "$work/$row-$way.times")" -v o="$ours" 'BEGIN { printf "%10d (%5.2f)", t, o ? t / o : 0 }'
        else
            printf '%18s' -
        fi
    done
    echo
done
