"""Peers in turns: first to last, then last to first (A B B A), each checked before any of its times is kept.

A case is what all of them work on: a model, or the products of its layers. A peer is opened for a case and then says
how far off its results are and how long its tests take; what keeps it from that is its row, as a sentence.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable, Iterator, Protocol, Sequence

sys.path.append(str(Path(__file__).resolve().parents[1]))
from samples import Measured  # noqa: E402

Seconds = dict[str, list[float]]  # by test
OWN = "nibble"
# nibble's scheme beside one of a peer's own.
NEAREST = {"int4": "nf4", "q4_0": "nf4", "q8_0": "int8"}


class Absent(Exception):
    """A sentence: why a peer cannot be had here."""


class Running(Protocol):
    """A peer that is loaded."""

    off_by: float  # |result - reference| / |reference|

    def turn(self, repeats: int) -> Seconds:
        """Of each test, after one run of it that warms up."""


class Case(Protocol):
    name: str

    def tolerance(self, scheme: str) -> float:
        """The most that a peer's results may be off by."""

    def work(self, test: str) -> float:
        """Tokens of a test, or products."""

    def release(self) -> None:
        """Gives back what closed peers held."""


@dataclass(frozen=True)
class Peer:
    name: str
    scheme: str
    dtype: str
    open: Callable[[Case], Running]


@dataclass
class Row:
    """One test of one peer, or why there is none."""

    case: str
    peer: str
    scheme: str
    dtype: str
    test: str = ""
    work: float = 0
    off_by: float | None = None
    median: float | None = None  # seconds, of all the test's work
    spread: float | None = None
    ratio: float | None = None  # this median / nibble's: how many times as fast nibble is
    ratio_spread: float | None = None
    seconds: list[float] = field(default_factory=list)
    skipped: str | None = None


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return text if isinstance(error, Absent) else f"{type(error).__name__}: {text}"[:240]


def there_and_back(peers: Sequence[Peer]) -> Iterator[Peer]:
    yield from peers
    yield from reversed(peers)


class Group:
    """Peers that are compared with each other, all of them loaded at once."""

    def __init__(self, case: Case, peers: Sequence[Peer], tell: Callable[[str], None]):
        self.case, self.peers, self.tell = case, list(peers), tell
        self.running: dict[Peer, Running] = {}
        self.seconds: dict[Peer, Seconds] = {peer: defaultdict(list) for peer in peers}
        self.skipped: dict[Peer, str] = {}

    def attempt(self, peer: Peer, work: Callable[[], None]) -> None:
        """Whatever keeps a peer from running is the finding."""
        try:
            work()
        except Exception as error:  # noqa: BLE001
            self.skipped[peer] = one_line(error)
            self.running.pop(peer, None)
            self.tell(f"{self.case.name}: {peer.name}, {peer.scheme} {peer.dtype}: skipped: {self.skipped[peer]}")

    def open(self, peer: Peer) -> None:
        running = peer.open(self.case)
        most = self.case.tolerance(peer.scheme)
        if not running.off_by <= most:
            raise ValueError(f"its results are off by {running.off_by:.3f}, more than {most}")
        self.running[peer] = running

    def take_turn(self, peer: Peer, repeats: int) -> None:
        if peer in self.skipped:
            return
        for test, seconds in self.running[peer].turn(repeats).items():
            self.seconds[peer][test] += seconds

    def measure(self, repeats: int) -> list[Row]:
        for peer in self.peers:
            self.attempt(peer, lambda: self.open(peer))
        for peer in there_and_back(self.peers):
            self.attempt(peer, lambda: self.take_turn(peer, repeats))
        return compared([row for peer in self.peers for row in self.rows(peer)])

    def rows(self, peer: Peer) -> Iterator[Row]:
        who = (self.case.name, peer.name, peer.scheme, peer.dtype)
        if peer in self.skipped:
            yield Row(*who, skipped=self.skipped[peer])
            return
        for test, seconds in self.seconds[peer].items():
            measured = Measured.of(seconds)
            yield Row(*who, test, self.case.work(test), self.running[peer].off_by, measured.median, measured.spread,
                      seconds=seconds)  # fmt: skip


def compared(rows: list[Row]) -> list[Row]:
    """The same rows with their ratios to nibble's row of the same test and the nearest scheme."""
    own = {(row.test, row.scheme, row.dtype): row for row in rows if row.peer == OWN and not row.skipped}
    for row in rows:
        base = own.get((row.test, NEAREST.get(row.scheme, row.scheme), row.dtype))
        if base is not None and not row.skipped:
            ratio = Measured(row.median, row.spread) / Measured(base.median, base.spread)
            row.ratio, row.ratio_spread = ratio.median, ratio.spread
    return rows


def as_json(rows: Sequence[Row]) -> list[dict]:
    return [asdict(row) for row in rows]
