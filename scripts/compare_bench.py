"""Says what became faster or slower from one run of `nibble bench -o json` to another.

    python3 scripts/compare_bench.py BEFORE.json AFTER.json [--threshold 5]

Prints for each measurement that both have the ratio of the median rates, after / before, with the spread both bring.
Exits 1 when one is slower by more than --threshold percent and its spread does not explain it, or is no longer there;
2 when a file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from samples import Measured

WHERE = ["model_filename", "scheme", "dtype", "backends", "n_threads", "n_depth"]
OF_A_TEST = [*WHERE, "n_sequences", "n_prompt", "n_gen", "median_ts", "spread_ts"]
OF_A_KERNEL = [*WHERE, "kernel", "m", "n", "k", "median_ns", "spread_ns"]


def load(file: Path) -> dict[tuple, dict]:
    """Measurements by what was measured: all they must have but the result."""
    try:
        rows = json.loads(file.read_text())
        return {tuple(row[key] for key in (OF_A_KERNEL if "kernel" in row else OF_A_TEST))[:-2]: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"compare_bench: {file}: expected the output of nibble bench -o json, found {error!r}", file=sys.stderr)
        sys.exit(2)


def name(row: dict) -> str:
    where = f"{row['model_filename']} {row['scheme']} {row['dtype']}, {row['backends']} x{row['n_threads']}"
    depth = f" @ d{row['n_depth']}" if row["n_depth"] else ""
    if "kernel" in row:
        return f"{where}, {row['kernel']} {row['n']} x {row['k']}, {row['m']} rows{depth}"
    test = f"tg{row['n_gen']}" if row["n_gen"] else f"pp{row['n_prompt']}"
    return f"{where}, batch {row['n_sequences']}, {test}{depth}"


def rate(row: dict) -> Measured:
    """Tokens, or runs of a kernel, a second."""
    if "kernel" in row:
        return Measured(1e9, 0) / Measured(row["median_ns"], row["spread_ns"])
    return Measured(row["median_ts"], row["spread_ts"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--threshold", type=float, default=5, help="percent (default: 5)")
    arguments = parser.parse_args()
    before, after = load(arguments.before), load(arguments.after)
    least = 1 - arguments.threshold / 100
    failures = 0
    print("| measurement | before, a second | after, a second | ratio | |")
    print("|---|---:|---:|---:|---|")
    for key, old in before.items():
        if key not in after:
            failures += 1
            print(f"| {name(old)} | {rate(old).median:.2f} | | | gone |")
            continue
        was, is_now = rate(old), rate(after[key])
        ratio = is_now / was
        slower = ratio.median + ratio.spread < least
        failures += slower
        verdict = "slower" if slower else "faster" if ratio.median - ratio.spread > 2 - least else ""
        rates = f"{was.median:.2f} | {is_now.median:.2f}"
        print(f"| {name(old)} | {rates} | {ratio.median:.3f} ± {ratio.spread:.3f} | {verdict} |")
    for key in after.keys() - before.keys():
        print(f"| {name(after[key])} | | {rate(after[key]).median:.2f} | | new |")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
