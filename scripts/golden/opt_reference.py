"""What transformers computes on a checkpoint: logits of every position, of padded batches, and greedy tokens."""

from __future__ import annotations

import torch
from transformers import OPTConfig, OPTForCausalLM

PROMPT_LENGTHS = (11, 5)
NEW_TOKENS = 64
MIN_MARGIN = 1e-3
MIN_DISTINCT = 8
SDPA_TOLERANCE = 1e-4

Tensors = dict[str, torch.Tensor]


class UnfairSeed(Exception):
    """The greedy continuation has a near tie or repeats itself, so that comparing it would prove nothing."""


def prompts(config: OPTConfig, seed: int) -> list[torch.Tensor]:
    """Prompts of PROMPT_LENGTHS; an OPT prompt begins with bos, a Galactica prompt (bos 0) does not."""
    generator = torch.Generator().manual_seed(seed + 1_000_000)
    drawn = [torch.randint(4, config.vocab_size, (length,), generator=generator) for length in PROMPT_LENGTHS]
    if config.bos_token_id == 2:
        for tokens in drawn:
            tokens[0] = 2
    return drawn


@torch.no_grad()
def logits_of(model: OPTForCausalLM, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """fp32 logits of a [batch, length] input."""
    return model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float()


def each(name: str, model: OPTForCausalLM, drawn: list[torch.Tensor]) -> Tensors:
    """The logits of each prompt run alone, as `name.0`, `name.1`."""
    return {f"{name}.{i}": logits_of(model, tokens[None])[0] for i, tokens in enumerate(drawn)}


def token_tensors(drawn: list[torch.Tensor]) -> Tensors:
    return {f"tokens.{i}": tokens for i, tokens in enumerate(drawn)}


def left_padded(drawn: list[torch.Tensor], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(tokens) for tokens in drawn)
    rows = [torch.cat([torch.full((width - len(tokens),), pad), tokens]) for tokens in drawn]
    masks = [torch.cat([torch.zeros(width - len(tokens)), torch.ones(len(tokens))]) for tokens in drawn]
    return torch.stack(rows), torch.stack(masks).long()


def with_holes(mask: torch.Tensor) -> torch.Tensor:
    """The same mask with real tokens hidden in the middle of both rows."""
    holes = mask.clone()
    holes[0, [3, 4, 7]] = 0
    holes[1, [-2]] = 0
    return holes


def masked_logits(model: OPTForCausalLM, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits of a masked batch; masked positions mean nothing and are set to zero."""
    return logits_of(model, tokens, mask) * mask[..., None]


def batch_tensors(model: OPTForCausalLM, drawn: list[torch.Tensor]) -> Tensors:
    tokens, mask = left_padded(drawn, model.config.pad_token_id)
    holes = with_holes(mask)
    return {
        "batch_tokens": tokens,
        "batch_mask": mask,
        "batch_logits": masked_logits(model, tokens, mask),
        "holes_mask": holes,
        "holes_logits": masked_logits(model, tokens, holes),
    }


def check_margins(logits: torch.Tensor, chosen: torch.Tensor) -> None:
    top = logits.topk(2).values
    margin = ((top[:, 0] - top[:, 1]) / logits.abs().amax(dim=-1)).min().item()
    if margin <= MIN_MARGIN or not torch.equal(logits.argmax(-1), chosen) or len(chosen.unique()) < MIN_DISTINCT:
        raise UnfairSeed(f"margin {margin:.2e}, {len(chosen.unique())} distinct tokens")


def greedy(model: OPTForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """NEW_TOKENS greedy tokens, eos ignored, checked to be reproduced with a margin by one uncached forward."""
    model.generation_config.eos_token_id = None
    out = model.generate(
        tokens[None], attention_mask=torch.ones_like(tokens)[None], do_sample=False, max_new_tokens=NEW_TOKENS
    )[0]
    chosen = out[len(tokens) :]
    assert len(chosen) == NEW_TOKENS
    check_margins(logits_of(model, out[None, :-1])[0, len(tokens) - 1 :], chosen)
    return chosen


def greedy_tensors(model: OPTForCausalLM, drawn: list[torch.Tensor]) -> Tensors:
    return {f"greedy.{i}": greedy(model, tokens) for i, tokens in enumerate(drawn)}


def check_agreement(eager: Tensors, sdpa: Tensors) -> None:
    for name, expected in eager.items():
        gap = (sdpa[name] - expected).abs().max().item()
        if gap > SDPA_TOLERANCE * expected.abs().max().item():
            raise SystemExit(f"{name}: eager and sdpa attention differ by {gap}")
