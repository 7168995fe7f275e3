"""Of several runs of the same `nibble bench -o json`, keeps each measurement from the run that disturbed it least.

    python3 scripts/least_disturbed.py RUN.json [RUN.json ...] >best.json

For a machine that is shared: other work only ever makes a measurement slower, so the fastest of runs spread over time is
the nearest to the truth. Shares of the roofline are taken anew, of the fastest read that any run saw.
"""

import json
import sys
from pathlib import Path

from compare_bench import load


def main() -> int:
    runs = [load(Path(file)) for file in sys.argv[1:]]
    if not runs:
        print(__doc__, file=sys.stderr)
        return 2
    best: dict[tuple, dict] = {}
    for run in runs:
        for key, row in run.items():
            if key not in best or row["median_ts"] > best[key]["median_ts"]:
                best[key] = row
    for row in best.values():
        same = (r for run in runs for r in run.values() if all(r[k] == row[k] for k in ("backends", "n_threads")))
        row["roofline_bytes_per_second"] = max(r["roofline_bytes_per_second"] for r in same)
        if row["n_gen"]:
            row["roofline_share"] = row["read_bytes_per_second"] / row["roofline_bytes_per_second"]
    print(json.dumps(list(best.values()), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
