"""Writes the golden data of the model tests: tiny checkpoints of every OPT variant and what the peers make of them.

    python scripts/golden/models.py --out tests/golden

Needs torch, transformers, bitsandbytes and accelerate (versions in tests/golden/README.md); no network, no GPU.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path

# scripts/, not scripts/golden/, goes on the path: siblings there are called tokenizers.py and kernels.py and would
# shadow the packages of those names.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ |= {"HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import OPTForCausalLM  # noqa: E402

from golden.footprint import write_footprint  # noqa: E402
from golden.opt_cases import CASES, Case, random_model  # noqa: E402
from golden.opt_quantized import SOURCES, write_blocksizes, write_quantized  # noqa: E402
from golden.opt_reference import (  # noqa: E402
    Tensors,
    UnfairSeed,
    batch_tensors,
    check_agreement,
    each,
    greedy_tensors,
    prompts,
    token_tensors,
)
from golden.sampling import write_sampling  # noqa: E402

MAX_SEEDS = 100


def fresh(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def fair_model(case: Case) -> tuple[OPTForCausalLM, list[torch.Tensor]]:
    """The first seed whose greedy continuations leave no doubt about any token."""
    for seed in range(MAX_SEEDS):
        model = random_model(case, seed)
        drawn = prompts(model.config, seed)
        wide = random_model(case, seed).float()
        wide.set_attn_implementation("eager")
        try:
            greedy_tensors(wide, drawn)
        except UnfairSeed:
            continue
        print(f"{case.name}: seed {seed}")
        return model, drawn
    raise SystemExit(f"{case.name}: no fair seed among {MAX_SEEDS}")


def reload(case: Case, folder: Path, dtype: torch.dtype, attention: str) -> OPTForCausalLM:
    """The checkpoint as transformers reads it; the true config in place of one that lies."""
    return OPTForCausalLM.from_pretrained(
        folder, config=case.config(), dtype=dtype, attn_implementation=attention
    ).eval()


def expected_tensors(case: Case, folder: Path, drawn: list[torch.Tensor]) -> Tensors:
    eager = reload(case, folder, torch.float32, "eager")
    sdpa = reload(case, folder, torch.float32, "sdpa")
    tensors = each("logits", eager, drawn) | batch_tensors(eager, drawn)
    check_agreement(tensors, each("logits", sdpa, drawn) | batch_tensors(sdpa, drawn))
    tensors |= each("logits_bf16", reload(case, folder, torch.bfloat16, "sdpa"), drawn)
    tensors |= each("logits_fp16", reload(case, folder, torch.float16, "sdpa"), drawn)
    return tensors | greedy_tensors(eager, drawn) | token_tensors(drawn)


def write_case(models: Path, case: Case) -> list[torch.Tensor]:
    model, drawn = fair_model(case)
    folder = fresh(models / case.name)
    direct = each("logits", random_copy(model), drawn)
    case.save(model, folder)
    expected = expected_tensors(case, folder, drawn)
    check_agreement(direct, expected)
    save_file(expected, folder / "expected.safetensors")
    return drawn


def random_copy(model: OPTForCausalLM) -> OPTForCausalLM:
    copy = OPTForCausalLM(model.config).eval()
    copy.load_state_dict(model.state_dict())
    return copy


def quiet() -> None:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the fixtures folder, tests/golden")
    out: Path = parser.parse_args().out
    quiet()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    models = fresh(out / "models")
    drawn = {case.name: write_case(models, case) for case in CASES}
    for source in SOURCES:
        write_quantized(models, source, drawn[source.name])
    write_blocksizes(models / "blocksizes.safetensors")
    write_sampling(out / "sampling.json")
    write_footprint(out / "footprint.json")


if __name__ == "__main__":
    main()
