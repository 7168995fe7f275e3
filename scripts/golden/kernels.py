#!/usr/bin/env python3
"""Golden data of the weight layouts: what bitsandbytes makes of chosen weights, byte for byte, on a CPU.

    python scripts/golden/kernels.py --out tests/golden

Every array is the hexadecimal text of its little-endian bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as F
from bitsandbytes.backends.default.ops import _get_4bit_quantize_bounds

from bnb_cpu import dequantized_4bit

SEED = 3
BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
TYPES = ("nf4", "fp4")
# More than the largest block, odd, and no whole number of any block.
COUNT = 4211


def text(tensor: torch.Tensor) -> str:
    return tensor.detach().contiguous().numpy().tobytes().hex()


def normal(*shape: int, std: float = 0.02) -> torch.Tensor:
    return torch.randn(*shape, generator=generator) * std


def lut4(values: torch.Tensor, quant_type: str, blocksize: int, nested: bool = False) -> dict:
    packed, state = F.quantize_4bit(values, blocksize=blocksize, quant_type=quant_type, compress_statistics=nested)
    case = {"type": quant_type, "blocksize": blocksize, "codes": text(packed), "absmax": text(state.absmax)}
    if nested:
        case |= {
            "offset": text(state.offset.reshape(1)),
            "nested_absmax": text(state.state2.absmax),
            "decoded": text(dequantized_4bit(packed, state, torch.float32)),
        }
    return case


def ties(quant_type: str) -> torch.Tensor:
    """Blocks of absmax 1 that hold every border between two levels, and its neighbours in fp32."""
    borders, _ = _get_4bit_quantize_bounds(quant_type, torch.device("cpu"))
    up = torch.nextafter(borders, torch.tensor(2.0))
    down = torch.nextafter(borders, torch.tensor(-2.0))
    return torch.cat([borders, up, down, torch.linspace(-1, 1, 19)])


def edge_values() -> dict[str, torch.Tensor]:
    """Values that exercise one rule each."""
    smallest = torch.tensor([1e-39, -1e-39, 0.0, 3e-45]).repeat(20)
    return {
        "zeros": torch.zeros(100),
        "negative_zeros": -torch.zeros(65),
        "subnormals": smallest,
        "one": torch.tensor([0.5]),
        "short_last_block": normal(64 + 37),
        "odd": normal(63),
        "large": normal(130, std=1e37),
    }


def nested_absmax() -> dict[str, torch.Tensor]:
    """Absmax values whose sum fp32 holds exactly, so that their mean does not depend on the order of additions."""
    cases = {}
    for count in (1, 2, 255, 256, 257, 1000):
        steps = torch.randint(200, 1200, (count,), generator=generator)
        cases[f"random_{count}"] = steps.float() / 4096
    cases["equal"] = torch.full((300,), 0.25)
    cases["zeros"] = torch.zeros(5)
    return cases


def nested(absmax: torch.Tensor) -> dict:
    offset = absmax.mean()
    codes, state = F.quantize_blockwise(absmax - offset, blocksize=256)
    decoded = F.dequantize_blockwise(codes, state) + offset
    return {
        "absmax": text(absmax),
        "offset": text(offset.reshape(1)),
        "codes": text(codes),
        "nested_absmax": text(state.absmax),
        "decoded": text(decoded),
    }


def int8_rows() -> dict[str, torch.Tensor]:
    halves = torch.arange(-126.5, 127, 1.0)
    return {
        "random": normal(9, 45),
        "ties": torch.cat([halves, torch.tensor([127.0])]).reshape(1, -1),
        "zeros_between": torch.stack([normal(20), torch.zeros(20), normal(20)]),
        "subnormals": normal(3, 17, std=1e-6),
        "one_column": normal(5, 1),
        "seed": torch.tensor([[0.11218262, -0.08435059, -0.02027893, 0.02336121, 0.01412964, 0.125]]),
    }


def int8(rows: torch.Tensor) -> dict:
    codes, scb, _ = F.int8_vectorwise_quant(rows.half())
    decoded = F.int8_vectorwise_dequant(codes, scb)
    return {
        "cols": rows.shape[1],
        "weights": text(rows),
        "codes": text(codes),
        "scb": text(scb),
        "decoded": text(decoded),
    }


def golden() -> dict:
    values = normal(COUNT).half().float()
    return {
        "bitsandbytes": bnb.__version__,
        "levels": {t: text(F.get_4bit_type(t, device="cpu")) for t in TYPES},
        "dynamic_map": text(F.create_dynamic_map()),
        "values": text(values),
        "blocksizes": [lut4(values, t, size) for t in TYPES for size in BLOCKSIZES],
        "decoded": [lut4(values[:1024], t, 64, nested=True) for t in TYPES],
        "ties": [{"values": text(ties(t)), **lut4(ties(t), t, 64)} for t in TYPES],
        "edges": [
            {"name": name, "values": text(edge), **lut4(edge, t, 64)}
            for name, edge in edge_values().items()
            for t in TYPES
        ],
        "nested": [{"name": name, **nested(absmax)} for name, absmax in nested_absmax().items()],
        "int8": [{"name": name, **int8(rows)} for name, rows in int8_rows().items()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of golden data")
    path = parser.parse_args().out / "kernels" / "layouts.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden(), indent=1) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


generator = torch.Generator().manual_seed(SEED)

if __name__ == "__main__":
    main()
