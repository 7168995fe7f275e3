"""What transformers computes on the model that ships with nibble: loss over windows of a text, per compute dtype.

    python scripts/golden/bundled.py --model models/bundled --text heldout.txt --out tests/golden/bundled.json

Keeps the windows' ids (a few pages of public-domain prose), so that the C++ test needs neither the text nor Python.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import transformers  # noqa: E402

from golden.perplexity import DTYPES, load, tokenize, window_nll  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--window", type=int, default=255, help="text tokens a window, the prefix not counted")
    parser.add_argument("--windows", type=int, default=8)
    arguments = parser.parse_args()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    text = arguments.text.read_text(encoding="utf-8")[:40_000]
    tokens = tokenize(arguments.model, text)
    windows = [tokens.text[i * arguments.window : (i + 1) * arguments.window] for i in range(arguments.windows)]
    result: dict[str, object] = {"windows": [tokens.prefix + window for window in windows], "text": text[:400]}
    result["text_ids"] = tokens.prefix + tokenize(arguments.model, text[:400]).text
    for name, dtype in DTYPES.items():
        model = load(arguments.model, dtype, weight_only=True)
        sums = [window_nll(model, tokens.prefix, window) for window in windows]
        result[f"mean_nll_{name}"] = sum(nll for nll, _ in sums) / sum(count for _, count in sums)
    arguments.out.write_text(json.dumps(result, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
