#!/usr/bin/env bash
# Installs what nibble is built from, all of it Debian packages, where something is missing.
#
#   scripts/setup.sh           what building and testing needs
#   scripts/setup.sh all       what scripts/test.sh all needs as well: clang, its sanitizers and clang-format
set -euo pipefail

packages=(g++ cmake ninja-build ccache pkg-config git python3 xz-utils nlohmann-json3-dev libspdlog-dev
          libsentencepiece-dev libgtest-dev libbenchmark-dev libcli11-dev libpcre2-dev libicu-dev libzip-dev libedit-dev)
[[ "${1:-}" == all ]] && packages+=(clang libclang-rt-14-dev clang-format)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

echo "nibble: installing ${missing[*]}"
as_root=()
((EUID == 0)) || as_root=(sudo)
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
