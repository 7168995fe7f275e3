"""Checks a checkpoint written by `nibble quantize` against transformers and bitsandbytes.

    python scripts/golden/verify_written.py --written DST --source SRC [--dtype fp16]

SRC is the float checkpoint that was quantized, DST what nibble wrote of it. Three checks: transformers loads DST with
no missing and no unexpected key; every tensor of DST has the name, dtype, shape and bytes that bitsandbytes gives SRC
under DST's own quantization_config; the logits of DST equal those of the checkpoint bitsandbytes saved. Exits with 1
and a sentence at the first difference.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

# scripts/, not scripts/golden/, goes on the path: siblings there are called tokenizers.py and kernels.py.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ |= {"HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import BitsAndBytesConfig, OPTForCausalLM  # noqa: E402

from golden.bnb_cpu import plain_arithmetic  # noqa: E402

DTYPES = {"auto": "auto", "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PROBE_LENGTH = 24


class Difference(Exception):
    """Names what differs, in one sentence."""


def quantization_config(folder: Path) -> BitsAndBytesConfig:
    config = json.loads((folder / "config.json").read_text())
    if "quantization_config" not in config:
        raise Difference(f"{folder}/config.json has no quantization_config")
    return BitsAndBytesConfig.from_dict(config["quantization_config"])


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    if not tensors:
        raise Difference(f"{folder} holds no model*.safetensors")
    return tensors


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def check_tensor(name: str, written: torch.Tensor, expected: torch.Tensor) -> None:
    if written.dtype != expected.dtype or written.shape != expected.shape:
        ours, theirs = (f"{tensor.dtype} {list(tensor.shape)}" for tensor in (written, expected))
        raise Difference(f"{name} is {ours}; bitsandbytes writes {theirs}")
    different = (as_bytes(written) != as_bytes(expected)).nonzero().flatten()
    if len(different):
        raise Difference(
            f"{name} differs from bitsandbytes in {len(different)} of {as_bytes(expected).numel()} bytes,"
            f" first at byte {different[0].item()}"
        )


def check_tensors(written: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name in sorted(expected.keys() - written.keys()):
        raise Difference(f"{name} is missing from the written checkpoint")
    for name in sorted(written.keys() - expected.keys()):
        raise Difference(f"{name} is in the written checkpoint, but bitsandbytes does not write it")
    for name in sorted(expected):
        check_tensor(name, written[name], expected[name])


def load(folder: Path) -> OPTForCausalLM:
    """Loads a quantized checkpoint, insisting that every key found its place."""
    model, info = OPTForCausalLM.from_pretrained(folder, device_map="cpu", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(kind):
            raise Difference(f"transformers reports {kind} in {folder}: {sorted(map(str, info[kind]))}")
    plain_arithmetic(model, torch.float32)
    return model.eval()


@torch.no_grad()
def probe(model: OPTForCausalLM) -> torch.Tensor:
    length = min(PROBE_LENGTH, model.config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    return model(torch.randint(0, model.config.vocab_size, (1, length), generator=generator)).logits.float()


def check_logits(written: Path, saved: Path) -> None:
    ours, theirs = probe(load(written)), probe(load(saved))
    if not torch.equal(ours, theirs):
        raise Difference(f"the logits differ from bitsandbytes' by up to {(ours - theirs).abs().max().item()}")


def verify(written: Path, source: Path, dtype: str) -> int:
    """Returns how many tensors were compared."""
    config = quantization_config(written)
    with tempfile.TemporaryDirectory() as folder:
        model = OPTForCausalLM.from_pretrained(
            source, dtype=DTYPES[dtype], quantization_config=config, device_map="cpu"
        )
        model.save_pretrained(folder)
        expected = tensors_of(Path(folder))
        check_tensors(tensors_of(written), expected)
        check_logits(written, Path(folder))
    return len(expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--written", type=Path, required=True, help="the folder nibble quantize wrote")
    parser.add_argument("--source", type=Path, required=True, help="the float checkpoint it was made from")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="dtype the source is cast to before quantizing")
    arguments = parser.parse_args()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    try:
        count = verify(arguments.written, arguments.source, arguments.dtype)
    except Difference as difference:
        sys.exit(f"verify_written: {difference}.")
    print(f"{arguments.written}: {count} tensors and the logits are those of bitsandbytes.")


if __name__ == "__main__":
    main()
