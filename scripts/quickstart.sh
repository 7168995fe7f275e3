#!/usr/bin/env bash
# From a fresh clone to generated text: installs what is missing, builds, and lets the bundled model go on from a prompt.
#
#   scripts/quickstart.sh ["Once upon a time"]
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
cmake --preset release -DNIBBLE_TESTS=OFF -DNIBBLE_BENCH=OFF >/dev/null
cmake --build --preset release --target nibble_cli
build/bin/nibble generate -m models/bundled -p "${1:-Once upon a time, there was a little girl who}" -n 160
