"""Parameter counts and memory of the published OPT sizes, counted by transformers on models without storage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn
from transformers import BitsAndBytesConfig, OPTConfig, OPTForCausalLM
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert

BLOCKSIZE = 64
NESTED_BLOCKSIZE = 256
QUANT_MAP_BYTES = 16 * 4
NESTED_QUANT_MAP_BYTES = 256 * 4
OFFSET_BYTES = 4

# name: hidden size, layers, heads
SIZES = {
    "opt-125m": (768, 12, 12),
    "opt-350m": (1024, 24, 16),
    "opt-1.3b": (2048, 24, 32),
    "opt-2.7b": (2560, 32, 32),
    "opt-6.7b": (4096, 32, 32),
    "opt-13b": (5120, 40, 40),
    "opt-30b": (7168, 48, 56),
    "opt-66b": (9216, 64, 72),
    "opt-175b": (12288, 96, 96),
}
POST_NORM = {"opt-350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 512}}


def meta_model(name: str, dtype: torch.dtype) -> OPTForCausalLM:
    hidden, layers, heads = SIZES[name]
    config = OPTConfig(
        hidden_size=hidden,
        ffn_dim=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **POST_NORM.get(name, {}),
    )
    with torch.device("meta"):
        model = OPTForCausalLM(config).to(dtype)
    model.tie_weights()
    return model


def quantized_meta_model(name: str, options: dict[str, bool]) -> OPTForCausalLM:
    """transformers' own module replacement, with the weights given the shapes they have once quantized."""
    model = meta_model(name, torch.float16)
    replace_with_bnb_linear(
        model, get_keys_to_not_convert(model), BitsAndBytesConfig(**options), pre_quantized=True
    )
    for module in quantized_linears(model):
        if isinstance(module, bnb.nn.Linear4bit):
            packed = torch.empty((module.in_features * module.out_features // 2, 1), dtype=torch.uint8, device="meta")
            module.weight = nn.Parameter(packed, requires_grad=False)
        if module.bias is not None:
            module.bias = nn.Parameter(module.bias.to(torch.float16), requires_grad=False)
    return model


def quantized_linears(model: nn.Module) -> list[nn.Linear]:
    return [m for m in model.modules() if isinstance(m, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt))]


def state_bytes(linears: list[nn.Linear]) -> dict[str, int]:
    """Bytes of the statistics that live beside the weights and that get_memory_footprint() leaves out."""
    blocks = [-(-m.in_features * m.out_features // BLOCKSIZE) for m in linears]
    return {
        "int8_scb": sum(4 * m.out_features for m in linears),
        "absmax": sum(4 * count for count in blocks),
        "quant_map": QUANT_MAP_BYTES * len(linears),
        "nested_codes": sum(blocks),
        "nested_absmax": sum(4 * -(-count // NESTED_BLOCKSIZE) for count in blocks),
        "nested_quant_map": NESTED_QUANT_MAP_BYTES * len(linears),
        "nested_offset": OFFSET_BYTES * len(linears),
    }


def footprint(name: str) -> dict[str, Any]:
    single = meta_model(name, torch.float32)
    int8 = quantized_meta_model(name, {"load_in_8bit": True})
    four_bit = quantized_meta_model(name, {"load_in_4bit": True})
    linears = quantized_linears(four_bit)
    return {
        "parameters": single.num_parameters(),
        "quantizable_parameters": sum(m.in_features * m.out_features for m in linears),
        "quantized_modules": len(linears),
        "memory_footprint": {
            "fp32": single.get_memory_footprint(),
            "fp16": meta_model(name, torch.float16).get_memory_footprint(),
            "int8": int8.get_memory_footprint(),
            "4bit": four_bit.get_memory_footprint(),
        },
        "state_bytes": state_bytes(linears),
    }


def write_footprint(path: Path) -> None:
    path.write_text(json.dumps({name: footprint(name) for name in SIZES}, indent=1) + "\n")
