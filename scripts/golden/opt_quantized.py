"""Checkpoints quantized by bitsandbytes and saved by transformers, and what the peers compute on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import bitsandbytes as bnb
import torch
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, OPTForCausalLM

from golden.bnb_cpu import (
    dequantized_4bit,
    dequantized_weight,
    plain_arithmetic,
    replace_by_dequantized,
    rows_are_whole_blocks,
)
from golden.opt_reference import Tensors, each, token_tensors

BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
BLOCKSIZE_WEIGHT = (33, 130)  # one full block of 4096 and a short one
BLOCKSIZE_SEED = 7
DTYPES = {"": torch.float32, "_bf16": torch.bfloat16, "_fp16": torch.float16}


@dataclass(frozen=True)
class Scheme:
    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A float checkpoint, the schemes it is quantized to, and the modules whose dequantized weights are kept.

    All of them rounded to fp16; the last, a small one, also in fp32.
    """

    name: str
    schemes: tuple[Scheme, ...]
    dequantized: tuple[str, ...]


def four_bit(quant_type: str, **options: Any) -> dict[str, Any]:
    return {"load_in_4bit": True, "bnb_4bit_quant_type": quant_type} | options


INT8 = Scheme("int8", {"load_in_8bit": True})
NF4 = Scheme("nf4", four_bit("nf4"))
NF4_DQ = Scheme("nf4_dq", four_bit("nf4", bnb_4bit_use_double_quant=True))
FP4 = Scheme("fp4", four_bit("fp4"))
FP4_DQ = Scheme("fp4_dq", four_bit("fp4", bnb_4bit_use_double_quant=True))
SCHEMES = (INT8, NF4, FP4, NF4_DQ, FP4_DQ)
STORAGES = tuple(
    Scheme(f"nf4_storage_{storage}", four_bit("nf4", bnb_4bit_quant_storage=storage))
    for storage in ("float16", "bfloat16", "float32", "int8")
)
LAYER = "model.decoder.layers."
SOURCES = (
    Source("pre_norm_fp16", SCHEMES, (LAYER + "0.fc1", LAYER + "1.self_attn.k_proj")),
    Source("post_norm_350m", SCHEMES + STORAGES, (LAYER + "1.fc2", "model.decoder.project_in")),
    Source("odd_dims", (INT8, NF4, NF4_DQ, FP4_DQ), (LAYER + "0.fc1", "model.decoder.project_out")),
    Source("pre_norm_bf16", (INT8, NF4_DQ), (LAYER + "1.self_attn.v_proj",)),
    Source("pre_norm", (INT8, NF4), (LAYER + "0.self_attn.q_proj",)),
)


def load(folder: Path, dtype: torch.dtype) -> OPTForCausalLM:
    model = OPTForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cpu").eval()
    plain_arithmetic(model, dtype)
    return model


def quantize(source: Path, scheme: Scheme, folder: Path) -> int:
    """Quantizes on load in the source's own dtype and saves before any forward. Returns get_memory_footprint()."""
    config = BitsAndBytesConfig(**scheme.options)
    model = OPTForCausalLM.from_pretrained(source, dtype="auto", quantization_config=config, device_map="cpu")
    model.save_pretrained(folder)
    return model.get_memory_footprint()


def dequantized_tensors(folder: Path, names: tuple[str, ...]) -> Tensors:
    model = load(folder, torch.float32)
    modules = {name: model.get_submodule(name) for name in names}
    tensors = {f"dequantized_fp16.{n}.weight": dequantized_weight(m, torch.float16) for n, m in modules.items()}
    last = names[-1]
    tensors[f"dequantized.{last}.weight"] = dequantized_weight(modules[last], torch.float32)
    return tensors


def weight_only(folder: Path, dtype: torch.dtype) -> OPTForCausalLM:
    model = load(folder, dtype)
    replace_by_dequantized(model, dtype)
    return model


def logits_in_every_dtype(
    name: str, loader: Callable[[Path, torch.dtype], OPTForCausalLM], folder: Path, drawn: list[torch.Tensor]
) -> Tensors:
    tensors: Tensors = {}
    for suffix, dtype in DTYPES.items():
        tensors |= each(name + suffix, loader(folder, dtype), drawn)
    return tensors


def expected_tensors(folder: Path, source: Source, scheme: Scheme, drawn: list[torch.Tensor]) -> Tensors:
    if scheme in STORAGES:
        return each("logits_weight_only", weight_only(folder, torch.float32), drawn)
    tensors = logits_in_every_dtype("logits_weight_only", weight_only, folder, drawn)
    own = logits_in_every_dtype("logits", load, folder, drawn)
    if scheme is INT8:  # bitsandbytes also quantizes the activations
        tensors |= own
    elif rows_are_whole_blocks(load(folder, torch.float32)):
        check_equal(own, tensors)
    return tensors | dequantized_tensors(folder, source.dequantized)


def check_equal(own: Tensors, plain: Tensors) -> None:
    for name, logits in own.items():
        if not torch.equal(logits, plain[name.replace("logits", "logits_weight_only")]):
            raise SystemExit(f"{name}: bitsandbytes' 4-bit logits are not those of the dequantized weights")


def write_quantized(models: Path, source: Source, drawn: list[torch.Tensor]) -> None:
    for scheme in source.schemes:
        folder = models / f"{source.name}_{scheme.name}"
        footprint = torch.tensor(quantize(models / source.name, scheme, folder))
        expected = expected_tensors(folder, source, scheme, drawn)
        save_file(expected | token_tensors(drawn) | {"memory_footprint": footprint}, folder / "expected.safetensors")


def blocksize_tensors(weight: torch.Tensor, quant_type: str, blocksize: int) -> Tensors:
    """Codes, scales, nested scales and the dequantized values of one weight."""
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=blocksize, quant_type=quant_type)
    nested_packed, nested = bnb.functional.quantize_4bit(
        weight, blocksize=blocksize, quant_type=quant_type, compress_statistics=True
    )
    assert torch.equal(packed, nested_packed)
    prefix = f"{quant_type}.{blocksize}."
    return {
        prefix + "packed": packed,
        prefix + "absmax": state.absmax,
        prefix + "nested_codes": nested.absmax,
        prefix + "nested_absmax": nested.state2.absmax,
        prefix + "nested_offset": nested.offset,
        prefix + "dequantized_fp16": dequantized_4bit(packed, state, torch.float16),
    }


def write_blocksizes(path: Path) -> None:
    generator = torch.Generator().manual_seed(BLOCKSIZE_SEED)
    weight = (torch.randn(BLOCKSIZE_WEIGHT, generator=generator) * 0.2).half()
    tensors: Tensors = {"weight": weight, "nested_quant_map": bnb.functional.create_dynamic_map()}
    for quant_type in ("nf4", "fp4"):
        for blocksize in BLOCKSIZES:
            tensors |= blocksize_tensors(weight, quant_type, blocksize)
    save_file(tensors, path)
