"""scripts/compare_bench.py and least_disturbed.py: what they call slower, what they keep, what they exit with."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def row(rate: float, spread: float = 0.0, **changes: object) -> dict:
    identity = {"model_filename": "synthetic:opt-125m", "scheme": "nf4", "dtype": "bf16", "backends": "CPU"}
    numbers = {"n_threads": 2, "n_sequences": 1, "n_prompt": 0, "n_gen": 16, "n_depth": 0}
    return {**identity, **numbers, "median_ts": rate, "spread_ts": spread, **changes}


class CompareBench(unittest.TestCase):
    def compare(self, before: object, after: object, *arguments: str) -> subprocess.CompletedProcess:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / "before.json", Path(folder) / "after.json"]
            for file, rows in zip(files, (before, after)):
                file.write_text(rows if isinstance(rows, str) else json.dumps(rows))
            command = [sys.executable, str(SCRIPTS / "compare_bench.py"), *map(str, files), *arguments]
            return subprocess.run(command, capture_output=True, text=True)

    def test_equal_runs_pass(self):
        result = self.compare([row(100)], [row(100)])
        self.assertEqual(result.returncode, 0)
        self.assertIn("1.000 ± 0.000", result.stdout)

    def test_slower_than_the_threshold_fails(self):
        result = self.compare([row(100)], [row(90)])
        self.assertEqual(result.returncode, 1)
        self.assertIn("synthetic:opt-125m nf4 bf16, CPU x2, batch 1, tg16 | 100.00 | 90.00 | 0.900 ± 0.000 | slower",
                      result.stdout)
        self.assertEqual(self.compare([row(100)], [row(90)], "--threshold", "15").returncode, 0)

    def test_spread_is_an_excuse(self):
        # 3 % and 4 % give 5 %: 0.92 + 0.046 is above 0.95.
        result = self.compare([row(100, 3)], [row(92, 3.68)])
        self.assertEqual(result.returncode, 0)
        self.assertIn("0.920 ± 0.046", result.stdout)

    def test_faster_is_said(self):
        self.assertIn("| faster |", self.compare([row(100)], [row(150)]).stdout)

    def test_what_is_gone_fails_and_what_is_new_does_not(self):
        gone = self.compare([row(100), row(5, scheme="int8")], [row(100)])
        self.assertEqual(gone.returncode, 1)
        self.assertIn("| gone |", gone.stdout)
        new = self.compare([row(100)], [row(100), row(5, n_gen=0, n_prompt=64, n_depth=8)])
        self.assertEqual(new.returncode, 0)
        self.assertIn("pp64 @ d8", new.stdout)

    def test_kernels_are_compared_by_their_time(self):
        def kernel(nanoseconds: float, **changes: object) -> dict:
            shape = {"kernel": "fc1", "m": 16, "n": 4096, "k": 1024, "n_depth": 0}
            where = {key: row(0)[key] for key in ("model_filename", "scheme", "dtype", "backends", "n_threads")}
            return {**where, **shape, "median_ns": nanoseconds, "spread_ns": 0.0, **changes}

        result = self.compare([kernel(10000)], [kernel(20000)])
        self.assertEqual(result.returncode, 1)
        self.assertIn("fc1 4096 x 1024, 16 rows | 100000.00 | 50000.00 | 0.500 ± 0.000 | slower", result.stdout)
        self.assertIn("| new |", self.compare([kernel(1)], [kernel(1), kernel(1, m=1)]).stdout)

    def test_other_files_are_refused_in_one_sentence(self):
        for wrong in ("not json", "{}", "[{}]", "[1]"):
            result = self.compare([row(100)], wrong)
            if wrong == "{}":
                self.assertEqual(result.returncode, 1, "an empty run misses what was there")
                continue
            self.assertEqual(result.returncode, 2, wrong)
            self.assertEqual(result.stderr.count("\n"), 1)
            self.assertIn("after.json: expected the output of nibble bench -o json", result.stderr)


class LeastDisturbed(unittest.TestCase):
    def test_keeps_the_fastest_with_the_roofline_of_its_run(self):
        def run(rate: float, roofline: float) -> list[dict]:
            share = {"roofline_bytes_per_second": roofline, "roofline_share": 10 * rate / roofline}
            return [row(rate, **share)]

        with tempfile.TemporaryDirectory() as folder:
            files = []
            for i, rows in enumerate((run(50, 1000), run(80, 500), run(60, 2000))):
                files.append(Path(folder) / f"{i}.json")
                files[-1].write_text(json.dumps(rows))
            command = [sys.executable, "-B", str(SCRIPTS / "least_disturbed.py"), *map(str, files)]
            (kept,) = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        self.assertEqual(kept["median_ts"], 80)
        self.assertEqual(kept["roofline_bytes_per_second"], 500)
        self.assertEqual(kept["roofline_share"], 1.6)


if __name__ == "__main__":
    unittest.main()
