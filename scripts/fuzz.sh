#!/usr/bin/env bash
# Runs one fuzz target from its committed corpus; fails with the input's path when it finds something.
#
#   scripts/fuzz.sh build-asan/tests/pickle_fuzz [SECONDS]
set -euo pipefail
target=$1 seconds=${2:-60}
corpus=$(dirname "$0")/../tests/fuzz/corpus/$(basename "$target" _fuzz)
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT

"$target" -max_total_time="$seconds" -rss_limit_mb=4096 -verbosity=0 -print_funcs=0 -print_final_stats=1 \
  -artifact_prefix="$target-" "$found" "$corpus"
