"""bitsandbytes on a CPU, with the arithmetic held still: plain dequantize-and-multiply in the dtype asked for.

On a CPU with AVX512-BF16, Linear4bit repacks its weight at the first forward, rounds absmax to bfloat16, computes in
bfloat16 whatever the compute dtype, and refuses widths that are not multiples of 32. The packed form also loses the
nested statistics, so a model must be saved before its first forward.

Its CPU dequantizer (0.50.2) counts blocks row by row, so a weight whose rows are not whole blocks comes out with the
wrong scales; its quantizer and its CUDA kernels count them over the flattened weight. Here such a weight is
dequantized as one long row, where the two agree.
"""

from __future__ import annotations

from typing import Iterator

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import QuantState, dequantize_blockwise
from torch import nn


def plain_arithmetic(model: nn.Module, compute_dtype: torch.dtype) -> None:
    """Makes every Linear4bit dequantize to compute_dtype and multiply there."""
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype = compute_dtype
            module.compute_type_is_set = True


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)):
            yield name, module


def block_scales(state: QuantState) -> torch.Tensor:
    """fp32 absmax of every block, with the nested statistics undone."""
    if not state.nested:
        return state.absmax
    return dequantize_blockwise(state.absmax, state.state2) + state.offset


def dequantized_4bit(packed: torch.Tensor, state: QuantState, dtype: torch.dtype) -> torch.Tensor:
    flat = torch.ops.bitsandbytes.dequantize_4bit.default(
        packed, block_scales(state), state.blocksize, state.quant_type, [state.shape.numel()], dtype
    )
    return flat.reshape(state.shape)


def rows_are_whole_blocks(model: nn.Module) -> bool:
    """Whether bitsandbytes' own forward on the CPU is right for every 4-bit layer of the model."""
    return all(
        module.in_features % module.weight.quant_state.blocksize == 0
        for _, module in quantized_modules(model)
        if isinstance(module, bnb.nn.Linear4bit)
    )


def dequantized_weight(module: nn.Linear, dtype: torch.dtype) -> torch.Tensor:
    """The [out, in] weight a quantized module stands for."""
    if isinstance(module, bnb.nn.Linear8bitLt):
        scales = module.state.SCB if module.weight.SCB is None else module.weight.SCB
        return bnb.functional.int8_vectorwise_dequant(module.weight.data, scales).to(dtype)
    return dequantized_4bit(module.weight.data, module.weight.quant_state, dtype)


def replace_by_dequantized(model: nn.Module, dtype: torch.dtype) -> None:
    """Turns every quantized module into a plain Linear of its dequantized weight: the weight-only reference."""
    for name, module in list(quantized_modules(model)):
        plain = nn.Linear(module.in_features, module.out_features, bias=False, dtype=dtype)
        plain.weight = nn.Parameter(dequantized_weight(module, dtype), requires_grad=False)
        plain.bias = module.bias
        model.set_submodule(name, plain)
