#!/usr/bin/env python3
"""Fails when an object compiled for a special instruction set defines a symbol that other objects could be linked to.

A linker keeps one copy of an inline function. Were it the one compiled for AVX-512, programs would end with an illegal
instruction on machines without it.

    python target_isolation.py OBJECT...        only kernels/cpu/target_* among them are looked at
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# nm(1): weak functions, weak objects, unique globals, and ordinary functions. Only tables of kernels may be visible.
SHARED_KINDS = set("WwVvuT")


def shared_symbols(path: str) -> list[str]:
    listing = subprocess.run(["nm", "--demangle", "--defined-only", path], check=True, capture_output=True, text=True)
    fields = (line.split(maxsplit=2) for line in listing.stdout.splitlines())
    return [name for _, kind, name in fields if kind in SHARED_KINDS]


def main() -> int:
    targets = [path for path in sys.argv[1:] if Path(path).name.startswith("target_")]
    if not targets:
        print("expected objects of kernels/cpu/target_*.cpp, found none", file=sys.stderr)
        return 1
    found = [f"{path}: {name}" for path in targets for name in shared_symbols(path)]
    print("\n".join(found) if found else f"{len(targets)} objects share nothing", file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
