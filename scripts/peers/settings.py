"""What one case of a run was asked for, and how time is taken there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from shapes import DTYPES


@dataclass(frozen=True)
class Settings:
    device: str
    dtype: str
    threads: int
    prompt: int
    generate: int
    rows: tuple[int, ...]
    nibble: Path | None
    ggml: Path | None

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, DTYPES[self.dtype])

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        self.synchronize()
        start = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start

    def release(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()


def distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    found = found.to(reference.device, torch.float32)
    return ((found - reference).norm() / reference.norm()).item()


def captured(settings: Settings, work: Callable[[], None]) -> Callable[[], None]:
    """The same work as one CUDA graph; itself on a CPU, which has no launches to save. It has run before."""
    work()
    settings.synchronize()
    if settings.device != "cuda":
        return work
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.work = work  # owns what the graph reads
    return graph.replay
