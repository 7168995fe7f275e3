"""Perplexity of a checkpoint on a text file as transformers computes it: the reference for nibble's figure.

    python scripts/golden/perplexity.py --model DIR --text FILE [--window 512] [--max-windows 64] [--dtype fp32]

The text is tokenized once and cut into consecutive windows of --window tokens; what is left at the end is dropped.
Each window is run alone. With --prefix tokenizer every window is preceded by the tokens the tokenizer puts before a
text, and all of its tokens are scored; with --prefix none its first token is context only; --prefix 2 names the tokens.
Perplexity is exp of the mean negative log-likelihood of the scored tokens, from fp32 log-softmax summed in fp64. A
bitsandbytes checkpoint runs in plain arithmetic; --weight-only also keeps LLM.int8 from quantizing the activations.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

# scripts/, not scripts/golden/, goes on the path: siblings there are called tokenizers.py and kernels.py.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ |= {"HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}

import sentencepiece  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoTokenizer, OPTForCausalLM  # noqa: E402

from golden.bnb_cpu import plain_arithmetic, replace_by_dequantized  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Tokens:
    prefix: list[int]
    text: list[int]


@dataclass(frozen=True)
class Result:
    perplexity: float
    mean_nll: float
    scored_tokens: int
    windows: int
    window: int
    prefix: list[int]
    dtype: str


def tokenize(folder: Path, text: str) -> Tokens:
    """The text's ids and the prefix: for a SentencePiece model the config's bos, else what the tokenizer adds."""
    pieces = sorted(folder.glob("*.model"))
    if pieces and not (folder / "tokenizer.json").exists():
        bos = json.loads((folder / "config.json").read_text())["bos_token_id"]
        return Tokens([bos], sentencepiece.SentencePieceProcessor(model_file=str(pieces[0])).encode(text))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Tokens(tokenizer("").input_ids, tokenizer(text, add_special_tokens=False).input_ids)


def prefix_option(value: str) -> list[int] | None:
    """The ids before every window; None leaves them to the tokenizer."""
    if value == "tokenizer":
        return None
    return [] if value == "none" else [int(token) for token in value.split(",")]


def load(folder: Path, dtype: torch.dtype, weight_only: bool) -> OPTForCausalLM:
    model = OPTForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cpu").eval()
    plain_arithmetic(model, dtype)
    if weight_only:
        replace_by_dequantized(model, dtype)
    return model


@torch.no_grad()
def window_nll(model: OPTForCausalLM, prefix: list[int], window: list[int]) -> tuple[float, int]:
    """Summed negative log-likelihood of the window and how many of its tokens it covers."""
    ids = torch.tensor([prefix + window])
    first = max(len(prefix), 1)
    log_probs = model(ids, use_cache=False).logits[0, first - 1 : -1].float().log_softmax(-1)
    scored = log_probs.gather(-1, ids[0, first:, None])
    return -scored.double().sum().item(), scored.numel()


def measure(arguments: argparse.Namespace) -> Result:
    tokens = tokenize(arguments.model, arguments.text.read_text(encoding="utf-8"))
    prefix = tokens.prefix if arguments.prefix is None else arguments.prefix
    size = arguments.window
    starts = range(0, len(tokens.text) - size + 1, size)[: arguments.max_windows]
    if not starts:
        sys.exit(f"perplexity: {arguments.text} has {len(tokens.text)} tokens, fewer than one window of {size}.")
    model = load(arguments.model, DTYPES[arguments.dtype], arguments.weight_only)
    nll, count = 0.0, 0
    for start in starts:
        window_sum, scored = window_nll(model, prefix, tokens.text[start : start + size])
        nll, count = nll + window_sum, count + scored
    return Result(math.exp(nll / count), nll / count, count, len(starts), size, prefix, arguments.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text")
    parser.add_argument("--window", type=int, default=512, help="text tokens per window")
    parser.add_argument("--max-windows", type=int, help="stop after this many windows")
    parser.add_argument("--prefix", type=prefix_option, default="tokenizer", help="tokenizer, none, or ids as 2,5")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--weight-only", action="store_true", help="multiply by dequantized weights")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(asdict(result)))
    else:
        print(f"perplexity {result.perplexity:.6f} over {result.scored_tokens} tokens in {result.windows} windows")


if __name__ == "__main__":
    main()
