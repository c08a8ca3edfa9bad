#!/bin/bash
# bench.sh (make bench): the main jobs against whatever peers this machine has.
#
# Rows: pull (one layer; again, nothing changed), push (to a new repository, again), build of ten mixed instructions
# cold and cached, the same of four on an image of eight layers, 50 times RUN true, COPY of 5,000 and of 50,000 files
# (FILES) cold and cached, parsing of a Dockerfile with 100,000 lines (ours alone; and whether memory stays within
# 16 MiB and 24 times its size), start. Tools take turns within each round, so that a disturbance hits all of them;
# figures are medians, and ratios of medians to ours.
# Settings: ROUNDS (3), SIZE (MiB of files in the pulled image, 200), TOOLS, BENCH_DIR (target/bench).
# The rows pull, push and eight want docker-registry and openssl. Files come from this machine's /usr: compare within one run alone.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
ROUNDS=${ROUNDS:-3}
SIZE=${SIZE:-200}
FILES=${FILES:-5000 50000}
work=${BENCH_DIR:-${CARGO_TARGET_DIR:-$top/target}/bench}
OURS=${CH_IMAGE:-$top/ch-image}
PATH=$PATH:/usr/sbin:/sbin
peer_ch_image=$(PATH=/usr/local/bin:/usr/bin:/bin command -v ch-image || true)

have() { command -v "$1" >/dev/null 2>&1; }
if [ -z "${TOOLS:-}" ]; then
    TOOLS=ours
    [ -z "$peer_ch_image" ] || TOOLS="$TOOLS charliecloud"
    for tool in buildah podman; do if have $tool; then TOOLS="$TOOLS $tool"; fi; done
    if have skopeo && have umoci; then TOOLS="$TOOLS skopeo+umoci"; fi
fi

clear_dir() {
    [ -e "$1" ] || return 0
    find "$1" -xdev -type d ! -perm -u=rwx -exec chmod u+rwx {} \; 2>/dev/null || true
    # Files of buildah and podman may belong to other users of their namespace.
    rm -rf --one-file-system "$1" 2>/dev/null || buildah unshare rm -rf --one-file-system "$1"
}

clear_dir "$work"
mkdir -p "$work/run" "$work/results"
# charliecloud asks for a user name otherwise, even where none is wanted.
export XDG_RUNTIME_DIR=$work/run CH_IMAGE_USERNAME=x CH_IMAGE_PASSWORD=x
# Its build cache is a Git repository, and Git wants to know who commits.
export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@localhost GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@localhost
# Python's HTTP library takes these before it hears that nothing is to be verified.
unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE CH_IMAGE_STORAGE

# The images: a small base, and the same with SIZE MiB of files.
"$top/tests/tools/base.sh" "$work/base"
cp -a "$work/base" "$work/large"
mkdir -p "$work/large/data"
{ find /usr/lib /usr/share -xdev -type f -readable -size -4096k -printf '%s %P %h/%f\n' 2>/dev/null || true; } | LC_ALL=C sort -k2 |
    awk -v max="$((SIZE << 20))" 'NF == 3 && size < max { size += $1; print $3 }' >"$work/files"
tar -T "$work/files" -P --transform 's,^/,,' -cf - | tar -C "$work/large/data" -xf -

# A registry with TLS, ended with this script.
registry=
trap '[ -z "$registry" ] || kill "$registry"' EXIT
REG=
if have docker-registry && have openssl; then
    port=$((20000 + $$ % 10000))
    REG=127.0.0.1:$port
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 \
        -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
    cat >"$work/registry.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "$REG", tls: {certificate: $work/cert.pem, key: $work/key.pem}}
END
    docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
    registry=$!
    for _ in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
        sleep 0.1
    done
    for image in base large; do
        if ! { "$OURS" import -s "$work/setup" "$work/$image" "$image" &&
            "$OURS" push -s "$work/setup" --tls-no-verify "$image" "$REG/$image:latest"; } >"$work/setup.log" 2>&1; then
            cat "$work/setup.log" >&2
            exit 1
        fi
    done
    clear_dir "$work/setup"
fi

# What is built.
mkdir -p "$work/context/tree"
for i in $(seq 100); do seq "$((i * 50))" >"$work/context/tree/file$i"; done
seq 1000 >"$work/context/one"
from=${REG:+$REG/}base:latest
cat >"$work/ten.df" <<END
FROM $from
ENV A=1 B=2
WORKDIR /work
COPY one .
COPY tree tree/
RUN ls tree | wc -l >count
RUN mkdir copy && cp one copy/
ENV C=3
COPY one /etc/settings
RUN rm one
RUN cat copy/one >/dev/null
END
{ echo "FROM $from"; for _ in $(seq 50); do echo "RUN true"; done; } >"$work/fifty.df"

for n in $FILES; do
    for d in $(seq 0 99); do mkdir -p "$work/copy$n/d$d"; done
    awk -v top="$work/copy$n" -v n="$n" \
        'BEGIN { for (i = 0; i < n; i++) { f = top "/d" i % 100 "/f" i; for (j = 0; j < 20; j++) print "line", i, j >f; close(f) } }'
    printf 'FROM %s\nCOPY . /data/\n' "$from" >"$work/copy$n.df"
done

{
    echo "FROM $from"
    awk 'BEGIN { for (i = 0; i < 10000; i++) {
        print "RUN apt-get update && \\\n    apt-get install -y package" i "\nENV A=" i " B=\"two words\""
        print "COPY --from=x a" i " b /d/\n# comment\n\nLABEL a.b" i "=\"x y\"\nARG X" i "=1\nWORKDIR /a/b\nCMD [\"a\", \"b\"]"
    } }'
} >"$work/parse.df"

# An image of eight layers: each push adds one to those of its base, which is pulled anew.
if [ -n "$REG" ]; then
    base=$from
    for n in 2 3 4 5 6 7 8; do
        printf 'FROM %s\nCOPY tree /layer%s/\n' "$base" "$n" >"$work/layer.df"
        base=$REG/eight:latest
        if ! { "$OURS" build -s "$work/setup" --tls-no-verify -t top -f "$work/layer.df" "$work/context" &&
            "$OURS" push -s "$work/setup" --tls-no-verify --layers top "$base"; } >"$work/setup.log" 2>&1; then
            cat "$work/setup.log" >&2
            exit 1
        fi
        clear_dir "$work/setup"
    done
    cat >"$work/eight.df" <<END
FROM $REG/eight:latest
COPY one /layer2/
RUN ls /layer2 /layer8 | wc -l >/count
RUN rm /layer2/file1
COPY tree /layer9/
END
fi

# Each adapter returns 64 for what its tool does not offer.
ch_image() {
    local program=$1 store=$2 action=$3; shift 3
    case $action in
        start) "$program" --version ;;
        parse) "$program" build --parse-only -s "$store" -f "$work/parse.df" "$work/context" ;;
        pull) "$program" pull -s "$store" --tls-no-verify "$REG/$1:latest" ;;
        push) "$program" push -s "$store" --tls-no-verify "$REG/$1:latest" "$REG/$2:latest" ;;
        base)
            if [ -n "$REG" ]; then ch_image "$program" "$store" pull base
            else "$program" import -s "$store" "$work/base" base:latest; fi ;;
        build) "$program" build -s "$store" --tls-no-verify -t "$1" -f "$work/$1.df" "${2:-$work/context}" ;;
    esac
}
engine() {
    local program=$1 store=$2 action=$3; shift 3
    local options=(--root "$store/root" --runroot "$store/run" --storage-driver overlay)
    local build=bud
    [ "$program" = buildah ] || build=build
    case $action in
        start) "$program" --version ;;
        pull) "$program" "${options[@]}" pull -q --tls-verify=false "$REG/$1:latest" ;;
        push) "$program" "${options[@]}" push -q --tls-verify=false "$REG/$1:latest" "docker://$REG/$2:latest" ;;
        base) [ -n "$REG" ] || return 64; engine "$program" "$store" pull base ;;
        build)
            "$program" "${options[@]}" $build -q --layers --isolation chroot --tls-verify=false -t "$1" \
                -f "$work/$1.df" "${2:-$work/context}" ;;
    esac
}
layout() {
    local store=$1 action=$2; shift 2
    case $action in
        start) skopeo --version ;;
        pull)
            clear_dir "$store"
            mkdir -p "$store"
            skopeo copy -q --src-tls-verify=false "docker://$REG/$1:latest" "oci:$store/oci:latest" &&
                umoci unpack --rootless --image "$store/oci:latest" "$store/bundle" ;;
        *) return 64 ;;
    esac
}
tool() {
    local name=$1; shift
    local store=$work/store-$name
    case $name in
        ours) ch_image "$OURS" "$store" "$@" ;;
        charliecloud) ch_image "$peer_ch_image" "$store" "$@" ;;
        buildah | podman) engine "$name" "$store" "$@" ;;
        skopeo+umoci) layout "$store" "$@" ;;
    esac
}

# timed ROW TOOL ACTION...: appends microseconds to results/ROW.TOOL, or says why there are none.
timed() {
    local row=$1 name=$2 begin end; shift 2
    begin=$(date +%s%N)
    if tool "$name" "$@" >"$work/log.$name" 2>&1 </dev/null; then
        end=$(date +%s%N)
        echo $(((end - begin) / 1000)) >>"$work/results/$row.$name"
    elif [ $? != 64 ]; then
        echo "$name: $row failed: $(tail -n 1 "$work/log.$name")" >&2
    fi
}

for round in $(seq "$ROUNDS"); do
    echo "round $round of $ROUNDS" >&2
    for _ in 1 2 3 4 5; do
        for name in $TOOLS; do timed start "$name" start; done
        timed parse-100k ours parse
    done
    if [ -n "$REG" ]; then
        for name in $TOOLS; do
            clear_dir "$work/store-$name"
            timed pull "$name" pull large
            timed pull-again "$name" pull large
            timed push "$name" push large "round$round-${name%%+*}"
            timed push-again "$name" push large "round$round-${name%%+*}"
        done
    fi
    for name in $TOOLS; do
        clear_dir "$work/store-$name"
        tool "$name" base >"$work/log.$name" 2>&1 </dev/null || continue
        timed build-cold "$name" build ten
        timed build-cached "$name" build ten
        if [ -n "$REG" ] && tool "$name" pull eight >"$work/log.$name" 2>&1 </dev/null; then
            timed eight-cold "$name" build eight
            timed eight-cached "$name" build eight
        fi
        timed run-50-cold "$name" build fifty
        timed run-50-cached "$name" build fifty
        for n in $FILES; do
            timed "copy-$n-cold" "$name" build "copy$n" "$work/copy$n"
            timed "copy-$n-cached" "$name" build "copy$n" "$work/copy$n"
        done
    done
done

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
printf '\nmedians of %s rounds in milliseconds (and how many times ours); pulled image: %s files, %s\n' \
    "$ROUNDS" "$(find "$work/large" | wc -l)" "$(du -sh "$work/large" | cut -f1)"
copies=
for n in $FILES; do copies="$copies copy-$n-cold copy-$n-cached"; done
printf '%-18s' row
for name in $TOOLS; do printf '%22s' "$name"; done
echo
for row in start parse-100k pull pull-again push push-again build-cold build-cached eight-cold eight-cached run-50-cold run-50-cached $copies; do
    printf '%-18s' $row
    ours=0
    [ ! -s "$work/results/$row.ours" ] || ours=$(median "$work/results/$row.ours")
    for name in $TOOLS; do
        if [ -s "$work/results/$row.$name" ]; then
            awk -v m="$(median "$work/results/$row.$name")" -v o="$ours" \
                'BEGIN { printf "%12.1f", m / 1000; if (o > 0) printf " (%7.1f)", m / o; else printf "          " }'
        else
            printf '%22s' -
        fi
    done
    echo
done
size=$(($(wc -c <"$work/parse.df") / 1024))
limit=$((16 * 1024 + 24 * size))
(ulimit -v "$limit" && timed parse-limited ours parse)
if [ -s "$work/results/parse-limited.ours" ]; then kept="within"; else kept="not within"; fi
echo "parse-100k: $size KiB are read $kept $limit KiB of memory"
for name in $TOOLS; do clear_dir "$work/store-$name"; done
