#!/bin/bash
# force.sh (part of make bench): what root emulation costs, in each mode.
#
# Rows: RUN of 10,000 chowns, and of a package installation without its download. Modes take turns within each round;
# figures are medians, and ratios to --force=seccomp. With none an installation fails, which is what the others are for.
# Wants a Debian image as a tarball (CH_TEST_DEBIAN_TARBALL), and the network for Debian's packages. Setting: ROUNDS (3).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
ROUNDS=${ROUNDS:-3}
work=${BENCH_DIR:-${CARGO_TARGET_DIR:-$top/target}/bench}/force
OURS=${CH_IMAGE:-$top/ch-image}
PACKAGES="openssh-client dbus"
if [ -z "${CH_TEST_DEBIAN_TARBALL:-}" ]; then
    echo "force.sh: no rows for root emulation: CH_TEST_DEBIAN_TARBALL names no Debian image" >&2
    exit 0
fi
mkdir -p "$work"
export CH_IMAGE_STORAGE=$work/storage
[ ! -e "$work/storage" ] || "$OURS" reset >/dev/null 2>&1
trap '"$OURS" reset >/dev/null 2>&1' EXIT
rm -f "$work"/*.times

# build NAME OPTION...: the Dockerfile comes on standard input.
build() {
    local name=$1; shift
    "$OURS" build -t "$name" "$@" -f - - >"$work/log" 2>&1
}
"$OURS" import "$CH_TEST_DEBIAN_TARBALL" debian >"$work/log" 2>&1
build files --force=seccomp <<END
FROM debian
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get -qq update && apt-get -qq install -y fakeroot && apt-get -qq install -dy --no-install-recommends $PACKAGES
RUN mkdir /files && cd /files && seq 10000 | xargs touch
END
# The word "dpkg" is what fakeroot is put before.
chowns="FROM files
RUN chown -R 1:1 /files 2>/dev/null || : dpkg"
install="FROM files
RUN apt-get -qq install -y --no-install-recommends --no-download $PACKAGES"

for round in $(seq "$ROUNDS"); do
    for row in chowns install; do
        for mode in none fakeroot seccomp notify; do
            begin=$(date +%s%N)
            if build "$row" "--force=$mode" --rebuild <<<"${!row}"; then
                echo $((($(date +%s%N) - begin) / 1000)) >>"$work/$row-$mode.times"
            fi
        done
    done
done

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
printf '\nroot emulation: medians of %s rounds in milliseconds (and ratio to seccomp)\n%-18s' "$ROUNDS" row
printf '%20s' none fakeroot seccomp notify
echo
for row in chowns install; do
    printf '%-18s' $row
    for mode in none fakeroot seccomp notify; do
        if [ -s "$work/$row-$mode.times" ]; then
            awk -v m="$(median "$work/$row-$mode.times")" -v s="$(median "$work/$row-seccomp.times")" \
                'BEGIN { printf "%12.1f (%5.2f)", m / 1000, m / s }'
        else
            printf '%20s' -
        fi
    done
    echo
done
