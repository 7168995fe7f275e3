"""What repeated measurements of one thing amount to."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Sequence


@dataclass(frozen=True)
class Measured:
    """A median, and the median distance from it."""

    median: float
    spread: float

    @staticmethod
    def of(values: Sequence[float]) -> Measured:
        median = statistics.median(values)
        return Measured(median, statistics.median(abs(value - median) for value in values))

    def __truediv__(self, other: Measured) -> Measured:
        """Relative spreads of independent measurements add as squares."""
        ratio = self.median / other.median
        return Measured(ratio, ratio * math.hypot(*(m.spread / m.median for m in (self, other))))
