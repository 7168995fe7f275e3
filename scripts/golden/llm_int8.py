#!/usr/bin/env python3
"""Golden data of LLM.int8()'s arithmetic: what bitsandbytes' Linear8bitLt, threshold 6, makes of rows with outliers.

    python scripts/golden/llm_int8.py --out tests/golden

Every array is the hexadecimal text of its little-endian bytes, bfloat16 widened to float32. Each row is a call of its own:
in a batch bitsandbytes takes the columns of all its rows' outliers out of all of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import bitsandbytes as bnb
import torch

SEED = 5
THRESHOLD = 6.0
ROWS, OUTPUTS = 5, 24
WIDTHS = (96, 77)  # in tiles of 32 columns, and not
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def text(tensor: torch.Tensor) -> str:
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return wide.detach().contiguous().numpy().tobytes().hex()


def rows_of(width: int) -> torch.Tensor:
    """No outlier; one; some in a row; some beside the threshold, which fp16 may round up to; nothing else."""
    x = torch.randn(ROWS, width, generator=generator)
    x[1, 3] = -17.3
    x[2, 30:37] *= 25
    x[3, ::9] = 5.9995
    x[3, 1::9] = -6.0
    x[3, 2::9] = 5.997
    x[4] = 8 * x[4].sign() + x[4]
    return x


def linear_of(width: int, dtype: torch.dtype) -> bnb.nn.Linear8bitLt:
    plain = torch.nn.Linear(width, OUTPUTS, bias=True)
    plain.weight.data = torch.randn(OUTPUTS, width, generator=generator) * 0.05
    plain.bias.data = torch.randn(OUTPUTS, generator=generator)
    linear = bnb.nn.Linear8bitLt(width, OUTPUTS, has_fp16_weights=False, threshold=THRESHOLD)
    linear.load_state_dict(plain.to(torch.float16).state_dict())
    linear = linear.to("cpu")
    linear.bias.data = linear.bias.data.to(dtype)
    return linear.eval()


@torch.no_grad()
def case(width: int, name: str) -> dict:
    dtype = DTYPES[name]
    linear = linear_of(width, dtype)
    x = rows_of(width).to(dtype)
    y = torch.cat([linear(row.unsqueeze(0)) for row in x])
    assert y.dtype == dtype
    return {
        "dtype": name,
        "width": width,
        "outputs": OUTPUTS,
        "codes": text(linear.state.CB),
        "scb": text(linear.state.SCB),
        "bias": text(linear.bias.float()),
        "x": text(x.float()),
        "y": text(y.float()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of golden data")
    path = parser.parse_args().out / "kernels" / "llm_int8.json"
    cases = [case(width, name) for width in WIDTHS for name in DTYPES]
    path.write_text(json.dumps({"bitsandbytes": bnb.__version__, "cases": cases}, indent=1) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


generator = torch.Generator().manual_seed(SEED)

if __name__ == "__main__":
    main()
