#!/usr/bin/env bash
# The whole check of the CUDA backend in one call, on a machine with a GPU: tests, sanitizers, benchmarks.
#
#   scripts/gpu_check.sh build [STAGE...]        builds for this GPU first
#   scripts/gpu_check.sh run WHERE [STAGE...]    a build's folder, or the packed.tar.xz of scripts/pack_binaries.sh
#
# Stages and settings: python3 scripts/gpu_stages.py --help. check.json and check.log go to ${OUT:-build/gpu}.
set -euo pipefail

case "${1:-}" in
  build)
    shift
    cd "$(dirname "$0")/.."
    cmake --preset release -DNIBBLE_TESTS=ON -DNIBBLE_BENCH=ON -DNIBBLE_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native
    cmake --build --preset release
    programs=build
    ;;
  run)
    if [[ ! -e "${2:-}" ]]; then
      echo "gpu_check: expected a build's folder or packed.tar.xz, found '${2:-}'" >&2
      exit 2
    fi
    programs=$(realpath "$2")
    shift 2
    cd "$(dirname "$0")/.."
    if [[ -f "$programs" ]]; then
      unpacked=$(mktemp -d)
      trap 'rm -rf "$unpacked"' EXIT
      python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$programs" "$unpacked"
      programs=$unpacked
    fi
    ;;
  *)
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
    ;;
esac

python3 scripts/gpu_stages.py --programs "$programs" --out "${OUT:-build/gpu}" "$@"
