"""Of several runs of the same `nibble bench -o json`, keeps each measurement from the run that disturbed it least.

    python3 scripts/least_disturbed.py RUN.json [RUN.json ...] >best.json

For a machine that is shared: other work only ever makes a measurement slower, so the fastest of runs spread over time is
the nearest to the truth. A share of the roofline is that of its own run, as what memory gives changes from one to another;
but a GPU's memory is nobody else's, so there the fastest read of all runs is the roofline of all measurements.
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
    of_gpu = [row for run in runs for row in run.values() if row["backends"] == "CUDA"]
    fastest_read = max((row["roofline_bytes_per_second"] for row in of_gpu), default=None)
    for row in best.values():
        if row["backends"] == "CUDA":
            row["roofline_bytes_per_second"] = fastest_read
            if row["roofline_share"] is not None:
                row["roofline_share"] = row["read_bytes_per_second"] / row["roofline_bytes_per_second"]
    print(json.dumps(list(best.values()), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
