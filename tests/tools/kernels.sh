#!/bin/bash
# kernels.sh [RUN...]: does the program work on other kernels, file systems, and on aarch64? As an ordinary user.
#
# A RUN is ARCH:KERNEL:FS[,FS...], such as amd64:6.1:tmpfs,ext4,xfs,nfs. For each, Debian's kernel boots in QEMU with the
# static binary, and tests/tools/smoke.sh runs in each file system (nfs: NFS 4.2, served in the machine
# itself; slow, so only where it is asked for). Emulated
# in software where there is no KVM, so it takes minutes. Ends with one line for each file system, and 1 if a check failed.
#
# Wants qemu-system-x86, qemu-system-arm, busybox-static, xfsprogs, e2fsprogs. Kernels come by apt-get download from
# $MIRROR (http://deb.debian.org/debian) and are kept in $KERNELS (target/kernels); what can't be had is told.
# Binaries: $CH_IMAGE_AMD64 (./ch-image), $CH_IMAGE_ARM64 (of make dist). $JOBS machines run at a time (2), each for
# $LIMIT seconds at most.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
cd "$(dirname "$0")/../.."
top=$(pwd)
KERNELS=${KERNELS:-${CARGO_TARGET_DIR:-$top/target}/kernels}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
CH_IMAGE_AMD64=${CH_IMAGE_AMD64:-$top/ch-image}
CH_IMAGE_ARM64=${CH_IMAGE_ARM64:-}
JOBS=${JOBS:-2}
LIMIT=${LIMIT:-540}
# What it is that makes a difference: 5.10 has no overlayfs for users, 6.1 no user attributes on tmpfs, 6.12 has both.
[ $# -gt 0 ] || set -- amd64:6.1:tmpfs,xfs amd64:5.10:ext4 amd64:6.12:tmpfs arm64:6.1:ext4

say() { echo "kernels.sh: $*" >&2; }
declare -A SUITE=([5.10]=bullseye [6.1]=bookworm [6.12]=trixie)
MODULES="virtio_pci virtio_blk crc32c_generic libcrc32c fuse overlay xfs nfsd nfsv4 loop"

# apt ARCH SUITE COMMAND...: apt-get or apt-cache with that suite alone, which the machine itself need not have.
apt() {
    local arch=$1 suite=$2 state=$KERNELS/apt-$1-$2 command=$3
    shift 3
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $MIRROR $suite main" >"$state/sources.list"
    printf 'APT::Architecture "%s";\nAPT::Architectures {"%s";};\nAcquire::Languages "none";\n' "$arch" "$arch" >"$state/apt.conf"
    APT_CONFIG=$state/apt.conf "$command" -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$state/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$state/cache" "$@"
}

# kernel ARCH VERSION: prints the directory with the kernel's files; downloads it if it is not there.
kernel() {
    local arch=$1 version=$2 dir=$KERNELS/$1-$2 suite=${SUITE[$2]:-} package
    if ! [ -e "$dir/done" ]; then
        [ -n "$suite" ] || { say "no suite of Debian has Linux $version"; return 1; }
        rm -rf "$dir" && mkdir -p "$dir/debs"
        apt "$arch" "$suite" apt-get -qq update >&2 || return 1
        package=$(apt "$arch" "$suite" apt-cache depends "linux-image-cloud-$arch" | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1)
        [ -n "$package" ] || { say "$suite has no kernel for $arch"; return 1; }
        (cd "$dir/debs" && apt "$arch" "$suite" apt-get -qq download "$package" busybox-static) >&2 || return 1
        for deb in "$dir"/debs/*.deb; do dpkg-deb -x "$deb" "$dir"; done
        rm -r "$dir/debs" && : >"$dir/done"
    fi
    echo "$dir"
}

# module DIR NAME: the file of a module; nothing if it is a part of the kernel.
module() { find "$1" -regex ".*/$(echo "$2" | sed 's/[-_]/[-_]/g')\.ko\(\.xz\)?" | head -n 1; }

# add_module DIR NAME OUT: puts the module and what it needs into OUT, and into OUT/order in the order of loading.
add_module() {
    local file needs name
    file=$(module "$1" "$2")
    [ -n "$file" ] && ! [ -e "$3/$2.ko" ] || return 0
    case $file in
    *.xz) xz -dc "$file" >"$3/$2.ko" ;;
    *) cp "$file" "$3/$2.ko" ;;
    esac
    needs=$(tr '\0' '\n' <"$3/$2.ko" | sed -n 's/^depends=//p' | head -n 1)
    for name in ${needs//,/ }; do add_module "$1" "$name" "$3"; done
    echo "$2" >>"$3/order"
}

# initramfs ARCH KERNEL-DIR OUT: what the machine boots into.
initramfs() {
    local arch=$1 kernel=$2 root=$3 binary=$CH_IMAGE_AMD64 name applet
    [ "$arch" = amd64 ] || binary=$CH_IMAGE_ARM64
    mkdir -p "$root/bin" "$root/etc" "$root/modules" "$root/base"
    cp "$kernel/bin/busybox" "$root/bin/busybox" 2>/dev/null || cp "$kernel/usr/bin/busybox" "$root/bin/busybox"
    cp "$binary" "$root/bin/ch-image"
    for name in ch-run ch-convert; do ln -s ch-image "$root/bin/$name"; done
    # The applets that this machine's busybox has: that of the other architecture can't be asked.
    for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"; done
    printf 'root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' >"$root/etc/group"
    cp tests/tools/smoke.sh tests/tools/kernels-init.sh "$root/"
    ln -s kernels-init.sh "$root/init"
    for name in $MODULES; do add_module "$kernel" "$name" "$root/modules"; done
}

# boot ARCH VERSION FS,...: runs the machine; its output is $work/NAME.log.
boot() {
    local arch=$1 version=$2 systems=$3 name=$1-$2 kernel machine image
    kernel=$KERNELS/$name
    rm -rf "$work/$name" && mkdir -p "$work/$name"
    initramfs "$arch" "$kernel" "$work/$name/root"
    (cd "$work/$name/root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$work/$name/initrd")
    truncate -s 2G "$work/$name/ext4" "$work/$name/xfs"
    mke2fs -q -t ext4 -E lazy_itable_init=1,nodiscard "$work/$name/ext4"
    mkfs.xfs -q "$work/$name/xfs"
    image=$(echo "$kernel"/boot/vmlinuz-*)
    case $arch in
    amd64) machine="qemu-system-x86_64 -machine q35 -cpu max" console=ttyS0 ;;
    arm64) machine="qemu-system-aarch64 -machine virt -cpu cortex-a72" console=ttyAMA0 ;;
    esac
    # shellcheck disable=SC2086
    timeout "$LIMIT" $machine -accel kvm -accel tcg -m 1536 -smp 2 -nodefaults -display none -no-reboot -serial stdio \
        -kernel "$image" -initrd "$work/$name/initrd" \
        -append "console=$console quiet panic=-1 smoke=$systems" \
        -drive if=none,id=a,format=raw,cache=unsafe,file="$work/$name/ext4" -device virtio-blk-pci,drive=a \
        -drive if=none,id=b,format=raw,cache=unsafe,file="$work/$name/xfs" -device virtio-blk-pci,drive=b \
        </dev/null 2>&1 | tr -d '\r' >"$work/$name.log" || true
    rm -rf "${work:?}/$name"
}

[ -x "$CH_IMAGE_AMD64" ] || { say "no $CH_IMAGE_AMD64: make builds it"; exit 1; }
work=$KERNELS/work
mkdir -p "$work"
rm -f "$work"/*.log
status=0
runs=
for run in "$@"; do
    IFS=: read -r arch version systems <<<"$run"
    if [ "$arch" = arm64 ] && ! [ -x "$CH_IMAGE_ARM64" ]; then
        say "not run: $run: no binary for aarch64 (make dist makes it; CH_IMAGE_ARM64 names it)"
    elif kernel "$arch" "$version" >/dev/null; then
        runs="$runs $run"
    else
        say "not run: $run: the kernel can't be had"
    fi
done
[ -n "$runs" ] || { say "nothing can be run"; exit 1; }
for run in $runs; do
    IFS=: read -r arch version systems <<<"$run"
    while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n || true; done
    boot "$arch" "$version" "$systems" &
done
wait

for run in $runs; do
    IFS=: read -r arch version systems <<<"$run"
    log=$work/$arch-$version.log
    for system in ${systems//,/ }; do
        of_system=$(sed -n "/^### $system\$/,/^### end of $system /p" "$log")
        result=$(sed -n 's/^\([0-9]* passed, [0-9]* failed\)$/\1/p' <<<"$of_system")
        seconds=$(sed -n "s/^### end of $system after \([0-9]*\) s\$/\1/p" <<<"$of_system")
        printf '%s, Linux %s, %s: %s in %s s\n' "$arch" "$version" "$system" "${result:-did not come to its end}" "${seconds:-?}"
        case $result in
        *" 0 failed") ;;
        *)
            status=1
            if [ -n "$of_system" ]; then grep -v '^ok ' <<<"$of_system" || true; else tail -n 40 "$log"; fi
            ;;
        esac
    done
done
exit $status
