#!/bin/sh
# static.sh [--musl] [--arch ARCH] OUT: builds the static release binary and puts it at OUT.
#
# --arch: x86_64 or aarch64, if it is not that of this machine: with the compilers that .cargo/config.toml names.
# Which libc: musl where its Rust target is there or can be added (rustup), else from Debian's own packages
# (mk-musl-sysroot.sh), else glibc, with one line that says so: the two commands of the README must work with any
# Rust. --musl (make dist) refuses glibc. Nothing is downloaded but rustup's target, and that only for a minute.
set -eu
need_musl=
native=$(uname -m)
arch=$native
while :; do
    case $1 in
    --musl) need_musl=1; shift ;;
    --arch) arch=$2; shift 2 ;;
    *) break ;;
    esac
done
out=$1
cd "$(dirname "$0")/../.."
here=$(pwd)
cargo=${CARGO:-cargo}
rustc=${RUSTC:-rustc}
target_dir=${CARGO_TARGET_DIR:-target}
musl=$arch-unknown-linux-musl
gnu=$arch-unknown-linux-gnu

say() { echo "static.sh: $*" >&2; }

# This machine's own compiler for its own target, whatever it is called elsewhere.
if [ "$arch" = "$native" ]; then
    name=$(echo "$musl" | tr - _)
    export "CC_$name=${CC:-cc}" "CARGO_TARGET_$(echo "$name" | tr a-z A-Z)_LINKER=${CC:-cc}"
fi

has_target() {
    lib=$("$rustc" --print target-libdir --target "$1" 2>/dev/null) || return 1
    ls "$lib"/libstd-*.rlib >/dev/null 2>&1
}

# build CARGO TARGET: leaves the binary at OUT. The rename makes sure that a running program keeps its file.
build() {
    "$1" build --release --offline --locked --target "$2" --bin ch-image || return 1
    cp "$target_dir/$2/release/ch-image" "$out.new" && mv "$out.new" "$out"
}

if ! has_target "$musl" && command -v rustup >/dev/null; then
    say "adding the target $musl"
    timeout 60 rustup target add "$musl" >/dev/null 2>&1 || say "rustup can't add it"
fi
if has_target "$musl"; then
    build "$cargo" "$musl"
    exit
fi
if [ "$arch" != "$native" ]; then
    say "Rust has no target $musl here; rustup target add $musl"
    exit 1
fi

case $target_dir in /*) ;; *) target_dir=$here/$target_dir ;; esac
sysroot=${CH_MUSL_SYSROOT:-$target_dir/musl-sysroot}
if [ "$arch" = x86_64 ] && [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && command -v musl-gcc >/dev/null &&
    [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library" ]; then
    if [ -d "$sysroot" ] || { say "building Rust's standard library for musl (once)" && tests/tools/mk-musl-sysroot.sh "$sysroot"; }; then
        RUSTC=/usr/bin/rustc RUSTFLAGS="--sysroot $sysroot" build /usr/bin/cargo "$musl"
        exit
    fi
fi

advice="for musl: rustup target add $musl; or on Debian: apt-get install rustc-web cargo-web rust-web-src musl-tools"
if [ -n "$need_musl" ]; then
    say "no way to build for $musl; $advice"
    exit 1
fi
say "no $musl here, so this is a static glibc binary; $advice"
RUSTFLAGS="-C target-feature=+crt-static" build "$cargo" "$gnu"
