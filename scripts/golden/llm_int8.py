#!/usr/bin/env python3
"""Golden data of LLM.int8()'s arithmetic: what bitsandbytes' Linear8bitLt, threshold 6, makes of rows with outliers, and
the logits of the int8 models.

    python scripts/golden/llm_int8.py --out tests/golden         (after models.py)

Each row is a call of its own: in a batch bitsandbytes takes the columns of all its rows' outliers out of all of them. In
kernels/llm_int8.json every array is the hexadecimal text of its little-endian bytes, bfloat16 widened to float32. For the
logits, in models/*_int8/llm_int8.safetensors, 1/127^2 is that of bitsandbytes' CUDA kernels: its CPU's is 1.8e-5 too large,
which turns some activations to the next whole number, and the logits by a percent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.pop(0)  # siblings are called tokenizers.py and kernels.py
os.environ |= {"HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}

import bitsandbytes as bnb  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import OPTForCausalLM  # noqa: E402

SEED = 5
THRESHOLD = 6.0
ROWS, OUTPUTS = 5, 24
WIDTHS = (96, 77)  # in tiles of 32 columns, and not
CUDA_FACTOR = 6.200012e-05
FORWARD = bnb.nn.Linear8bitLt.forward
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


def dequantized(
    sums: torch.Tensor, row_stats: torch.Tensor, col_stats: torch.Tensor, dtype=None, bias=None
) -> torch.Tensor:
    out = sums * (row_stats.reshape(-1, 1) * col_stats.reshape(1, -1)) * CUDA_FACTOR
    return (out if bias is None else out + bias).to(dtype or torch.float16)


def row_by_row(linear: bnb.nn.Linear8bitLt, x: torch.Tensor) -> torch.Tensor:
    rows = [FORWARD(linear, row.unsqueeze(0)) for row in x.reshape(-1, x.shape[-1])]
    return torch.cat(rows).reshape(*x.shape[:-1], -1)


@torch.no_grad()
def write_logits(folder: Path) -> None:
    model = OPTForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map="cpu", attn_implementation="eager"
    ).eval()
    tokens = load_file(folder / "expected.safetensors")
    logits = {f"logits.{i}": model(tokens[f"tokens.{i}"].reshape(1, -1)).logits[0] for i in range(2)}
    save_file(logits, folder / "llm_int8.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of golden data")
    out = parser.parse_args().out
    path = out / "kernels" / "llm_int8.json"
    cases = [case(width, name) for width in WIDTHS for name in DTYPES]
    path.write_text(json.dumps({"bitsandbytes": bnb.__version__, "cases": cases}, indent=1) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")
    library = torch.library.Library("bitsandbytes", "IMPL")  # as long as it lives
    library.impl("int8_mm_dequant", dequantized, "CPU")
    bnb.nn.Linear8bitLt.forward = row_by_row
    for folder in sorted((out / "models").glob("*_int8")):
        if json.loads((folder / "config.json").read_text())["quantization_config"]["load_in_8bit"]:
            write_logits(folder)


generator = torch.Generator().manual_seed(SEED)

if __name__ == "__main__":
    main()
