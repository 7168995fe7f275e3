"""What each scheme costs the model that ships with nibble, as transformers + bitsandbytes compute it.

    python scripts/golden/quality.py --model models/bundled --golden tests/golden

The bundled checkpoint is nf4; its weights, dequantized to fp16, are the plain model that every scheme starts from, so
nf4 loses next to nothing here. Arithmetic is fp32 on dequantized weights. The text is that of bundled.json's windows.
Writes quality.json: for each scheme and way of cutting the text the loss, and what changes from the plain model.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import sentencepiece  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import BitsAndBytesConfig, OPTConfig, OPTForCausalLM  # noqa: E402

from golden.bnb_cpu import replace_by_dequantized  # noqa: E402
from golden.perplexity import load, tokenize  # noqa: E402

SCHEMES = {
    "none": None,
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    **{
        kind + suffix: BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=bool(suffix),
            bnb_4bit_compute_dtype=torch.float32,
        )
        for kind in ("fp4", "nf4")
        for suffix in ("", "-dq")
    },
}
WINDOWS = [(255, 255), (128, 48)]  # tokens, and from one to the next


def save_plain(model: Path, folder: str) -> None:
    quantized = load(model, torch.float16, weight_only=True)
    settings = quantized.config.to_dict()
    del settings["quantization_config"]
    plain = OPTForCausalLM(OPTConfig(**settings)).half()
    plain.load_state_dict(quantized.state_dict())
    plain.save_pretrained(folder)


@torch.no_grad()
def log_probabilities(model: OPTForCausalLM, prefix: list[int], text: list[int], window: int, stride: int):
    """fp64 log-probabilities over the vocabulary for each predicted token, and the tokens."""
    rows, targets = [], []
    for start in range(0, len(text) - window + 1, stride):
        ids = torch.tensor([prefix + text[start : start + window]])
        first = len(prefix) + (0 if start == 0 else window - stride)
        rows.append(model(ids, use_cache=False).logits[0, first - 1 : -1].double().log_softmax(-1))
        targets.append(ids[0, first:])
    return torch.cat(rows), torch.cat(targets)


def mean_and_error(values: torch.Tensor) -> dict[str, float]:
    spread = values.double().var(unbiased=True)
    return {"mean": values.double().mean().item(), "error": math.sqrt(spread / values.numel())}


def compare(base: torch.Tensor, changed: torch.Tensor, targets: torch.Tensor) -> dict[str, object]:
    of_target = [rows.gather(-1, targets[:, None])[:, 0] for rows in (base, changed)]
    change = of_target[1].exp() - of_target[0].exp()
    return {
        "predictions": targets.numel(),
        "mean_nll": mean_and_error(-of_target[1]),
        "kl_divergence": mean_and_error((base.exp() * (base - changed)).sum(-1)),
        "same_likeliest": mean_and_error((base.argmax(-1) == changed.argmax(-1)).double()),
        "probability_change": {**mean_and_error(change), "rms": change.square().mean().sqrt().item()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--golden", type=Path, required=True)
    arguments = parser.parse_args()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(arguments.model / "tokenizer.model"))
    windows = json.loads((arguments.golden / "bundled.json").read_text())["windows"]
    tokens = tokenize(arguments.model, pieces.decode([token for window in windows for token in window[1:]]))
    result: dict[str, object] = {"text_tokens": len(tokens.text)}
    with tempfile.TemporaryDirectory() as folder:
        save_plain(arguments.model, folder)
        base = {}
        for scheme, quantization in SCHEMES.items():
            model = OPTForCausalLM.from_pretrained(
                folder, dtype=torch.float32, quantization_config=quantization, device_map="cpu"
            ).eval()
            replace_by_dequantized(model, torch.float32)
            for window, stride in WINDOWS:
                rows, targets = log_probabilities(model, tokens.prefix, tokens.text, window, stride)
                rows_of_base = base.setdefault(window, rows)
                result[f"{scheme} {window} {stride}"] = compare(rows_of_base, rows, targets)
    (arguments.golden / "quality.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
