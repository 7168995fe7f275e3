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

IDENTITY = ["model_filename", "scheme", "dtype", "backends", "n_threads", "n_sequences", "n_prompt", "n_gen", "n_depth"]


def load(file: Path) -> dict[tuple, dict]:
    try:
        rows = json.loads(file.read_text())
        return {tuple(row[key] for key in IDENTITY): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"compare_bench: {file}: expected the output of nibble bench -o json, found {error!r}", file=sys.stderr)
        sys.exit(2)


def name(row: dict) -> str:
    test = f"tg{row['n_gen']}" if row["n_gen"] else f"pp{row['n_prompt']}"
    depth = f" @ d{row['n_depth']}" if row["n_depth"] else ""
    where = f"{row['backends']} x{row['n_threads']}, batch {row['n_sequences']}"
    return f"{row['model_filename']} {row['scheme']} {row['dtype']}, {where}, {test}{depth}"


def ratio(before: dict, after: dict) -> Measured:
    """After / before."""
    first, second = (Measured(row["median_ts"], row["spread_ts"]) for row in (before, after))
    return second / first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--threshold", type=float, default=5, help="percent (default: 5)")
    arguments = parser.parse_args()
    before, after = load(arguments.before), load(arguments.after)
    least = 1 - arguments.threshold / 100
    failures = 0
    print("| measurement | before, t/s | after, t/s | ratio | |")
    print("|---|---:|---:|---:|---|")
    for key, old in before.items():
        new = after.get(key)
        if new is None:
            failures += 1
            print(f"| {name(old)} | {old['median_ts']:.2f} | | | gone |")
            continue
        change = ratio(old, new)
        slower = change.median + change.spread < least
        failures += slower
        verdict = "slower" if slower else "faster" if change.median - change.spread > 2 - least else ""
        rates = f"{old['median_ts']:.2f} | {new['median_ts']:.2f}"
        print(f"| {name(old)} | {rates} | {change.median:.3f} ± {change.spread:.3f} | {verdict} |")
    for key in after.keys() - before.keys():
        print(f"| {name(after[key])} | | {after[key]['median_ts']:.2f} | | new |")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
