#!/bin/sh
# pages.sh PROGRAM SHARE: writes the manual pages and completions that PROGRAM has in it below SHARE (such as /usr/share),
# where man, bash-completion, zsh and fish look for them.
set -eu
program=$1
share=$2

# write PAGE FILE
write() {
    mkdir -p "$(dirname "$share/$2")"
    "$program" --generate "$1" >"$share/$2"
    chmod 644 "$share/$2"
}

write man man/man1/ch-image.1
write man:ch-run man/man1/ch-run.1
write man:ch-convert man/man1/ch-convert.1
write man:ch-image-dockerfile man/man5/ch-image-dockerfile.5
for name in ch-builder2tar ch-builder2squash ch-tar2dir ch-dir2squash; do
    printf '.so man1/ch-convert.1\n' >"$share/man/man1/$name.1"
done

# bash looks for a file of the command's name.
write bash bash-completion/completions/ch-image
for name in ch-run ch-convert ch-builder2tar ch-builder2squash ch-tar2dir ch-dir2squash; do
    ln -sf ch-image "$share/bash-completion/completions/$name"
done
write zsh zsh/site-functions/_ch-image
write fish fish/vendor_completions.d/ch-image.fish
for name in ch-run ch-convert ch-builder2tar ch-builder2squash ch-tar2dir ch-dir2squash; do
    ln -sf ch-image.fish "$share/fish/vendor_completions.d/$name.fish"
done
