#!/bin/sh
# smoke.sh DIR: does everything work here, on this kernel, in this file system? As an ordinary user, with busybox alone.
#
# For tests/tools/kernels.sh, which runs it in virtual machines, and for tests/it/old_kernels.rs, which refuses it system
# calls. DIR is where storage is to be; it must not exist. ch-image and ch-run are found in $PATH. A line for each check,
# "ok NAME" or "FAILED NAME" and below it what was said; at the end how many there were. $BASE is a directory with a base
# image (made of $BUSYBOX, a static one, if it is not set), $ONLY the name of the only check to run; $NO_NOTIFY says that
# --force=notify can't be had, $NO_OVERLAY that users can't mount overlayfs at all.
#
# Each check is a list of commands that all succeed. It is written for any POSIX shell: what is looked at is in shell functions.
set -u
dir=$1
mkdir -p "$dir/home" "$dir/context" || exit 2
cd "$dir" || exit 2
dir=$(pwd)
export HOME="$dir/home" CH_IMAGE_STORAGE="$dir/storage"
unset SLURM_JOB_ID SLURM_STEP_ID TMPDIR
passed=0
failed=0

# check NAME: the commands on standard input, in a shell of their own in DIR, whose errors end it.
check() {
    { echo "$functions"; cat; } >"$dir/script"
    [ -z "${ONLY:-}" ] || [ "$ONLY" = "$1" ] || return 0
    if timeout 120 sh -eu "$dir/script" </dev/null >"$dir/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok $1"
    else
        failed=$((failed + 1))
        echo "FAILED $1"
        sed 's/^/    /' "$dir/log"
    fi
}

functions='
fail() { echo "fail: $*"; exit 1; }
same() { [ "$1" = "$2" ] || fail "got <$1>, not <$2>"; }
build() { tag=$1; shift; ch-image build -t "$tag" "$@" -f - context; }
# What a build says about its steps: * of those that come from the cache.
steps() { grep -o "^ *[0-9][0-9]*[*. ]" | tr -d " .\n"; }
has() { grep -q -e "$1" "$2" || { cat "$2"; fail "no $1"; }; }
refused() { if "$@"; then fail "should have failed: $*"; fi; }
# What needs overlayfs, and where that cannot be had says so.
overlay() {
    if [ -z "${NO_OVERLAY:-}" ]; then "$@"; return; fi
    refused "$@" 2>err
    cat err
    has "overlayfs in a user namespace needs Linux 5.11" err
}
in_base() { ch-run base -- "$@"; }
# Names, modes, links and contents of what images have in common.
tree() { ch-run "$@" -- sh -c "cd /tree && find . | sort | while read -r f; do stat -c \"%n %a %F %N\" \"\$f\"; done; find . -type f | sort | while read -r f; do cat \"\$f\"; done" ; }
is_plain() { [ "${CH_IMAGE_TEST_MODE:-}" = plain ] || ! ch-image doctor | grep -q "overlayfs: works"; }
'

if [ -z "${BASE:-}" ]; then
    BASE=$dir/base
    for d in bin dev etc home proc root sys usr/bin var/tmp tmp lower/deep; do mkdir -p "$BASE/$d"; done
    cp "${BUSYBOX:-$(command -v busybox)}" "$BASE/bin/busybox"
    for applet in $("$BASE/bin/busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$BASE/bin/$applet"; done
    printf 'root:x:0:0:root:/root:/bin/sh\nbob:x:7:8::/home:/bin/sh\n' >"$BASE/etc/passwd"
    printf 'root:x:0:\nbob:x:8:\n' >"$BASE/etc/group"
    echo one >"$BASE/lower/one"
    echo two >"$BASE/lower/deep/two"
fi
export BASE

check "version" <<'END'
same "$(ch-image --version)" "$(ch-run --version)"
END
check "doctor" <<'END'
ch-image doctor
ch-image doctor --json | grep -q '"findings"\|{'
END
check "storage-path" <<'END'
same "$(ch-image storage-path)" "$CH_IMAGE_STORAGE"
END
check "import of a directory" <<'END'
ch-image import "$BASE" base
same "$(ch-image list | cut -d: -f1)" base
END
check "import of a tarball" <<'END'
tar -C "$BASE" -cf base.tar .
ch-image import base.tar tarred
same "$(ch-run tarred -- cat /lower/deep/two)" two
END
check "import of a compressed tarball" <<'END'
gzip -c base.tar >base.tar.gz
ch-image import base.tar.gz zipped
same "$(ch-run zipped -- cat /lower/one)" one
END
check "list" <<'END'
ch-image list base >out
ch-image list -l >out
has base out
ch-image list --json >out
END
check "delete" <<'END'
ch-image delete zipped
refused ch-image delete zipped
refused ch-run zipped -- true
END

# Building.
check "build" <<'END'
echo from the context >context/file
mkdir -p context/sub/deep
echo deep >context/sub/deep/file
build first <<EOF
FROM base
ENV A=b
WORKDIR /work
RUN echo "\$A" >made && mkdir /made
COPY file /copied
COPY sub /sub
EOF
same "$(ch-run first -- sh -c 'cat /work/made /copied /sub/deep/file; pwd')" "b
from the context
deep
/work"
END
check "cached rebuild" <<'END'
cat >recipe <<EOF
FROM base
RUN echo 1 >/one
RUN echo 2 >/two
COPY file /three
RUN cat /one /two /three >/all
EOF
build cached <recipe
build cached <recipe >out 2>&1
cat out
same "$(ch-run cached -- cat /all)" "1
2
from the context"
is_plain || same "$(grep -c '^ *[0-9]*\*' out)" 4
END
check "an edit in the middle" <<'END'
sed 's/echo 2/echo changed/' recipe >edited
build cached <edited >out 2>&1
cat out
is_plain || same "$(grep -c '^ *[0-9]*\*' out)" 1
same "$(ch-run cached -- cat /all)" "1
changed
from the context"
build cached <recipe >out 2>&1
same "$(ch-run cached -- cat /two)" 2
END
check "a changed file of the context" <<'END'
echo another >context/file
build cached <recipe
same "$(ch-run cached -- cat /three)" another
END
check "files of lower layers are removed" <<'END'
build rm <<EOF
FROM base
RUN rm /lower/one && test ! -e /lower/one
RUN test ! -e /lower/one && ls /lower
EOF
same "$(ch-run rm -- ls /lower)" deep
END
check "directories of lower layers are removed" <<'END'
build rmdir <<EOF
FROM base
RUN rm -r /lower
RUN test ! -e /lower
EOF
refused ch-run rmdir -- test -e /lower
END
check "directories of lower layers are made again" <<'END'
build again <<EOF
FROM base
RUN rm -r /lower && mkdir /lower && echo new >/lower/three
RUN test ! -e /lower/deep && test ! -e /lower/one
EOF
same "$(ch-run again -- ls /lower)" three
END
check "directories of lower layers are renamed" <<'END'
build mv <<EOF
FROM base
RUN mv /lower /upper
RUN cat /upper/deep/two
EOF
same "$(ch-run mv -- sh -c 'cat /upper/deep/two; ls -d /lower /upper 2>/dev/null')" "two
/upper"
END
check "modes, links and times" <<'END'
build odd <<EOF
FROM base
RUN mkdir /tree && cd /tree && echo x >file && chmod 640 file && ln file hard && ln -s file soft && ln -s /nowhere dangling && \
    mkdir -m 1777 sticky && touch -d 2001-02-03 old && : >empty && echo "a b" >"a name" && chmod 600 hard && echo more >>soft
EOF
same "$(ch-run odd -- sh -c 'cd /tree; stat -c "%a %h %s" file hard; readlink soft; date -r old +%Y; cat soft')" "600 2 7
600 2 7
file
2001
x
more"
END
check "several stages" <<'END'
build stages <<EOF
FROM base AS one
RUN mkdir /out && echo made >/out/it && ln -s it /out/link
FROM base
COPY --from=one /out /in
RUN --mount=type=bind,from=one,source=/out,target=/mnt cat /mnt/it >/copy
EOF
same "$(ch-run stages -- sh -c 'cat /in/link /copy')" "made
made"
END
check "stages at the same time" <<'END'
build jobs --jobs 3 <<EOF
FROM base AS a
RUN echo a >/a
FROM base AS b
RUN echo b >/b
FROM base
COPY --from=a /a /
COPY --from=b /b /
EOF
same "$(ch-run jobs -- cat /a /b)" "a
b"
END
check "ADD of an archive" <<'END'
tar -cf context/x.tar -C context sub
build add <<EOF
FROM base
ADD x.tar /here/
EOF
same "$(ch-run add -- cat /here/sub/deep/file)" deep
END
check "mounts of RUN" <<'END'
echo secret >token
build mounts --secret id=token,src=token <<EOF
FROM base
RUN --mount=type=cache,target=/cache echo kept >/cache/file
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch --mount=type=secret,id=token \
    cp /cache/file /file && : >/scratch/x && cat /run/secrets/token >/token.sum
RUN test ! -e /run/secrets/token && test ! -e /scratch/x
EOF
same "$(ch-run mounts -- cat /file /token.sum)" "kept
secret"
END
check "heredocs, ARG, SHELL" <<'END'
build here --build-arg V=7 <<EOF
FROM base
ARG V=1
SHELL ["/bin/sh", "-ec"]
RUN <<X
echo \$V >/v
X
COPY <<Y /y
text
Y
EOF
same "$(ch-run here -- cat /v /y)" "7
text"
END
check "a command that fails" <<'END'
refused build bad 2>out <<EOF
FROM base
RUN exit 7
EOF
has 7 out
refused ch-run bad -- true
END
check "bad Dockerfiles" <<'END'
echo "FORM base" | refused build bad 2>out
has FORM out
END
check "dry run and reasons" <<'END'
build cached --dry-run <recipe
build cached --why <recipe
END
check "RUN is isolated" <<'END'
build isolated <<EOF
FROM base
RUN id -u >/id && ls /proc/1/ >/dev/null && ps | wc -l >/count && ls /dev >/devices && test -c /dev/null && echo x >/dev/null
RUN test ! -e $HOME
EOF
same "$(ch-run isolated -- cat /id)" 0
END

# Root emulation.
check "chown without emulation" <<'END'
refused build none --force=none 2>out <<EOF
FROM base
RUN touch /x && chown 7:8 /x
EOF
has hown out
END
check "--force=seccomp" <<'END'
build seccomp --force=seccomp <<EOF
FROM base
RUN touch /x && chown 7:8 /x && mkdir /s && chown -R bob:bob /s && mknod /d c 1 3
EOF
ch-run seccomp -- test -e /x
END
check "--force=notify" <<'END'
if [ -n "${NO_NOTIFY:-}" ]; then
    build notify --force=notify >out 2>&1 <<EOF
FROM base
RUN touch /x && chown 7:8 /x
EOF
    cat out
    has "warning: .*this kernel can't notify of system calls" out
    exit 0
fi
build notify --force=notify <<EOF
FROM base
RUN touch /x && chown 7:8 /x && stat -c %u:%g /x >/owner && chown 0:0 /x
RUN mkdir /d && : >/d/file && chown bob /d/file && mknod /null c 1 3
RUN stat -c %u:%g /d/file >>/owner && chmod 4755 /x
EOF
same "$(ch-run notify -- cat /owner)" "7:8
7:0"
END
check "owners are kept by --force=notify" <<'END'
[ -z "${NO_NOTIFY:-}" ] || exit 0
build owners --force=notify <<EOF
FROM notify
COPY --from=notify /d /e
COPY --chown=7:8 file /f
RUN stat -c %u:%g /d/file /e/file /f >/owners
RUN mkdir -m 1777 /open
USER bob
RUN id -u >/open/id
EOF
same "$(ch-run owners -- cat /owners /open/id)" "7:0
7:0
7:8
7"
END

# Running.
check "exit codes" <<'END'
code=0; in_base sh -c 'exit 42' || code=$?
same "$code" 42
code=0; sh -c 'ch-run base -- sh -c "kill -9 \$\$"' || code=$?
same "$code" 137
refused in_base /no/such/program
END
check "the environment" <<'END'
export HOSTVAR=seen
same "$(in_base sh -c 'echo "$HOSTVAR"; cd && pwd | cut -c 1-6')" "seen
/home/"
same "$(ch-run --set-env=X=y --unset-env=HOST* base -- sh -c 'echo "$X"')" y
same "$(ch-run --set-env first -- sh -c 'echo "$A"')" b
END
check "users" <<'END'
same "$(in_base id -u)" "$(id -u)"
same "$(ch-run -u 0 -g 0 base -- id -u)" 0
same "$(ch-run -u 17 -g 18 base -- sh -c 'id -u; id -g')" "17
18"
END
check "home and temporary files" <<'END'
echo mine >"$HOME/mine"
same "$(in_base sh -c 'cat ~/mine')" mine
same "$(ch-run -t base -- ls -A /tmp)" ""
ch-run --no-home base -- true
END
check "binds" <<'END'
mkdir -p data
echo data >data/file
same "$(ch-run -b "$PWD/data:/mnt/0" base -- cat /mnt/0/file)" data
overlay ch-run -b "$PWD/data:/new/place" base -- cat /new/place/file >out
[ -n "${NO_OVERLAY:-}" ] || same "$(cat out)" data
ch-run -b "$PWD/data:/mnt/0" base -- sh -c 'echo more >/mnt/0/more'
same "$(cat data/more)" more
refused ch-run -b "$PWD/data:/mnt/0:ro" base -- sh -c 'echo more >/mnt/0/less' 2>/dev/null
test ! -e data/less
END
check "working directories" <<'END'
same "$(ch-run -c /usr base -- pwd)" /usr
same "$(ch-run first -- pwd)" /work
END
check "images are read-only" <<'END'
refused in_base touch /etc/x 2>/dev/null
END
check "ch-run -w" <<'END'
ch-run -w rm -- sh -c 'echo written >/etc/written'
same "$(ch-run rm -- cat /etc/written)" written
refused in_base test -e /etc/written
END
check "a directory as an image" <<'END'
same "$(ch-run "$BASE" -- cat /lower/one)" one
same "$(ch-run ./base -- cat /lower/one)" one || true
END
check "ch-run -W" <<'END'
overlay ch-run -W base -- sh -c 'echo x >/etc/x && cat /etc/x /lower/one'
refused in_base test -e /etc/x
overlay ch-run -W=16m "$BASE" -- sh -c 'echo x >/x && cat /x'
END
check "ch-run -W removes directories" <<'END'
code=0; ch-run -W base -- true 2>out || code=$?
# Before Linux 6.6 a tmpfs has no user attributes, and it says so.
if grep -q "extended attributes" out; then exit 0; fi
same "$code" 0
same "$(ch-run -W base -- sh -c 'rm -r /lower && mkdir /lower && ls /lower && mv /usr /opt && ls -d /opt')" /opt
END
check "ch-run --overlay" <<'END'
if ch-run --overlay over base -- sh -c 'echo kept >/etc/kept' 2>out; then
    same "$(ch-run --overlay over base -- cat /etc/kept)" kept
    refused in_base test -e /etc/kept
else
    cat out
    # Where the file system can't hold it, it says what is needed.
    has hint: out
fi
END

# Files.
for format in "sqfs" "sqfs --compress=gzip" "sqfs --compress=lz4" "sqfs --compress=none" "tar" "tar.gz"; do
    check "export and import: $format" <<END
set -- $format
suffix=\$1; shift
ch-image export --overwrite "\$@" odd "x.\$suffix"
ch-image import "x.\$suffix" back
same "\$(tree back)" "\$(tree odd)"
END
done
for format in docker-archive oci-archive oci; do
    check "export and import: $format" <<END
ch-image export odd "$format:x.$format"
ch-image import "x.$format" back
same "\$(tree back)" "\$(tree odd)"
END
done
check "export and import: directory" <<'END'
ch-image export odd out.dir/
ch-image import out.dir back
same "$(tree back)" "$(tree odd)"
same "$(tree ./out.dir)" "$(tree odd)"
END
check "ch-convert" <<'END'
command -v ch-convert >/dev/null || exit 0
ch-convert odd c.sqfs
ch-convert -o dir c.sqfs c.dir
same "$(tree ./c.dir)" "$(tree odd)"
END
check "a packed image is mounted" <<'END'
test -e x.sqfs || ch-image export odd x.sqfs
same "$(ch-run x.sqfs -- sh -c 'grep -c " / fuse" /proc/mounts')" 1
same "$(tree ./x.sqfs)" "$(tree odd)"
END
check "a packed image of each kind is read" <<'END'
for compress in gzip lz4 none zstd; do
    ch-image export --overwrite --compress=$compress odd y.sqfs
    same "$(tree ./y.sqfs)" "$(tree odd)"
done
END
check "a packed image is written to" <<'END'
overlay ch-run -W x.sqfs -- sh -c 'echo x >/etc/x && cat /etc/x'
refused ch-run x.sqfs -- touch /etc/x 2>/dev/null
END
check "a packed image is unpacked" <<'END'
export TMPDIR="$PWD/tmp"
mkdir -p tmp
same "$(ch-run --no-mount x.sqfs -- cat /tree/soft)" "x
more"
END
check "a packed image that is cut" <<'END'
head -c 20000 x.sqfs >cut.sqfs
refused ch-run cut.sqfs -- true 2>out
has truncated out
END
check "processes left behind keep a packed image" <<'END'
rm -f "$HOME/done" "$HOME/end"
ch-run x.sqfs -- sh -c 'cd; (until test -e end; do sleep 0.1; done; cat /tree/soft >.done; mv .done done) >/dev/null 2>&1 &'
: >"$HOME/end"
until test -e "$HOME/done"; do sleep 0.1; done
has more "$HOME/done"
END

# Several processes.
check "peers share a container" <<'END'
rm -f "$HOME"/ns.* "$HOME/end"
ns='readlink /proc/self/ns/mnt /proc/self/ns/user'
for n in 1 2; do
    ch-run --join --join-ct=2 --join-tag=smoke base -- sh -c "cd; $ns >.ns.$n; mv .ns.$n ns.$n; until test -e end; do sleep 0.1; done" &
done
until test -e "$HOME/ns.1" && test -e "$HOME/ns.2"; do sleep 0.1; done
same "$(cat "$HOME/ns.1")" "$(cat "$HOME/ns.2")"
: >"$HOME/end"
wait
END
check "a running container is entered" <<'END'
rm -f "$HOME"/pid "$HOME/end"
ch-run base -- sh -c 'cd; readlink /proc/self/ns/mnt >ns; echo begun >.pid; mv .pid pid; until test -e end; do sleep 0.1; done' &
until test -e "$HOME/pid"; do sleep 0.1; done
same "$(ch-run --join-pid=$! base -- readlink /proc/self/ns/mnt)" "$(cat "$HOME/ns")"
: >"$HOME/end"
wait
END
check "an image in use is not deleted" <<'END'
rm -f "$HOME"/pid "$HOME/end"
ch-run tarred -- sh -c 'cd; : >pid; until test -e end; do sleep 0.1; done; cat /lower/one >after' &
until test -e "$HOME/pid"; do sleep 0.1; done
ch-image delete tarred
: >"$HOME/end"
wait
# Without file locks (NFS) nobody sees that it was in use.
is_plain || same "$(cat "$HOME/after")" one
END
check "builds side by side" <<'END'
for n in 1 2 3; do
    printf 'FROM base\nRUN echo %s >/n\n' $n | ch-image build -t side$n - >log.$n 2>&1 &
done
wait
for n in 1 2 3; do same "$(ch-run side$n -- cat /n)" $n; done
END

# Interrupted, damaged, tidied up.
check "a build is killed and done again" <<'END'
cat >slow <<EOF
FROM base
RUN echo 1 >/kill-1
RUN echo 2 >/kill-2 && if test -e /ch/none; then :; fi && sleep 1000
EOF
sed 's/ && sleep 1000//' slow >fast
ch-image build -t killed -f slow context >out 2>&1 &
until grep -q sleep out && test "$(ch-image list -a >/dev/null; echo ok)" = ok; do sleep 0.1; done
kill -9 $!
wait || true
ch-image fsck
ch-image build -t killed -f fast context
same "$(ch-run killed -- cat /kill-1 /kill-2)" "1
2"
END
check "a signal ends a build" <<'END'
ch-image build -t interrupted -f slow context >out 2>&1 &
until grep -q sleep out; do sleep 0.1; done
kill -TERM $!
code=0
wait $! || code=$?
same "$code" 143
refused ch-run interrupted -- true
END
check "an import is killed and done again" <<'END'
ch-image import base.tar killed2 &
kill -9 $! || true
wait || true
ch-image import base.tar killed2
same "$(ch-run killed2 -- cat /lower/one)" one
ch-image fsck
END
check "fsck --deep" <<'END'
ch-image fsck --deep
END
check "fsck finds damage" <<'END'
find storage -type f -name one -path '*lower*' | head -n 1 >found
file=$(cat found)
cp "$file" saved
chmod u+w "$file"
echo damaged >"$file"
code=0; ch-image fsck --deep >out 2>&1 || code=$?
cp saved "$file"
cat out
test "$code" -ne 0 || is_plain
END
check "gc" <<'END'
ch-image gc -n
ch-image gc
same "$(ch-run cached -- cat /one)" 1
ch-image fsck
END
check "a full storage survives an odd umask" <<'END'
(umask 077; printf 'FROM base\nRUN echo x >/x && mkdir /y\n' | ch-image build -t umask -)
ch-run umask -- cat /x
END
check "reset" <<'END'
ch-image reset
same "$(ch-image list 2>/dev/null)" ""
END

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
