#!/usr/bin/env bash
# The corpora of the fuzz targets: one archive for each in corpora/, unpacked into corpus/, where cargo fuzz reads them.
#
#   fuzz/corpus.sh unpack [TARGET]…     adds what is in the archives to corpus/TARGET/
#   fuzz/corpus.sh minimise [TARGET]…   drops inputs from corpus/TARGET/ that add no coverage (cargo install cargo-fuzz)
#   fuzz/corpus.sh pack [TARGET]…       writes the archives anew from corpus/TARGET/
#
# Without TARGET it is done for all of them. The same inputs give the same archive, byte for byte.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    sed -n 's/^# \{0,1\}//; 2,/^Without/p' corpus.sh >&2
    exit 2
}

unpack() {
    mkdir -p corpus
    tar -xJf "corpora/$1.tar.xz" -C corpus
    echo "$1: $(inputs "$1") inputs in fuzz/corpus/$1/"
}

minimise() {
    local before
    before=$(inputs "$1")
    (cd .. && cargo fuzz cmin --sanitizer none "$1" "fuzz/corpus/$1")
    echo "$1: $(inputs "$1") inputs of $before"
}

pack() {
    if [ "$(inputs "$1")" -eq 0 ]; then
        echo "fuzz/corpus/$1/ has no inputs: unpack it first" >&2
        exit 1
    fi
    mkdir -p corpora
    tar -C corpus --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - "$1" |
        xz -9e >"corpora/.$1.tar.xz"
    mv "corpora/.$1.tar.xz" "corpora/$1.tar.xz"
    echo "$1: $(inputs "$1") inputs in $(wc -c <"corpora/$1.tar.xz") bytes"
}

inputs() {
    find "corpus/$1" -type f 2>/dev/null | wc -l
}

[ $# -ge 1 ] || usage
command=$1
shift
case $command in
unpack | minimise | pack) ;;
*) usage ;;
esac

all=(fuzz_targets/*.rs)
all=("${all[@]#fuzz_targets/}")
all=("${all[@]%.rs}")
[ $# -ge 1 ] || set -- "${all[@]}"
for target in "$@"; do
    if [ ! -e "fuzz_targets/$target.rs" ]; then
        echo "there is no fuzz target $target; there are ${all[*]}" >&2
        exit 2
    fi
done
for target in "$@"; do
    "$command" "$target"
done
