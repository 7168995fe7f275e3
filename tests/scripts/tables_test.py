"""scripts/tables.py: what becomes of measurements, and that README holds what they say."""

import json
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import tables  # noqa: E402


def measured(model: str, scheme: str, rate: float, sequences: int = 1, depth: int = 0, prompt: int = 0) -> dict:
    return {"model_filename": f"synthetic:opt-{model}", "scheme": scheme, "dtype": "fp16", "n_sequences": sequences,
            "n_depth": depth, "n_prompt": prompt, "n_gen": 0 if prompt else 64, "median_ts": rate,
            "roofline_share": 0.5}  # fmt: skip


def peer(name: str, scheme: str, test: str, median: float, ratio: float | None, **changes: object) -> dict:
    row = {"case": "opt-350m", "peer": name, "scheme": scheme, "dtype": "bf16", "test": test, "work": 4,
           "median": median, "ratio": ratio, "skipped": None}  # fmt: skip
    return {**row, **changes}


class Tables(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(setattr, tables, "FIGURES", tables.FIGURES)
        tables.FIGURES = Path(folder.name)
        for device in ("cpu", "cuda"):
            (tables.FIGURES / device).mkdir()

    def write(self, place: str, document: object) -> None:
        (tables.FIGURES / place).write_text(json.dumps(document))

    def test_a_step_takes_the_time_of_a_token_of_each_sequence(self):
        rows = [measured("350m", "none", 2000, 1, 128), measured("350m", "none", 8000, 8, 128),
                measured("1.3b", "none", 1000, 1, 128)]  # fmt: skip
        self.write("cuda/decode.json", rows)
        header, rule, first, second = tables.cuda_decode().splitlines()
        self.assertEqual(header, "| ms | 1 sequence, 128 tokens held: none | 8 sequences, 128 tokens held: none |")
        self.assertEqual(rule, "|---|---:|---:|")
        self.assertEqual(first, "| opt-350m | 0.500 | 1.000 |")
        self.assertEqual(second, "| opt-1.3b | 1.000 |  |")

    def test_a_prompt_takes_the_time_of_its_tokens(self):
        self.write("cuda/prefill.json", [measured("350m", "nf4", 50000, prompt=512)])
        self.assertEqual(tables.cuda_prefill().splitlines()[-1], "| opt-350m | 10.2 |")

    def test_speed_has_a_column_for_each_model_and_dtype(self):
        rows = [measured("350m", "nf4", 20), measured("350m", "none", 10), measured("350m", "none", 1, depth=5)]
        self.write("cpu/speed.json", rows)
        header, _, *lines = tables.speed("cpu/speed.json").splitlines()
        self.assertEqual(header, "| tokens a second | 350m fp16 |")
        self.assertEqual(lines, ["| none | 10.0 (50 %) |", "| nf4 | 20.0 (50 %) |"])

    def test_threads_have_a_column_for_each_model_test_and_number_of_threads(self):
        one, two = measured("6.7b", "nf4", 5), measured("1.3b", "nf4", 20)
        one["n_threads"], two["n_threads"] = 1, 2
        prompt = {**measured("1.3b", "nf4", 45, prompt=128), "n_threads": 2, "roofline_share": None}
        self.write("cpu/a.json", [one])
        self.write("cpu/b.json", [two, prompt])
        header, _, line = tables.threads("cpu/a.json", "cpu/b.json").splitlines()
        names = "1.3b tg64, 2 threads | 1.3b pp128, 2 threads | 6.7b tg64, 1 thread"
        self.assertEqual(header, f"| tokens a second | {names} |")
        self.assertEqual(line, "| nf4 | 20.0 (50 %) | 45.0 | 5.0 (50 %) |")

    def test_peers_stand_below_nibble_and_the_last_run_counts(self):
        old = {"what": "models", "threads": 2, "rows": [peer("eager", "none", "tg4 @ d8", 9, 9)]}
        rows = [peer("eager", "none", "tg4 @ d8", 2, 2.0), peer("nibble", "none", "tg4 @ d8", 1, 1.0),
                peer("nibble", "none", "pp8", 1, 1.0, work=8),
                peer("other", "none", "", 0, None, skipped="it is not here")]  # fmt: skip
        one_thread = {"what": "models", "threads": 1, "rows": [peer("eager", "none", "tg4 @ d8", 7, 7)]}
        self.write("cpu/peers.json", [old, {"what": "models", "threads": 2, "rows": rows}, one_thread])
        text = tables.TABLES["cpu peers"]()
        self.assertEqual(text.splitlines(), [
            "|  | weights, compute | 350m pp8 | 350m tg4 @ d8 |",
            "|---|---|---:|---:|",
            "| nibble | none bf16 | **8 t/s** | **4 t/s** |",
            "| eager | none bf16 |  | 2.00 |",
            "",
            "Not run: other, none bf16 (it is not here).",
        ])  # fmt: skip

    def test_a_peer_that_runs_again_is_no_longer_skipped(self):
        def run(row: dict) -> dict:
            return {"what": "models", "threads": 2, "rows": [row]}

        skipped, runs = peer("eager", "none", "", 0, None, skipped="no"), peer("eager", "none", "pp8", 1, 2.0)
        self.write("cpu/peers.json", [run(skipped), run(runs)])
        self.assertNotIn("Not run", tables.TABLES["cpu peers"]())
        self.write("cpu/peers.json", [run(runs), run(skipped)])
        self.assertIn("Not run: eager", tables.TABLES["cpu peers"]())

    def test_on_a_gpu_milliseconds_of_a_token_and_of_a_prompt(self):
        rows = [peer("nibble", "none", "tg4 @ d8", 0.002, 1.0), peer("eager", "none", "tg4 @ d8", 0.02, 10.0),
                peer("eager", "none", "pp8", 0.02, 4.0, work=8)]  # fmt: skip
        self.write("cuda/peers.json", [{"what": "models", "threads": 1, "rows": rows}])
        self.assertEqual(tables.TABLES["cuda peers"]().splitlines()[2:],
                         ["| nibble | none bf16 |  | **0.5** |", "| eager | none bf16 | 20 (4.00) | 5 (10.00) |"])

    def test_products_stand_as_a_layer_has_them_fewer_rows_first(self):
        tests = ["fc2 x16", "qkv x16", "fc2 x1", "out x1", "qkv x1"]
        rows = [peer("nibble", "none", test, 1e-6, 1.0) for test in tests]
        self.write("cpu/peers.json", [{"what": "products", "threads": 1, "rows": rows}])
        header = tables.TABLES["cpu products, 1 thread"]().splitlines()[0]
        order = [cell.strip() for cell in header.split("|")[3:-1]]
        self.assertEqual(order, ["350m qkv x1", "350m out x1", "350m fc2 x1", "350m qkv x16", "350m fc2 x16"])

    def test_numbers_have_three_digits_and_no_exponent(self):
        shown = [tables.digits(value) for value in (1612.3, 402.8, 16.11, 0.5229)]
        self.assertEqual(shown, ["1612", "403", "16.1", "0.523"])

    def test_what_stands_outside_the_marks_stays(self):
        self.write("cuda/prefill.json", [measured("350m", "nf4", 50000, prompt=512)])
        text = "before\n<!-- table: cuda prefill -->\nold\n<!-- /table -->\nafter\n"
        new = tables.renewed(text)
        self.assertTrue(new.startswith("before\n<!-- table: cuda prefill -->\n| ms |"))
        self.assertTrue(new.endswith("|\n<!-- /table -->\nafter\n"))
        self.assertEqual(tables.renewed(new), new)

    def test_what_is_missing_is_a_sentence(self):
        with self.assertRaisesRegex(tables.Missing, "scripts/figures/cuda/prefill.json: expected measurements, found"):
            tables.cuda_prefill()
        with self.assertRaisesRegex(tables.Missing, "expected a table among .*, found nothing known"):
            tables.renewed("<!-- table: nothing known -->\n<!-- /table -->")


class Readme(unittest.TestCase):
    def test_holds_what_was_measured(self):
        for name in ("README.md", "kernels/cpu/NOTES.md", "scripts/peers/README.md"):
            text = (ROOT / name).read_text()
            self.assertTrue("<!-- table: " in text, f"{name} has no tables")
            self.assertTrue(tables.renewed(text) == text, f"python3 scripts/tables.py {name} makes others")


if __name__ == "__main__":
    unittest.main()
