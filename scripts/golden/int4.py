#!/usr/bin/env python3
"""Golden data of the int4 layout: what AutoGPTQ makes of chosen weights when it rounds to nearest, on a CPU.

    pip install --no-deps auto-gptq                (or its files on PYTHONPATH)
    python scripts/golden/int4.py --out tests/golden

Every array is the hexadecimal text of its little-endian bytes. `codes` and `zeros` have a byte a number, row after row of
the weight; `qweight` and `qzeros` are packed as GPTQ checkpoints have them.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import torch

SEED = 4
BITS = 4
# No whole number of the larger groups; AutoGPTQ packs 32 outputs and 32 inputs at least.
ROWS, COLS = 32, 160
GROUP_SIZES = (32, 64, 128, COLS)


def submodule(package: str, name: str) -> ModuleType:
    """package.name without what the packages above it import, which has nothing to do with numbers."""
    path = package
    for part in ["", *name.split(".")[:-1]]:
        path = f"{path}.{part}" if part else path
        if path not in sys.modules:
            bare = ModuleType(path)
            bare.__path__ = importlib.util.find_spec(path).submodule_search_locations
            sys.modules[path] = bare
    return importlib.import_module(f"{package}.{name}")


quantizer_module = submodule("auto_gptq", "quantization.quantizer")
linear_module = submodule("auto_gptq", "nn_modules.qlinear.qlinear_cuda")


def text(tensor: torch.Tensor) -> str:
    return tensor.detach().contiguous().numpy().tobytes().hex()


def grids(weight: torch.Tensor, group_size: int, sym: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scales and zero points [rows, groups], and the weight rounded to them, as GPTQ does without its corrections."""
    quantizer = quantizer_module.Quantizer()
    quantizer.configure(BITS, perchannel=True, sym=sym, mse=False)
    scales, zeros, rounded = [], [], []
    for group in weight.split(group_size, dim=1):
        quantizer.find_params(group, weight=True)
        scales.append(quantizer.scale)
        zeros.append(quantizer.zero)
        rounded.append(quantizer.quantize(group))
    return torch.cat(scales, 1), torch.cat(zeros, 1), torch.cat(rounded, 1)


def unpacked(words: torch.Tensor) -> torch.Tensor:
    """Eight codes a word, the first in the lowest bits, side by side in a row."""
    return torch.stack([(words >> (BITS * i)) & 15 for i in range(8)], 2).flatten(1).to(torch.uint8)


def packed(weight: torch.Tensor, group_size: int, sym: bool) -> dict:
    """A layer as it stands in a checkpoint, and its weights as its own forward has them in fp16."""
    rows, cols = weight.shape
    scales, zeros, rounded = grids(weight, group_size, sym)
    layer = torch.nn.Linear(cols, rows, bias=False)
    layer.weight.data = rounded
    quantized = linear_module.QuantLinear(BITS, group_size, cols, rows, False, weight_dtype=torch.float32)
    quantized.pack(layer, scales, zeros.clone(), quantized.g_idx)  # which counts them down where they stand
    half = scales.half()
    quantized.scales = half.t().contiguous()
    assert torch.equal(unpacked(quantized.qzeros).t() + 1, zeros.to(torch.uint8))
    decoded = quantized.forward(torch.eye(cols).half()).t()
    return {
        "group_size": group_size,
        "sym": sym,
        "scales": text(half),
        "qweight": text(quantized.qweight),
        "qzeros": text(quantized.qzeros),
        "decoded": text(decoded),
    }


def chosen(weight: torch.Tensor, sym: bool) -> dict:
    """One group a row, of weights that exercise one rule each; as many rows as there are."""
    scales, zeros, _ = grids(weight, weight.shape[1], sym)
    codes = torch.clamp(torch.round(weight / scales) + zeros, 0, 15)
    half = scales.half()
    return {
        "cols": weight.shape[1],
        "group_size": 4096,
        "sym": sym,
        "weights": text(weight),
        "codes": text(codes.to(torch.uint8)),
        "scales": text(half),
        "zeros": text(zeros.to(torch.uint8)),
        "decoded": text((half.double() * (codes - zeros).double()).float()),
    }


def edges() -> dict[str, torch.Tensor]:
    steps = torch.arange(-7.5, 8, 0.5)
    return {
        "halves_of_steps": torch.stack([steps, steps.clamp(min=-7), -steps, steps.clamp(max=5.5)]),
        "zeros": torch.tensor([[0.0, 0, 0, 0, 0], [0, -0.0, 0, 0, 0]]),
        "one": torch.tensor([[-0.5], [-3.0]]),
        "small": torch.tensor([[-1e-39, 3e-45, 0, 1e-39, 5e-39], [-1e-6, 2e-7, 0, 1e-6, 4e-7]]),
        "large": torch.tensor([[-400000.0, 1000, 0, 30000, 399999]]),
        "negative": torch.tensor([[-1.0, -2, -3, -0.1, -2.5]]),
    }


def golden() -> dict:
    generator = torch.Generator().manual_seed(SEED)
    weight = (torch.randn(ROWS, COLS, generator=generator) * 0.02).half().float()
    positive = torch.rand(3, 40, generator=generator) + 0.25
    return {
        "auto_gptq": importlib.metadata.version("auto_gptq"),
        "rows": ROWS,
        "cols": COLS,
        "weights": text(weight.half()),
        "packed": [packed(weight, size, sym) for sym in (True, False) for size in GROUP_SIZES],
        "edges": [{"name": name, **chosen(edge, sym)} for name, edge in edges().items() for sym in (True, False)]
        + [{"name": "positive", **chosen(positive, False)}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of golden data")
    path = parser.parse_args().out / "kernels" / "int4.json"
    path.write_text(json.dumps(golden(), indent=1) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
