"""Checkpoints as AutoGPTQ and AutoAWQ save them, and what they decode to.

    pip install --no-deps auto-gptq autoawq        (or their files on PYTHONPATH)
    python scripts/golden/opt_int4.py --out tests/golden

After scripts/golden/models.py, whose case `whole_32s` is packed. Weights are rounded to nearest, without the corrections
that either method is named for; what is packed is the same. Each tool's own dequantization says what the weights are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

# scripts/, not scripts/golden/, goes on the path: siblings there are called tokenizers.py and kernels.py.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import OPTForCausalLM  # noqa: E402

from golden.int4 import BITS, grids, submodule  # noqa: E402
from golden.opt_reference import Tensors, each, token_tensors  # noqa: E402

SOURCE = "whole_32s"
DTYPES = {"": torch.float32, "_bf16": torch.bfloat16, "_fp16": torch.float16}
LAYERS = "model.decoder.layers."

gptq = submodule("auto_gptq", "nn_modules.qlinear.qlinear_cuda")
awq = submodule("awq", "modules.linear.gemm")
awq_packing = submodule("awq", "utils.packing_utils")

# The tensors of a layer, and its weight [out, in]: by the tool's own arithmetic, in fp32, where it rounds nothing.
Packed = tuple[Tensors, torch.Tensor]


def with_gptq(linear: torch.nn.Linear, group_size: int, sym: bool) -> Packed:
    scales, zeros, rounded = grids(linear.weight.data, group_size, sym)
    layer = torch.nn.Linear(linear.in_features, linear.out_features, bias=False)
    layer.weight.data = rounded
    packed = gptq.QuantLinear(BITS, group_size, layer.in_features, layer.out_features, False, weight_dtype=torch.float32)
    packed.pack(layer, scales, zeros.clone(), packed.g_idx)
    packed.scales = packed.scales.half().float()
    decoded = packed.forward(torch.eye(layer.in_features)).t()
    tensors = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales", "g_idx")}
    return tensors | {"scales": packed.scales.half()}, decoded


def with_awq(linear: torch.nn.Linear, group_size: int, sym: bool) -> Packed:
    scales, zeros, rounded = grids(linear.weight.data, group_size, sym)
    layer = torch.nn.Linear(linear.in_features, linear.out_features, bias=False)
    layer.weight.data = rounded
    packed = awq.WQLinear_GEMM.from_linear(layer, BITS, group_size, False, scales.t().contiguous(), zeros.t().contiguous())
    tensors = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}
    scales = packed.scales.float()
    return tensors, awq_packing.dequantize_gemm(packed.qweight, packed.qzeros, scales, BITS, group_size).t()


@dataclass(frozen=True)
class Case:
    name: str
    pack: Callable[[torch.nn.Linear, int, bool], Packed]
    group_size: int
    sym: bool
    config: dict[str, Any]


GPTQ_CONFIG = {"bits": BITS, "checkpoint_format": "gptq", "desc_act": False, "group_size": 128, "quant_method": "gptq"}
CASES = (
    Case("int4", with_gptq, 128, True, GPTQ_CONFIG | {"sym": True}),
    Case("int4_asym", with_gptq, 128, False, GPTQ_CONFIG | {"sym": False}),
    Case(
        "awq",
        with_awq,
        32,
        False,
        {"bits": BITS, "group_size": 32, "quant_method": "awq", "version": "gemm", "zero_point": True},
    ),
)


def load(folder: Path, dtype: torch.dtype) -> OPTForCausalLM:
    return OPTForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def write(models: Path, case: Case) -> None:
    source, folder = models / SOURCE, models / f"{SOURCE}_{case.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tensors = load_file(source / "model.safetensors")
    decoded: Tensors = {}
    for name, linear in load(source, torch.float32).named_modules():
        if not isinstance(linear, torch.nn.Linear) or not name.startswith(LAYERS):
            continue
        del tensors[name + ".weight"]
        packed, decoded[name + ".weight"] = case.pack(linear, case.group_size, case.sym)
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in packed.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text()) | {"quantization_config": case.config}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.copy(source / "generation_config.json", folder)
    with safe_open(source / "expected.safetensors", "pt") as file:
        drawn = [file.get_tensor(f"tokens.{i}") for i in range(2)]
    expected = {f"dequantized_fp16.{name}": value.half().contiguous() for name, value in decoded.items()}
    expected |= token_tensors(drawn)
    for suffix, dtype in DTYPES.items():
        model = load(source, dtype)
        for name, value in decoded.items():
            model.get_parameter(name).data = value.to(dtype)
        expected |= each("logits_weight_only" + suffix, model, drawn)
    save_file(expected, folder / "expected.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the fixtures folder, tests/golden")
    models = parser.parse_args().out / "models"
    torch.set_num_threads(1)
    for case in CASES:
        write(models, case)


if __name__ == "__main__":
    main()
