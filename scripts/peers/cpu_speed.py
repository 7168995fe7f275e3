"""Tokens a second of nibble and of transformers (+ bitsandbytes) on this CPU, in one run, for models of the same shape.

    python scripts/peers/cpu_speed.py --nibble build/bin/nibble --sizes 125m 350m --threads 2 --out speed.json

Every point reads a prompt of --prompt tokens and generates --generate tokens greedily, --repeat times; medians are kept.
nibble runs its synthetic models, the peers random weights of the same architecture: speed does not depend on values.
Prints a Markdown table. A peer that cannot run is said, not guessed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import BitsAndBytesConfig, OPTConfig, OPTForCausalLM  # noqa: E402

NIBBLE_POINTS = [
    ("none", "fp32"), ("none", "bf16"), ("none", "fp16"), ("int8", "bf16"), ("int8", "fp16"), ("nf4", "fp32"),
    ("nf4", "bf16"), ("nf4", "fp16"), ("nf4-dq", "bf16"), ("fp4", "bf16"), ("fp4-dq", "bf16"),
]  # fmt: skip
PEER_POINTS = {
    ("none", "fp32"): (torch.float32, None),
    ("none", "bf16"): (torch.bfloat16, None),
    ("int8", "bf16"): (torch.bfloat16, BitsAndBytesConfig(load_in_8bit=True)),
    ("nf4", "bf16"): (
        torch.bfloat16,
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16),
    ),
}
CONFIGS = {
    "125m": OPTConfig(hidden_size=768, ffn_dim=3072, num_hidden_layers=12, num_attention_heads=12),
    "350m": OPTConfig(hidden_size=1024, ffn_dim=4096, num_hidden_layers=24, num_attention_heads=16,
                      word_embed_proj_dim=512, do_layer_norm_before=False),
}  # fmt: skip


def nibble_point(arguments: argparse.Namespace, size: str, scheme: str, dtype: str) -> dict[str, float]:
    tokens = ",".join(["2"] + [str(10 + i % 1000) for i in range(arguments.prompt - 1)])
    command = [arguments.nibble, "generate", "-m", f"synthetic:opt-{size}", "--scheme", scheme, "--dtype", dtype]
    command += ["--tokens", tokens, "-n", str(arguments.generate), "--ignore-eos", "--temp", "0", "--json"]
    command += ["-t", str(arguments.threads), "-c", str(arguments.prompt + arguments.generate)]
    runs = []
    for _ in range(arguments.repeat):
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        runs.append(json.loads(out))
    return {
        "prefill": statistics.median(run["stats"]["prefill_tokens_per_second"] for run in runs),
        "decode": statistics.median(run["stats"]["decode_tokens_per_second"] for run in runs),
        "weights_mb": runs[0]["memory"]["measured"]["weights"] / 1e6,
    }


@torch.no_grad()
def peer_point(arguments: argparse.Namespace, model: OPTForCausalLM) -> dict[str, float]:
    ids = torch.arange(10, 10 + arguments.prompt)[None] % 1000
    prefills, decodes = [], []
    for _ in range(arguments.repeat + 1):
        start = time.perf_counter()
        out = model(ids, use_cache=True, logits_to_keep=1)
        prefills.append(arguments.prompt / (time.perf_counter() - start))
        start = time.perf_counter()
        for _ in range(arguments.generate - 1):
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
        decodes.append((arguments.generate - 1) / (time.perf_counter() - start))
    return {"prefill": statistics.median(prefills[1:]), "decode": statistics.median(decodes[1:])}


def peers(arguments: argparse.Namespace, size: str) -> dict[tuple[str, str], dict[str, float] | str]:
    found: dict[tuple[str, str], dict[str, float] | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        OPTForCausalLM(CONFIGS[size]).half().save_pretrained(folder)
        for point, (dtype, quantization) in PEER_POINTS.items():
            try:
                model = OPTForCausalLM.from_pretrained(
                    folder, dtype=dtype, quantization_config=quantization, device_map="cpu"
                ).eval()
                found[point] = peer_point(arguments, model)
            except Exception as error:  # noqa: BLE001 - whatever keeps a peer from running is the finding
                found[point] = f"{type(error).__name__}: {error}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", required=True)
    parser.add_argument("--sizes", nargs="+", default=["125m", "350m"], choices=CONFIGS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    rows = []
    print("| model | scheme | compute | weights MB | nibble prefill | decode | transformers prefill | decode | ratio |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for size in arguments.sizes:
        measured = peers(arguments, size)
        for scheme, dtype in NIBBLE_POINTS:
            ours = nibble_point(arguments, size, scheme, dtype)
            theirs = measured.get((scheme, dtype))
            rows.append({"model": f"opt-{size}", "scheme": scheme, "dtype": dtype, "nibble": ours, "peer": theirs})
            line = f"| opt-{size} | {scheme} | {dtype} | {ours['weights_mb']:.0f} | {ours['prefill']:.0f} "
            line += f"| {ours['decode']:.1f} |"
            if isinstance(theirs, dict):
                line += f" {theirs['prefill']:.0f} | {theirs['decode']:.1f} | {ours['decode'] / theirs['decode']:.1f}x |"
            else:
                line += f" {theirs or '-'} | | |"
            print(line, flush=True)
    if arguments.out:
        cpu = next((s.split(":")[1].strip() for s in open("/proc/cpuinfo") if s.startswith("model name")), "")
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        settings = {key: getattr(arguments, key) for key in ("threads", "prompt", "generate", "repeat")}
        result = {"cpu": cpu, "machine": platform.machine(), "versions": versions, "settings": settings, "rows": rows}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
