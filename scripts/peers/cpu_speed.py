"""Tokens a second of nibble and of transformers (+ bitsandbytes) on this CPU, in one run, for the same models.

    python scripts/peers/cpu_speed.py --nibble build/bin/nibble --readme README.md --out scripts/peers/results/cpu.json

Every point reads a prompt of --prompt tokens and generates --generate tokens greedily, --repeat times; medians count.
The bundled model is the same checkpoint for both. Of the published sizes nibble runs its synthetic models and the peers
random weights of the same architecture: speed does not depend on values. A peer that cannot run is said, not guessed.
Prints a table, "nibble / peer" in each cell, which --readme puts between the marks of that file's Speed section.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}

import bitsandbytes  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import BitsAndBytesConfig, OPTConfig, OPTForCausalLM  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "models/bundled"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
POINTS = [
    ("none", "fp32"), ("none", "bf16"), ("none", "fp16"), ("int8", "bf16"), ("int8", "fp16"), ("nf4", "fp32"),
    ("nf4", "bf16"), ("nf4", "fp16"), ("nf4-dq", "bf16"), ("fp4", "bf16"), ("fp4-dq", "bf16"),
]  # fmt: skip
CONFIGS = {
    "125m": OPTConfig(hidden_size=768, ffn_dim=3072, num_hidden_layers=12, num_attention_heads=12),
    "350m": OPTConfig(hidden_size=1024, ffn_dim=4096, num_hidden_layers=24, num_attention_heads=16,
                      word_embed_proj_dim=512, do_layer_norm_before=False),
}  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """Tokens a second."""

    prefill: float
    decode: float


@dataclass(frozen=True)
class Row:
    model: str
    scheme: str
    dtype: str
    weights_bytes: int
    nibble: Speed
    peer: Speed | str


def nibble_point(arguments: argparse.Namespace, model: str, scheme: str, dtype: str) -> tuple[Speed, int]:
    """The speed, and the bytes of the weights with their quantization state."""
    tokens = ",".join(["2"] + [str(10 + i % 1000) for i in range(arguments.prompt - 1)])
    command = [arguments.nibble, "generate", "-m", model, "--scheme", scheme, "--dtype", dtype, "--json"]
    command += ["--tokens", tokens, "-n", str(arguments.generate), "--ignore-eos", "--temp", "0"]
    command += ["-t", str(arguments.threads), "-c", str(arguments.prompt + arguments.generate)]
    runs = []
    for _ in range(arguments.repeat):
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        runs.append(json.loads(out))
    median = {
        phase: statistics.median(run["stats"][f"{phase}_tokens_per_second"] for run in runs)
        for phase in ("prefill", "decode")
    }
    return Speed(**median), runs[0]["memory"]["measured"]["weights"]


def quantization(scheme: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if scheme == "none":
        return None
    if scheme == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    kind, _, nested = scheme.partition("-")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=nested == "dq",
    )


def compute_in(model: OPTForCausalLM, dtype: torch.dtype) -> None:
    """A quantized checkpoint's other weights stay in its own dtype, whatever from_pretrained is asked for."""
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point:
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.compute_dtype = dtype


@torch.no_grad()
def peer_run(model: OPTForCausalLM, prompt: int, generate: int) -> Speed:
    start = time.perf_counter()
    out = model(torch.arange(10, 10 + prompt)[None] % 1000, use_cache=True, logits_to_keep=1)
    middle = time.perf_counter()
    for _ in range(generate - 1):
        out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
    return Speed(prompt / (middle - start), (generate - 1) / (time.perf_counter() - middle))


def peer_speed(arguments: argparse.Namespace, model: OPTForCausalLM) -> Speed:
    """One run warms up, unless it already takes longer than all may take together."""
    end = time.monotonic() + arguments.patience
    runs = [peer_run(model, arguments.prompt, arguments.generate)]
    while len(runs) <= arguments.repeat and time.monotonic() < end:
        runs.append(peer_run(model, arguments.prompt, arguments.generate))
    timed = runs[1:] or runs
    return Speed(*(statistics.median(getattr(run, phase) for run in timed) for phase in ("prefill", "decode")))


def peer_point(arguments: argparse.Namespace, checkpoint: str, scheme: str, dtype: str) -> Speed | str:
    """`scheme` is what the peer quantizes to while loading; a quantized checkpoint says its own."""
    config = None if checkpoint == str(BUNDLED) else quantization(scheme, DTYPES[dtype])
    try:
        model = OPTForCausalLM.from_pretrained(
            checkpoint, dtype=DTYPES[dtype], quantization_config=config, device_map="cpu"
        ).eval()
        compute_in(model, DTYPES[dtype])
        return peer_speed(arguments, model)
    except Exception as error:  # noqa: BLE001 - whatever keeps a peer from running is the finding
        return f"{type(error).__name__}: {error}"


def measure(arguments: argparse.Namespace) -> list[Row]:
    rows = []

    def add(name: str, ours: str, theirs: str, scheme: str, dtype: str) -> None:
        speed, weights = nibble_point(arguments, ours, scheme, dtype)
        row = Row(name, scheme, dtype, weights, speed, peer_point(arguments, theirs, scheme, dtype))
        print(row, file=sys.stderr, flush=True)
        rows.append(row)

    for dtype in DTYPES:
        add("bundled", str(BUNDLED), str(BUNDLED), "nf4", dtype)
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            OPTForCausalLM(CONFIGS[size]).half().save_pretrained(folder)
            for scheme, dtype in POINTS:
                add(f"opt-{size}", f"synthetic:opt-{size}", folder, scheme, dtype)
    return rows


def show(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"


def cell(row: Row | None, phase: str) -> str:
    if row is None:
        return ""
    theirs = "-" if isinstance(row.peer, str) else show(getattr(row.peer, phase))
    return f"{show(getattr(row.nibble, phase))} / {theirs}"


def table(rows: list[Row]) -> str:
    models = list(dict.fromkeys(row.model for row in rows))
    found = {(row.model, row.scheme, row.dtype): row for row in rows}
    lines = [
        "| scheme | compute |" + "".join(f" {model} prefill | decode |" for model in models),
        "|---|---|" + "---:|---:|" * len(models),
    ]
    for scheme, dtype in POINTS:
        cells = [cell(found.get((model, scheme, dtype)), phase) for model in models for phase in ("prefill", "decode")]
        lines.append(f"| `{scheme}` | {dtype} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def provenance(arguments: argparse.Namespace) -> dict:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit,
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "cpu": next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), ""),
        "cores": os.cpu_count(),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, bitsandbytes)},
        "settings": {key: getattr(arguments, key) for key in ("threads", "prompt", "generate", "repeat", "patience")},
    }


def put_between_marks(readme: Path, text: str) -> None:
    start, end = "<!-- speed -->\n", "<!-- /speed -->\n"
    before, _, rest = readme.read_text().partition(start)
    _, mark, after = rest.partition(end)
    if not mark:
        sys.exit(f"cpu_speed: {readme}: expected the marks {start.strip()} and {end.strip()}, found none.")
    readme.write_text(before + start + text + "\n" + end + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", required=True)
    parser.add_argument("--sizes", nargs="*", default=["125m", "350m"], choices=CONFIGS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--patience", type=float, default=30, help="seconds after which a slow peer is not run again")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--readme", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = measure(arguments)
    print(table(rows))
    if arguments.readme:
        put_between_marks(arguments.readme, table(rows))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        result = provenance(arguments) | {"rows": [asdict(row) for row in rows]}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
