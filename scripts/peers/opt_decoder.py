"""OPT written by hand in PyTorch the way gpt-fast writes Llama: a static cache, one graph a token, linears to choose.

The strongest peer PyTorch offers for one sequence: no Python between kernels, no allocation, no host synchronisation.
Weights are buffers, so that one compiled layer serves all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from settings import Settings, captured
from torch import nn


class PlainLinear(nn.Module):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class Int8Linear(nn.Module):
    """Row-wise absmax; the compiler fuses the conversion into the product."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        scale = (weight.float().abs().amax(1) / 127).clamp(min=1e-8)
        self.register_buffer("codes", (weight.float() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(weight.dtype))
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.codes.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


class Int4Linear(nn.Module):
    """torch's own int4 product: groups of 64 between their least and largest weight. Needs bf16 on CUDA."""

    GROUP = 64

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        n, k = weight.shape
        if k % self.GROUP:
            raise ValueError(f"int4: expected rows of whole groups of {self.GROUP}, found {k}")
        groups = weight.float().reshape(n, k // self.GROUP, self.GROUP)
        low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
        scale = ((high - low) / 15).clamp(min=1e-8)
        codes = ((groups - low) / scale).round().clamp(0, 15).to(torch.int32).reshape(n, k)
        zeros = low + scale * 8  # the product computes (code - 8) * scale + zero
        parameters = torch.cat([scale, zeros], 2).transpose(0, 1).contiguous().to(weight.dtype)
        if weight.is_cuda:
            pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
            packed = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), 8)
            self.product = torch.ops.aten._weight_int4pack_mm
        else:
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
            self.product = torch.ops.aten._weight_int4pack_mm_for_cpu
        self.register_buffer("packed", packed)
        self.register_buffer("parameters_of_groups", parameters)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.product(x, self.packed, self.GROUP, self.parameters_of_groups)
        return y if self.bias is None else y + self.bias


class Layer(nn.Module):
    def __init__(self, layer: nn.Module, linear: type[nn.Module], context: int):
        super().__init__()
        attention = layer.self_attn
        self.heads, self.norm_first = attention.num_heads, layer.do_layer_norm_before
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        self.out = linear(attention.out_proj.weight, attention.out_proj.bias)
        self.fc1, self.fc2 = (linear(fc.weight, fc.bias) for fc in (layer.fc1, layer.fc2))
        self.norm1, self.norm2 = layer.self_attn_layer_norm, layer.final_layer_norm
        weight = attention.q_proj.weight
        shape = (self.heads, context, weight.shape[0] // self.heads)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(shape, dtype=weight.dtype, device=weight.device))

    def attend(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        self.keys.index_copy_(1, positions, k)
        self.values.index_copy_(1, positions, v)
        y = F.scaled_dot_product_attention(q[None], self.keys[None], self.values[None], attn_mask=mask)
        return self.out(y[0].transpose(0, 1).reshape(len(x), -1))

    def forward(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.norm_first:
            x = x + self.attend(self.norm1(x), positions, mask)
            return x + self.fc2(F.relu(self.fc1(self.norm2(x))))
        x = self.norm1(x + self.attend(x, positions, mask))
        return self.norm2(x + self.fc2(F.relu(self.fc1(x))))


class OptDecoder(nn.Module):
    """One sequence of at most `context` tokens of a transformers OPTForCausalLM, whose other parameters it shares."""

    def __init__(self, model: nn.Module, linear: type[nn.Module], context: int, compiled: bool):
        super().__init__()
        decoder = model.model.decoder
        self.table, self.table_of_positions = decoder.embed_tokens.weight, decoder.embed_positions.weight
        self.head = model.lm_head.weight
        self.project_in, self.project_out = (p or nn.Identity() for p in (decoder.project_in, decoder.project_out))
        self.final_norm = decoder.final_layer_norm or nn.Identity()
        self.layers = nn.ModuleList(Layer(layer, linear, context) for layer in decoder.layers)
        device = self.table.device
        self.register_buffer("places", torch.arange(context, device=device))
        self.register_buffer("token", torch.zeros(1, dtype=torch.long, device=device))
        self.register_buffer("position", torch.zeros(1, dtype=torch.long, device=device))
        self.step = torch.compile(self.plain_step, fullgraph=True) if compiled else self.plain_step
        self.run = self.step

    def logits(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Of the last token."""
        mask = self.places[None] <= positions[:, None]
        x = self.project_in(F.embedding(tokens, self.table)) + F.embedding(positions + 2, self.table_of_positions)
        for layer in self.layers:
            x = layer(x, positions, mask)
        return F.linear(self.project_out(self.final_norm(x[-1:])), self.head)

    def plain_step(self) -> None:
        self.token.copy_(self.logits(self.token, self.position).argmax(-1))
        self.position.add_(1)

    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        """Reads a prompt from the beginning and leaves its first token to be read next."""
        logits = self.logits(tokens, torch.arange(len(tokens), device=tokens.device))
        self.token.copy_(logits.argmax(-1))
        self.position.fill_(len(tokens))
        return logits[0]

    def capture(self, settings: Settings) -> None:
        for _ in range(2):
            self.step()
        self.run = captured(settings, self.step)

    def generate(self, count: int) -> None:
        for _ in range(count):
            self.run()
