#!/bin/busybox sh
# kernels-init.sh: process 1 of the machines that tests/tools/kernels.sh boots. Runs the smoke suite in each file system
# that the kernel's command line names, as an ordinary user, and switches the machine off.
export PATH=/bin
if [ ! -e /stage-2 ]; then
    mkdir -p /proc /sys /dev /new
    mount -t proc proc /proc
    mount -t devtmpfs dev /dev
    for module in $(cat /modules/order); do insmod "/modules/$module.ko" || echo "no module $module"; done
    # In the root that the kernel begins with, no user namespace can be made.
    mount -t tmpfs -o mode=755 root /new
    cp -a /bin /etc /smoke.sh /kernels-init.sh /new/
    mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/var/tmp /new/home/user /new/work
    : >/new/stage-2
    chmod 1777 /new/tmp /new/var/tmp
    chown 1000:1000 /new/home/user
    umount /proc
    mount --move /dev /new/dev
    exec switch_root /new /kernels-init.sh
fi
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t devpts pts /dev/pts
[ -e /dev/fuse ] || mknod /dev/fuse c 10 229
chmod 666 /dev/fuse /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx
ifconfig lo 127.0.0.1 up
hostname machine
uname -a
case $(uname -r) in 5.10.*) export NO_OVERLAY=1 ;; esac

# NFS 4.2 of an ext4 file system, without user space: what exports(5) would say is written to the kernel's caches.
nfs() {
    mkdir -p /export
    mount -t ext4 /dev/vda /export
    mkdir -p /export/user
    chown 1000:1000 /export/user
    mount -t nfsd nfsd /proc/fs/nfsd
    mkdir -p /var/lib/nfs/v4recovery
    echo "nfsd 127.0.0.1 2147483647 all" >/proc/net/rpc/auth.unix.ip/channel
    # rw, root_squash, async, fsid=0: flags of include/uapi/linux/nfsd/export.h.
    echo "all /export 2147483647 $((0x2014)) 65534 65534 0" >/proc/net/rpc/nfsd.export/channel
    echo 'all 1 \x00000000 2147483647 /export' >/proc/net/rpc/nfsd.fh/channel
    echo "-2 -3 +4 +4.1 +4.2" >/proc/fs/nfsd/versions
    echo "tcp 2049" >/proc/fs/nfsd/portlist
    echo 2 >/proc/fs/nfsd/threads
    echo Y >/proc/fs/nfsd/v4_end_grace
    mount -t nfs4 -o vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1 127.0.0.1:/ /work/nfs
    grep ' /work/nfs ' /proc/mounts && ls /work/nfs
}

for system in $(sed -n 's/.*smoke=\([^ ]*\).*/\1/p' /proc/cmdline | tr ',' ' '); do
    mkdir -p "/work/$system"
    echo "### $system"
    case $system in
    tmpfs) mount -t tmpfs -o size=600m none "/work/tmpfs" ;;
    ext4) mount -t ext4 /dev/vda "/work/ext4" ;;
    xfs) mount -t xfs /dev/vdb "/work/xfs" ;;
    nfs) nfs ;;
    esac
    place=/work/$system/user
    # Through NFS root is nobody.
    [ -d "$place" ] || { mkdir -p "$place" && chown 1000:1000 "$place"; }
    begin=$(cut -d. -f1 /proc/uptime)
    su user -c "cd / && BUSYBOX=/bin/busybox sh /smoke.sh $place/smoke"
    echo "### end of $system after $(($(cut -d. -f1 /proc/uptime) - begin)) s"
    umount "/work/$system" 2>/dev/null
    [ "$system" != nfs ] || { echo 0 >/proc/fs/nfsd/threads; umount /export; }
done
poweroff -f
