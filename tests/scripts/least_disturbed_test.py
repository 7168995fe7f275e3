"""What is kept of several runs."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "scripts" / "least_disturbed.py"


def row(backend: str, rate: float, roofline: float) -> dict:
    return {"model_filename": "m", "scheme": "nf4", "dtype": "fp16", "backends": backend, "n_threads": 1, "n_depth": 0,
            "n_sequences": 1, "n_prompt": 0, "n_gen": 8, "median_ts": rate, "spread_ts": 1.0,
            "read_bytes_per_second": 2 * rate, "roofline_bytes_per_second": roofline,
            "roofline_share": 2 * rate / roofline}  # fmt: skip


def kept(*runs: list[dict]) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.json" for number in range(len(runs))]
        for file, run in zip(files, runs):
            file.write_text(json.dumps(run))
        output = subprocess.run([sys.executable, "-B", PROGRAM, *files], check=True, capture_output=True).stdout
    return json.loads(output)


class LeastDisturbed(unittest.TestCase):
    def test_keeps_the_faster_of_two_runs(self) -> None:
        self.assertEqual([found["median_ts"] for found in kept([row("CPU", 5, 20)], [row("CPU", 6, 40)])], [6])

    def test_a_cpus_share_is_that_of_its_own_run(self) -> None:
        (found,) = kept([row("CPU", 5, 40)], [row("CPU", 6, 20)])
        self.assertEqual((found["roofline_bytes_per_second"], found["roofline_share"]), (20, 0.6))

    def test_a_gpus_share_is_that_of_the_fastest_read(self) -> None:
        (found,) = kept([row("CUDA", 5, 40)], [row("CUDA", 6, 20)])
        self.assertEqual((found["roofline_bytes_per_second"], found["roofline_share"]), (40, 0.3))


if __name__ == "__main__":
    unittest.main()
