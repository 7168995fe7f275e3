#!/usr/bin/env bash
# Packs the programs of a build with the libraries they need, for a machine that has CUDA but not those libraries.
#
#   cmake --preset release -DBUILD_SHARED_LIBS=ON ...    so that the kernels are carried once
#   scripts/pack_binaries.sh build packed                packed/bin and packed/lib, stripped, and packed.tar.xz
#   scripts/gpu_check.sh run packed.tar.xz               there; or LD_LIBRARY_PATH=packed/lib packed/bin/nibble ...
#
# The C and C++ runtimes and CUDA's libraries are that machine's own.
set -euo pipefail

if (($# != 2)) || [[ ! -d "$1" ]]; then
  echo "usage: scripts/pack_binaries.sh BUILD_DIR OUT_DIR" >&2
  exit 2
fi
build=$1 out=$2
own='^(ld-linux.*|linux-vdso|lib(c|m|dl|rt|util|pthread|resolv|stdc\+\+|gcc_s|cuda|cudart|cublas|cublasLt|nv.*))\.so'

rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"
shopt -s nullglob
programs=("$build"/bin/nibble "$build"/tests/test_* "$build"/tests/*_bench)
for program in "${programs[@]}"; do
  [[ -f "$program" && -x "$program" ]] || continue
  cp "$program" "$out/bin/"
  ldd "$program" | awk '$2 == "=>" {print $1, $3}' | while read -r name path; do
    [[ "$name" =~ $own ]] && continue
    if [[ "$path" == not ]]; then
      echo "pack_binaries: $program needs $name, which is not on this machine" >&2
      exit 1
    fi
    [[ -e "$out/lib/$name" ]] || cp -L "$path" "$out/lib/$name"
  done
done
[[ -x "$out/bin/nibble" ]] || { echo "pack_binaries: expected $build/bin/nibble, found none" >&2; exit 1; }
chmod -R u+w "$out"
strip --strip-unneeded "$out"/bin/* "$out"/lib/*

tar -C "$out" -cJf "$out.tar.xz" bin lib
du -ah "$out" "$out.tar.xz" | sort -rh | head -20
