"""scripts/peers: who is measured when, what is kept, what is compared with what. No peer but made-up ones runs here."""

import subprocess
import sys
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "peers")]

from harness import Absent, Group, Peer, as_json, compared, there_and_back  # noqa: E402
from samples import Measured  # noqa: E402
from shapes import SHAPES  # noqa: E402


class FakeCase:
    name = "opt-0"

    def tolerance(self, scheme: str) -> float:
        return {"none": 0.01}.get(scheme, 0.1)

    def work(self, test: str) -> float:
        return {"pp8": 8, "tg4": 4}[test]

    def release(self) -> None:
        pass


class FakePeer:
    """Takes the seconds it is told to, and writes down when it was asked."""

    log: list = []

    def __init__(self, name: str, seconds: list, off_by: float = 0.0):
        self.name, self.left, self.off_by = name, list(seconds), off_by

    def turn(self, repeats: int) -> dict:
        FakePeer.log.append(self.name)
        taken, self.left = self.left[:repeats], self.left[repeats:]
        if len(taken) < repeats:
            raise RuntimeError("nothing\nmore")
        return {"tg4": taken}


def peer(name: str, scheme: str, seconds: list, off_by: float = 0.0, dtype: str = "bf16") -> Peer:
    return Peer(name, scheme, dtype, lambda case: FakePeer(name, seconds, off_by))


def measure(*peers: Peer, repeats: int = 2) -> list:
    FakePeer.log = []
    return Group(FakeCase(), peers, lambda text: None).measure(repeats)


class MeasuredValues(unittest.TestCase):
    def test_one_disturbed_value_moves_neither_median_nor_spread(self):
        self.assertEqual(Measured.of([1.0, 1.5, 100.0, 1.0, 2.0]), Measured(1.5, 0.5))
        self.assertEqual(Measured.of([4.0, 2.0]), Measured(3.0, 1.0))

    def test_a_ratio_adds_relative_spreads_as_squares(self):
        ratio = Measured(8.0, 0.24) / Measured(2.0, 0.08)  # 3 % and 4 %
        self.assertAlmostEqual(ratio.median, 4.0)
        self.assertAlmostEqual(ratio.spread, 0.2)


class Turns(unittest.TestCase):
    def test_go_there_and_back(self):
        self.assertEqual("".join(there_and_back("ABC")), "ABCCBA")
        measure(peer("nibble", "none", [1] * 4), peer("b", "none", [1] * 4))
        self.assertEqual(FakePeer.log, ["nibble", "b", "b", "nibble"])

    def test_both_count(self):
        (row,) = measure(peer("nibble", "none", [1.0, 2.0, 4.0, 8.0]))
        self.assertEqual(row.seconds, [1.0, 2.0, 4.0, 8.0])
        self.assertEqual((row.median, row.spread, row.work), (3.0, 1.5, 4))


class Ratios(unittest.TestCase):
    def test_say_how_many_times_as_fast_nibble_is(self):
        rows = measure(peer("nibble", "nf4", [2.0] * 4), peer("b", "nf4", [5.0] * 4), peer("c", "nf4", [1.0] * 4))
        self.assertEqual([row.ratio for row in rows], [1.0, 2.5, 0.5])
        self.assertEqual([row.ratio_spread for row in rows], [0.0, 0.0, 0.0])

    def test_are_to_the_same_scheme_or_the_nearest(self):
        own = [peer("nibble", "int8", [2.0] * 4), peer("nibble", "nf4", [4.0] * 4)]
        rows = measure(*own, peer("b", "q8_0", [2.0] * 4), peer("b", "int4", [2.0] * 4), peer("b", "q4_0", [8.0] * 4))
        self.assertEqual([row.ratio for row in rows[2:]], [1.0, 0.5, 2.0])

    def test_are_to_the_same_dtype_or_none(self):
        rows = measure(peer("nibble", "none", [2.0] * 4, dtype="fp16"), peer("b", "none", [4.0] * 4, dtype="bf16"))
        self.assertIsNone(rows[1].ratio)

    def test_do_not_depend_on_the_order_of_rows(self):
        rows = measure(peer("b", "none", [4.0] * 4), peer("nibble", "none", [2.0] * 4))
        self.assertEqual([row.ratio for row in compared(rows)], [2.0, 1.0])


class WhatCannotBeKept(unittest.TestCase):
    def test_is_a_peer_with_wrong_results(self):
        for off_by in (0.02, float("nan")):
            (row,) = measure(peer("b", "none", [1.0] * 4, off_by))
            self.assertEqual(FakePeer.log, [], "it was timed")
            self.assertIn("off by", row.skipped)
            self.assertIsNone(row.median)
        (row,) = measure(peer("b", "nf4", [1.0] * 4, 0.02))
        self.assertIsNone(row.skipped, "0.02 is little for 4 bits")

    def test_is_a_peer_that_is_absent(self):
        def absent(case):
            raise Absent("b: no library given")

        rows = measure(Peer("b", "none", "bf16", absent), peer("nibble", "none", [1.0] * 4))
        self.assertEqual(rows[0].skipped, "b: no library given")
        self.assertIsNone(rows[1].skipped)

    def test_is_a_peer_that_fails_half_way(self):
        rows = measure(peer("nibble", "none", [1.0] * 4), peer("b", "none", [1.0] * 3))
        self.assertEqual(rows[1].skipped, "RuntimeError: nothing")
        self.assertEqual(rows[1].seconds, [])
        self.assertEqual(rows[0].ratio, 1.0)

    def test_becomes_json(self):
        (row,) = as_json(measure(peer("b", "none", [1.0])))
        self.assertEqual((row["case"], row["peer"], row["test"], row["ratio"]), ("opt-0", "b", "", None))


class Shapes(unittest.TestCase):
    def test_are_those_of_the_published_models(self):
        # Linears of a layer hold 12 h^2 weights where the feed-forward is 4 h wide.
        for name, shape in SHAPES.items():
            self.assertEqual(sum(n * k for n, k in shape.products.values()), 12 * shape.hidden**2, name)
            self.assertEqual(shape.hidden % shape.heads, 0, name)


class CommandLine(unittest.TestCase):
    def test_wrong_arguments_are_one_sentence(self):
        for arguments, sentence in (
            (["models", "--sizes", "9b"], "invalid choice: '9b'"),
            (["products", "--rows", "0"], "--rows: expected numbers from 1, found 0"),
            (["models", "--repeats", "0"], "--repeats: expected a number from 1, found 0"),
            (["models", "--nibble", "/nowhere"], "--nibble: expected the program, found no file /nowhere"),
            (["models", "--prompt", "2000"], "expected at most 2047 tokens of --prompt and --generate, found 2064"),
            (["models", "--out", "/nowhere/x.json"], "--out: expected a file in a folder, found no folder /nowhere"),
        ):
            command = [sys.executable, "-B", str(SCRIPTS / "peers/compare.py"), *arguments]
            result = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertIn(sentence, result.stderr.splitlines()[-1])


if __name__ == "__main__":
    unittest.main()
