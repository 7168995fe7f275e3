#!/usr/bin/env bash
# install_and_run.sh SOURCE BUILD static|shared
#
# Installs libnibble into a prefix of its own (the static one from the build at hand, the shared one from a build of its
# own), runs the program from there, builds the example applications against that prefix alone, and runs them.
set -euo pipefail
source=$1 build=$2 kind=$3
work=$build/package-$kind

if [[ "$kind" == shared ]]; then
  cmake -S "$source" -B "$work/build" -G Ninja -DBUILD_SHARED_LIBS=ON -DNIBBLE_TESTS=OFF -DNIBBLE_BENCH=OFF >/dev/null
  build=$work/build
  cmake --build "$build"
fi
rm -rf "$work/prefix" "$work/embed"
cmake --install "$build" --prefix "$work/prefix" >/dev/null
env -u LD_LIBRARY_PATH "$work/prefix/bin/nibble" --version

cmake -S "$source/tests/api/package" -B "$work/embed" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/embed"
library_path=$(dirname "$(find "$work/prefix" -name 'libnibble.*' | head -1)")
for program in embed embed_c; do
  text=$(LD_LIBRARY_PATH="$library_path" "$work/embed/$program" "$source/models/bundled")
  echo "$program: $text"
  ((${#text} > 20)) || { echo "$program printed no text"; exit 1; }
done
