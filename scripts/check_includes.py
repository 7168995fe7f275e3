"""Checks the house's rules of the road: which room may include what, and that backends stay twins.

    python3 scripts/check_includes.py [ROOT]

Exits 1 with one line for each include that points the wrong way.
"""

import re
import sys
from pathlib import Path

# What a file may include with quotes, by the longest matching path prefix. The public headers named are the vocabulary
# that every room shares; a room's own headers are always allowed.
FLOOR = ["nibble/types.h", "nibble/error.h", "nibble/memory.h", "nibble/progress.h"]
ALLOWED = {
    "kernels/": FLOOR,
    "tokenizer/": FLOOR,
    "models/": [*FLOOR, "kernels/"],
    "runtime/": ["nibble/", "kernels/", "models/", "tokenizer/"],
    "runtime/include/": ["nibble/"],
    "runtime/cli/": ["nibble/"],
}
# Third parties enter by one door each.
DOORS = {
    "nlohmann/": ["models/", "tokenizer/", "runtime/"],
    "sentencepiece": ["tokenizer/sentencepiece.cpp"],
    "pcre2": ["tokenizer/"],
    "zip.h": ["models/checkpoint/"],
    "spdlog/": ["runtime/cli/"],
    "CLI/": ["runtime/cli/"],
    "histedit": ["runtime/cli/"],
    "cuda": ["kernels/cuda/"],
    "immintrin.h": ["kernels/cpu/"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)
SOURCES = {".h", ".cpp", ".cu", ".cuh", ".inc"}


def rule_for(path: str) -> tuple[str, list[str]]:
    room = max((prefix for prefix in ALLOWED if path.startswith(prefix)), key=len)
    return room, ALLOWED[room]


def wrong_includes(root: Path) -> list[str]:
    found = []
    for room in sorted({prefix.split("/")[0] for prefix in ALLOWED}):
        for file in sorted((root / room).rglob("*")):
            if file.suffix not in SOURCES:
                continue
            path = file.relative_to(root).as_posix()
            own, allowed = rule_for(path)
            for quote, target in INCLUDE.findall(file.read_text()):
                if quote == '"' and not any(target.startswith(prefix) for prefix in [own, *allowed]):
                    found.append(f"{path}: may not include {target}")
                doors = next((doors for name, doors in DOORS.items() if target.startswith(name)), None)
                if quote == "<" and doors and not any(path.startswith(door) for door in doors):
                    found.append(f"{path}: {target} enters through {', '.join(doors)} only")
    return found


def wrong_dispatch(root: Path) -> list[str]:
    """The switch over compute dtypes and the visit of layouts stand in one file."""
    found = []
    for file in sorted((root / "kernels").rglob("*")):
        if file.suffix in SOURCES and file.name != "dispatch.h" and "std::visit(" in file.read_text():
            found.append(f"{file.relative_to(root).as_posix()}: std::visit belongs in kernels/dispatch.h")
    return found


def wrong_headers(root: Path) -> list[str]:
    lines = sum(len(file.read_text().splitlines()) for file in (root / "runtime/include/nibble").glob("*.h"))
    return [f"runtime/include/nibble: {lines} lines of public headers, more than 520"] if lines > 520 else []


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found = wrong_includes(root) + wrong_dispatch(root) + wrong_headers(root)
    print("\n".join(found) if found else "includes: every arrow points the right way")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
