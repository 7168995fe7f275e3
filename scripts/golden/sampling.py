"""Golden data of the sampling processors: what transformers' own chain leaves of fixed logits."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, OPTConfig, OPTForCausalLM

SEED = 11
OFF: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
}
TOP_P_CLEARANCE = 1e-5


@dataclass(frozen=True)
class Request:
    logits: str
    options: dict[str, Any]
    history: tuple[int, ...] = (2, 5, 9)


def vectors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)

    def normal(size: int, std: float) -> torch.Tensor:
        return torch.randn(size, generator=generator) * std

    ties = (normal(24, 2.0) * 2).round() / 2
    peaked = normal(40, 0.5)
    peaked[17] = 12.0
    return {
        "wide": normal(32, 2.0),
        "narrow": normal(64, 0.3),
        "ties": ties,
        "flat": torch.full((24,), 0.75),
        "peaked": peaked,
        "negative": -normal(32, 2.0).abs() - 0.5,
        "partly_masked": torch.where(torch.arange(32) % 3 == 0, -torch.inf, normal(32, 2.0)),
    }


def single_requests() -> list[Request]:
    """One processor at a time, with its edge cases."""
    requests = [Request("wide", {})]
    for logits in ("wide", "ties", "negative"):
        requests += [Request(logits, {"repetition_penalty": p}, (2, 5, 5, 9, 0, 5, 23)) for p in (1.3, 0.7)]
        requests += [Request(logits, {"temperature": t}) for t in (0.1, 0.7, 2.5)]
    for logits in ("wide", "ties", "flat", "peaked", "partly_masked"):
        requests += [Request(logits, {"top_k": k}) for k in (1, 3, 5, 1000)]
        requests += [Request(logits, {"min_p": p}) for p in (0.0, 0.05, 0.3, 1.0)]
    for logits in ("wide", "narrow", "peaked", "partly_masked"):
        requests += [Request(logits, {"top_p": p}) for p in (0.0, 0.1, 0.5, 0.9, 0.999, 1.0)]
        requests += [Request(logits, {"typical_p": p}) for p in (0.2, 0.6, 0.95)]
    return requests


def combined_requests() -> list[Request]:
    """Several at once, in the order transformers gives them."""
    history = (2, 7, 7, 11, 3)
    return [
        Request("wide", {"temperature": 0.7, "top_k": 10}, history),
        Request("wide", {"temperature": 0.7, "top_p": 0.8}, history),
        Request("wide", {"temperature": 1.8, "min_p": 0.1}, history),
        Request("wide", {"top_k": 8, "top_p": 0.7}, history),
        Request("wide", {"top_p": 0.9, "min_p": 0.2}, history),
        Request("wide", {"top_k": 12, "typical_p": 0.7}, history),
        Request("ties", {"temperature": 0.5, "top_k": 3}, history),
        Request("narrow", {"repetition_penalty": 1.2, "temperature": 0.8, "top_k": 40, "top_p": 0.95}, history),
        Request(
            "negative",
            {"repetition_penalty": 1.1, "temperature": 0.9, "top_k": 20, "top_p": 0.92, "min_p": 0.05},
            history,
        ),
        Request(
            "narrow",
            {"repetition_penalty": 1.1, "temperature": 1.3, "top_k": 50, "top_p": 0.9, "min_p": 0.3, "typical_p": 0.9},
            history,
        ),
    ]


def chain_owner() -> OPTForCausalLM:
    """A model only because transformers keeps the order of its processors in a method of one."""
    tiny = OPTConfig(vocab_size=8, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=1)
    with torch.device("meta"):
        return OPTForCausalLM(tiny)


def check_clear_of_top_p(logits: torch.Tensor, options: dict[str, Any]) -> None:
    """No cumulative probability may lie so near the cutoff that the order of a summation decides."""
    cutoff = 1 - options.get("top_p", 1.0)
    if not 0 < cutoff < 1:
        return
    cumulative = logits.sort().values.softmax(-1).cumsum(-1)
    if (cumulative - cutoff).abs().min() < TOP_P_CLEARANCE:
        raise SystemExit(f"top_p {options['top_p']} cuts within rounding of a cumulative probability")


def log_probabilities(owner: OPTForCausalLM, logits: torch.Tensor, request: Request) -> torch.Tensor:
    config = GenerationConfig(do_sample=True, **(OFF | request.options))
    chain = owner._get_logits_processor(generation_config=config, input_ids_seq_length=len(request.history))
    history = torch.tensor([request.history], dtype=torch.long)
    if set(request.options) == {"top_p"}:
        check_clear_of_top_p(logits, request.options)
    return chain(history, logits[None].clone())[0].log_softmax(-1)


def as_json(values: torch.Tensor) -> list[float | None]:
    """Shortest decimals that read back to the same fp32; minus infinity is null."""
    return [None if math.isinf(value) else float(f"{value:.9g}") for value in values.tolist()]


def write_sampling(path: Path) -> None:
    owner = chain_owner()
    logits = vectors()
    cases = [
        {
            "logits": request.logits,
            "history": list(request.history),
            "options": OFF | request.options,
            "log_probabilities": as_json(log_probabilities(owner, logits[request.logits], request)),
        }
        for request in single_requests() + combined_requests()
    ]
    content = {"logits": {name: as_json(values) for name, values in logits.items()}, "cases": cases}
    path.write_text(json.dumps(content, separators=(",", ":")).replace('{"logits":"', '\n{"logits":"') + "\n")
