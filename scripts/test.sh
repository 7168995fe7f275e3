#!/usr/bin/env bash
# Builds nibble and runs its tests.
#
#   scripts/test.sh          the tests (a few minutes)
#   scripts/test.sh all      also under ASan, UBSan and TSan, a minute of each fuzz target, and the format
set -euo pipefail
cd "$(dirname "$0")/.."
stage() { printf '\n== %s\n' "$*"; }

scripts/setup.sh "$([[ "${1:-}" == all ]] && echo fuzz)"

stage "build and test"
cmake --preset release -DNIBBLE_TESTS=ON -DNIBBLE_BENCH=ON >/dev/null
cmake --build --preset release
ctest --test-dir build --output-on-failure -j "$(nproc)"
[[ "${1:-}" == all ]] || exit 0

stage "address and undefined behaviour sanitizers, all tests"
cmake --preset asan >/dev/null
cmake --build --preset asan
ctest --test-dir build-asan --output-on-failure -j "$(nproc)" -E '^package'

stage "thread sanitizer, what has threads"
cmake --preset tsan >/dev/null
cmake --build --preset tsan --target test_kernels test_runtime
ctest --test-dir build-tsan --output-on-failure -j "$(nproc)" -R 'Thread|Batch|Session'

stage "fuzzing, ${NIBBLE_FUZZ_SECONDS:-60} s a target"
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz
for target in build-fuzz/tests/*_fuzz; do
  corpus=tests/fuzz/corpus/$(basename "$target" _fuzz)
  seeds=()
  [[ -d "$corpus" ]] && seeds=("$corpus")
  work=$(mktemp -d)
  "$target" -max_total_time="${NIBBLE_FUZZ_SECONDS:-60}" -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1 \
    "$work" "${seeds[@]}"
  rm -rf "$work"
done

stage "everything passed"
