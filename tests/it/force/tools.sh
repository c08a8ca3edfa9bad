# What installation scripts do: users, owners, set-id bits, devices, capabilities, archives, other users' commands.
# Shows what it sees; ends at the first failure. Nodes that were made need not be there: not all emulation keeps them.
set -eu
look() { stat -c '%n %u:%g %a' "$@"; }
mkdir /work
cd /work

groupadd -g 2000 team
useradd -m -u 2001 -g team -s /bin/sh joe
look /home/joe
adduser --system --group --quiet --uid 300 --home /var/lib/service service
look /var/lib/service

mkdir -p dir/sub
echo text >dir/sub/file
ln -s /etc/passwd dir/sub/link
ln -s nowhere dir/dangling
chown -R joe:team dir
chown -h 7:8 dir/dangling
chown joe: dir/sub/link
look dir dir/sub dir/sub/file dir/sub/link dir/dangling /etc/passwd
chown 0:0 /etc/passwd

install -o joe -g team -m 4750 dir/sub/file installed
install -d -o joe -m 2775 directory
look installed directory
dpkg-statoverride --update --add joe team 6711 /work/dir/sub/file
look dir/sub/file

mkdir copy untarred
cp -a installed dir copy
rsync -aHAX installed dir synced/
tar --numeric-owner -cf all.tar installed dir
tar -xpf all.tar -C untarred
for place in copy synced untarred; do look $place/installed $place/dir/dangling $place/dir/sub/file; done
mv copy/installed moved
look moved

mknod null c 1 3
mknod disk b 8 1
mkfifo pipe
for node in null disk; do stat -c '%n %F %t:%T' $node 2>/dev/null || true; done

cp /bin/true capable
setcap cap_net_raw+ep capable
getcap capable
cp -a capable capable2
getcap capable2

# Permissions are real in each mode, by whichever call they are changed.
echo text >plain
chmod 755 plain
cp -p plain kept
sed -i s/text/other/ plain
for file in plain kept; do test "$(stat -c %a $file)" = 755; done

su joe -c 'id -u'
su - joe -c pwd
runuser -u joe -- id -g
setpriv --reuid=joe --regid=team --init-groups id -un
setpriv --reuid=5 --regid=6 --clear-groups id -G
sudo -n -u joe id -un
chroot --userspec=5:6 / id -u
echo joe:secret | chpasswd
usermod -aG daemon joe
id -G joe
echo done
