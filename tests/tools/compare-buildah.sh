#!/bin/sh
# compare-buildah.sh [CASE]: builds the cases of tests/cases with buildah, too, and compares files and configurations.
#
# Wants buildah, and a user with /etc/subuid; takes some minutes. CASE is a part of the names of the cases to compare.
set -eu
cd "$(dirname "$0")/../.."
command -v buildah >/dev/null || { echo 'compare-buildah.sh: buildah is not installed' >&2; exit 1; }
CASE=${1:-} exec cargo test --test it buildah_agrees -- --ignored --nocapture
