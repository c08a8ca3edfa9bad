#!/bin/bash
# power-cut.sh CH_IMAGE [ROUNDS]: cuts the power of a storage directory while images are made in it, and looks what is left. Root only.
#
# The directory lies on an ext4 in a file; EXT4_IOC_SHUTDOWN without a flush of the log is what the disk sees of a power cut.
# After each cut and a new mount: no image that was finished before is lost or damaged, fsck --deep finds nothing wrong
# with what is listed, and the command that was cut runs to its end.
set -euo pipefail
program=$(realpath "$1")
ROUNDS=${2:-8}
[ "$(id -u)" = 0 ] || { echo "power-cut.sh: wants root, to mount" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d /var/tmp/ch-power-XXXXXX)
export CH_IMAGE_STORAGE=$work/disk/storage
finish() {
    ! mountpoint -q "$work/disk" || umount "$work/disk"
    rm -rf --one-file-system "$work"
}
trap finish EXIT
mkdir "$work/disk" "$work/context"
truncate -s 1G "$work/image"
mkfs.ext4 -q "$work/image"
mount -o loop "$work/image" "$work/disk"
"$here/base.sh" "$work/base"
"$program" import "$work/base" kept 2>"$work/log"
cat >"$work/context/Dockerfile" <<'END'
FROM kept
ARG ROUND
RUN for i in 1 2 3 4 5 6 7 8 9; do echo $ROUND $i >/file$i; done
RUN echo $ROUND >/round
END

# pull the plug: _IOR('X', 125, __u32) with EXT4_GOING_FLAGS_NOLOGFLUSH
cut_power() { perl -e 'open(my $d, "<", $ARGV[0]) or die; my $flag = pack("L", 2); ioctl($d, 0x8004587d, $flag) or die "$!\n"' "$work/disk"; }

for round in $(seq "$ROUNDS"); do
    "$program" build -t "built$round" --build-arg "ROUND=$round" "$work/context" >"$work/log" 2>&1
    (
        "$program" import "$work/base" "imported$round"
        "$program" build -t "cut$round" --build-arg "ROUND=cut$round" "$work/context"
    ) >"$work/log.cut" 2>&1 &
    running=$!
    sleep "0.$((RANDOM % 40 + 10))"
    cut_power
    wait "$running" || true
    umount "$work/disk"
    mount -o loop "$work/image" "$work/disk"
    for name in kept "built$round"; do
        "$program" list | grep -q "^$name:latest " || { echo "power-cut.sh: round $round: $name is lost" >&2; exit 1; }
    done
    "$program" fsck --deep 2>&1 | tee "$work/log" | grep -q '^no damage found' ||
        { echo "power-cut.sh: round $round:" >&2; cat "$work/log" >&2; exit 1; }
    "$program" build -t "cut$round" --build-arg "ROUND=cut$round" "$work/context" >"$work/log" 2>&1 ||
        { echo "power-cut.sh: round $round: the build that was cut does not go on:" >&2; cat "$work/log" >&2; exit 1; }
done
echo "power was cut $ROUNDS times; nothing that was finished is lost"
