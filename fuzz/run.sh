#!/bin/sh
# Runs a fuzz target: fuzz/run.sh TARGET [libFuzzer options]. Needs a nightly toolchain and cargo-fuzz.
#
# The program's vendored crates hold no fuzzing crates, and cargo reads .cargo/config.toml of every parent directory: so
# the targets are built in a directory elsewhere that links to the sources.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=${FUZZ_DIR:-/tmp/ch-image-fuzz}
target=$1
shift
mkdir -p "$work/fuzz"
cp -r "$root/fuzz/Cargo.toml" "$root/fuzz/fuzz_targets" "$work/fuzz/"
ln -sfn "$root/src" "$work/src"
printf '[package]\nname = "ch-image-fuzz-root"\nversion = "0.0.0"\n[lib]\npath = "/dev/null"\n[workspace]\n' > "$work/Cargo.toml"
cd "$work"
exec cargo +nightly fuzz run "$target" -- "$@"
