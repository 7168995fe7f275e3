"""What a run of the harness was asked for, and the shapes of the published models."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
VOCABULARY = 50272


@dataclass(frozen=True)
class Shape:
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    embedded: int
    norm_first: bool = True

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of the weights of a layer, as `nibble bench --kernels` calls them."""
        h, f = self.hidden, self.feed_forward
        return {"qkv": (3 * h, h), "out": (h, h), "fc1": (f, h), "fc2": (h, f)}


SHAPES = {
    "125m": Shape(768, 3072, 12, 12, 768),
    "350m": Shape(1024, 4096, 24, 16, 512, norm_first=False),
    "1.3b": Shape(2048, 8192, 24, 32, 2048),
    "2.7b": Shape(2560, 10240, 32, 32, 2560),
    "6.7b": Shape(4096, 16384, 32, 32, 4096),
    "13b": Shape(5120, 20480, 40, 40, 5120),
    "30b": Shape(7168, 28672, 48, 56, 7168),
}


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
        return DTYPES[self.dtype]

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
    return graph.replay
