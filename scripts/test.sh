#!/usr/bin/env bash
# Builds nibble and runs its tests.
#
#   scripts/test.sh          the tests (a few minutes)
#   scripts/test.sh all      also the format, the tests under ASan, UBSan and TSan, and 20 seconds of each fuzz target
set -euo pipefail
cd "$(dirname "$0")/.."
scope=${1:-tests}
stage() { printf '\n== %3d s: %s\n' "$SECONDS" "$*"; }

scripts/setup.sh "$scope"

if [[ "$scope" == all ]]; then
  stage "format"
  find kernels models tokenizer runtime tests -name '*.h' -o -name '*.cpp' -o -name '*.c' -o -name '*.cu' -o -name '*.cuh' |
    xargs clang-format --dry-run --Werror
fi

stage "build and test"
cmake --preset release -DNIBBLE_TESTS=ON -DNIBBLE_BENCH=ON >/dev/null
cmake --build --preset release
ctest --test-dir build --output-on-failure -j "$(nproc)"
[[ "$scope" == all ]] || exit 0

# Quality by scheme is numbers, which the tests above compare; with strides, it stands for the code they come from.
# Plain AVX-512 is left out, as all of it but how bytes are widened is in the targets that build on it.
stage "address and undefined behaviour sanitizers, all tests but quality by scheme"
cmake --preset asan >/dev/null
cmake --build --preset asan
GTEST_FILTER='-Schemes/Quality*' ctest --test-dir build-asan --output-on-failure -j "$(nproc)" -E '^package'

stage "fuzzing, 20 seconds a target"
printf "%s\n" build-asan/tests/*_fuzz | xargs -P "$(nproc)" -I TARGET scripts/fuzz.sh TARGET 20

# What threads share is one text for every instruction set: plain C++ and AVX2, which has tiles too, stand for all.
# It is one text for every layout too: one of each kind stands for those that differ in block size or codes. Weights that
# threads make have tests of their own, so that no whole models are made up.
stage "thread sanitizer, what has threads"
cmake --preset tsan >/dev/null
cmake --build --preset tsan --target test_kernels test_runtime
shared='*Thread*:*Batch*:*Session*:*PreparedWeight*'
alike='*_fp4*:*_nf4?*:*_int4?*:*codes:*ThatStoreMakes*:*SyntheticModels*'
GTEST_FILTER="$shared-$alike" ctest --test-dir build-tsan --output-on-failure -j "$(nproc)" -R '^(kernels|runtime)_'

stage "everything passed"
