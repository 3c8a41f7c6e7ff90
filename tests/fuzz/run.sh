#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzz each parser for some seconds (default 60), beginning with the corpus of tests/protocols.
# usage: tests/fuzz/run.sh [SECONDS] [PARSER…]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${1:-60}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- address socketmap policy tcp_table exim
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q atheris
for parser in "$@"; do
    mkdir "$work/$parser"
    echo "== $parser, $seconds s"
    if ! (cd "$work" && PYTHONPATH=$root "$work/venv/bin/python" "$root/tests/fuzz/parsers.py" "$parser" \
        -max_total_time="$seconds" -max_len=4096 -verbosity=0 -print_final_stats=1 \
        "$work/$parser" "$root/tests/protocols/corpus/$parser" >"$work/log" 2>&1); then
        tail -n 40 "$work/log"
        exit 1
    fi
    grep number_of_executed "$work/log"
done
