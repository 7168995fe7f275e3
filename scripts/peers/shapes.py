"""The published models, as far as their speed goes."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as everybody but nibble calls them
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
