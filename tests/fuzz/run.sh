#!/bin/sh
# Runs a fuzz target: tests/fuzz/run.sh TARGET [libFuzzer options]. Needs a nightly toolchain, cargo-fuzz and a C++ compiler.
#
# The program's vendored crates hold no fuzzing crates, and cargo reads .cargo/config.toml of every parent directory: so
# the targets are built in a directory elsewhere that links to the sources.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${FUZZ_DIR:-/tmp/ch-image-fuzz}
target=$1
shift
mkdir -p "$work/tests/fuzz"
cp -r "$root/tests/fuzz/Cargo.toml" "$root/tests/fuzz/fuzz_targets" "$work/tests/fuzz/"
ln -sfn "$root/src" "$work/src"
cd "$work"
exec cargo +nightly fuzz run --fuzz-dir tests/fuzz "$target" -- "$@"
