"""Held-out loss of a checkpoint with transformers, in fp32 or quantized by bitsandbytes.

    python evaluate.py --model checkpoint --text heldout.txt.xz --scheme fp32 nf4 fp4 int8

The text becomes one token stream (see data.py), cut into consecutive windows of 1023 tokens; each
is fed behind token 2, and the mean is over all its 1023 predictions. The first --windows count.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import BitsAndBytesConfig, OPTForCausalLM

from data import Corpus

SCHEMES = {
    "fp32": None,
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
    "fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.float32),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}


@torch.inference_mode()
def mean_loss(model: OPTForCausalLM, windows: torch.Tensor) -> float:
    total = 0.0
    for batch in windows.split(2):
        logits = model(batch[:, :-1]).logits.float()
        total += F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item() * len(batch)
    return total / len(windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint and tokenizer.model")
    parser.add_argument("--text", type=Path, required=True, help="held-out text, plain or .xz")
    parser.add_argument("--scheme", nargs="+", choices=SCHEMES, default=["fp32"])
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024)
    args = parser.parse_args()

    corpus = Corpus.load(args.text, args.model / "tokenizer.model", processes=2)
    windows = corpus.heldout_windows(args.context)[: args.windows]
    for scheme in args.scheme:
        model = OPTForCausalLM.from_pretrained(
            args.model, dtype=torch.float32, quantization_config=SCHEMES[scheme], device_map="cpu"
        ).eval()
        loss = mean_loss(model, windows)
        print(json.dumps({"scheme": scheme, "windows": len(windows), "loss": loss, "perplexity": math.exp(loss)}))


if __name__ == "__main__":
    main()
