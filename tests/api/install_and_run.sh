#!/usr/bin/env bash
# install_and_run.sh SOURCE WORK static|shared
set -euo pipefail
source=$1 work=$2 kind=$3
[[ "$kind" == shared ]] && shared=ON || shared=OFF

cmake -S "$source" -B "$work/build" -G Ninja -DBUILD_SHARED_LIBS=$shared -DNIBBLE_TESTS=OFF -DNIBBLE_BENCH=OFF \
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$work/prefix" >/dev/null
cmake --build "$work/build"
cmake --install "$work/build" >/dev/null

cmake -S "$source/tests/api/package" -B "$work/embed" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/embed"
library_path=$(dirname "$(find "$work/prefix" -name 'libnibble.*' | head -1)")
for program in embed embed_c; do
  text=$(LD_LIBRARY_PATH="$library_path" "$work/embed/$program" "$source/models/bundled")
  echo "$program: $text"
  ((${#text} > 20)) || { echo "$program printed no text"; exit 1; }
done
