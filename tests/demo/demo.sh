#!/bin/sh
# demo.sh (make demo): the main job from end to end, on whatever machine this is. No network, no registry, no root:
# the base image is this machine's own shell and a few tools, with the libraries that they are linked to.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
work=${CARGO_TARGET_DIR:-$top/target}/demo
PATH=$top:$PATH
export CH_IMAGE_STORAGE="$work/storage"

title() { printf '\n=== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@" 2>&1; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

if [ -e "$work" ]; then
    find "$work" -xdev -type d ! -perm -u=rwx -exec chmod u+rwx {} \;
    find "$work" -xdev -depth -delete
fi
mkdir -p "$work"

title "A base image of this machine's shell and tools"
base=$work/base
"$top/tests/tools/base.sh" "$base"
du -sh "$base" | sed 's/\t/ in /'
show ch-image import "$base" base

title "An image built on it"
show ch-image build -t demo -f "$here/Dockerfile" "$here"

title "What is there now"
show ch-image list

title "Run it"
show ch-run demo -- /bin/sh /opt/greet/greet.sh >"$work/said"
cat "$work/said"
grep -q '^Hello from a container' "$work/said" || die "the image doesn't say hello"

title "Build again: nothing changed, so nothing runs (* is a step that is there already)"
before=$(date +%s%N)
show ch-image build -t demo -f "$here/Dockerfile" "$here" >"$work/again"
took=$((($(date +%s%N) - before) / 1000000))
cat "$work/again"
echo "(that took $took ms)"
case $(cat "$work/storage/version") in
    *overlay*) ! grep -q '^Hello' "$work/again" || die "a step ran again" ;;
    *) echo "(this file system can't stack layers, so storage is plain and steps do run again)" ;;
esac

title "Done"
cat <<END
the program:      $top/ch-image (ch-run is a link to it)
the base image:   $base
storage:          $(ch-image storage-path)
the Dockerfile:   $here/Dockerfile

All that the demo made lies below $work; "rm -rf" removes it.
END
