"""nibble beside its peers, in one run: whole models, or the products of their layers alone.

    python scripts/peers/compare.py models   --device cuda --sizes 350m 1.3b 6.7b --nibble build/bin/nibble --out F.json
    python scripts/peers/compare.py products --device cpu --sizes 350m --rows 1 64 --ggml ../ggml/build --out F.json

All peers of a group of schemes (16 bits, 8 bits, 4 bits) have the same random weights and prompt; they are measured in
turns A B B A after their results were checked (harness.py). A peer that is absent, or wrong, is said in a sentence.
After --limit seconds no new group is begun. Progress goes to standard error, all that was measured to standard output;
scripts/tables.py makes README's tables from the JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Callable

from harness import OWN, Group, Peer, Row, as_json
from shapes import DTYPES, SHAPES

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"16": ["none"], "8": ["int8", "q8_0"], "4": ["nf4", "nf4-dq", "fp4", "fp4-dq", "int4", "q4_0"]}
PACKAGES = ["torch", "transformers", "bitsandbytes", "ctranslate2", "onnxruntime", "triton"]


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def line(row: Row) -> str:
    who = f"| {row.case} | {row.peer} | {row.scheme} | {row.dtype} |"
    if row.skipped:
        return f"{who} | | | | skipped: {row.skipped} |"
    ratio = f"{row.ratio:.2f} ± {row.ratio_spread:.2f}" if row.ratio else ""
    off_by = f"{row.off_by:.4f}" if row.off_by is not None else ""
    time_taken = f"{row.median * 1e6:.1f} ± {row.spread * 1e6:.1f}"
    return f"{who} {row.test} | {time_taken} | {row.work / row.median:.1f} | {ratio} | {off_by} |"


def device_name(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((text.split(":")[1].strip() for text in lines if text.startswith("model name")), "cpu")


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def provenance(arguments: argparse.Namespace) -> dict:
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "device": device_name(arguments.device),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "date": time.strftime("%Y-%m-%d"),
        "commit": os.environ.get("COMMIT") or git.stdout.strip(),
        "command": shlex.join(["python", *sys.argv]),
        "versions": {package: version(package) for package in PACKAGES},
    }


def wanted(arguments: argparse.Namespace, bits: str, peer: Peer) -> bool:
    return (
        peer.scheme in GROUPS[bits]
        and (arguments.schemes is None or peer.scheme in arguments.schemes)
        and (arguments.only is None or any(name in peer.name for name in [OWN, *arguments.only]))
    )


def run(arguments: argparse.Namespace, add: Callable[[list[Row]], None]) -> None:
    """Imports what it needs once the arguments are known to be right."""
    import models
    import products
    from settings import Settings

    end = time.monotonic() + arguments.limit
    for size, dtype in itertools.product(arguments.sizes, arguments.dtypes):
        settings = Settings(
            device=arguments.device, dtype=dtype, threads=arguments.threads, prompt=arguments.prompt,
            generate=arguments.generate, rows=tuple(arguments.rows), nibble=arguments.nibble, ggml=arguments.ggml,
        )  # fmt: skip
        if time.monotonic() > end:
            tell(f"opt-{size} {dtype}: not begun, {arguments.limit:.0f} s have passed")
            continue
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            if arguments.what == "models":
                make, peers = models.ModelCase, list(models.peers(settings))
            else:
                make, peers = products.ProductCase, list(products.peers(settings))
            case = make(f"opt-{size}", SHAPES[size], settings, scratch)
            for bits in arguments.bits:
                group = [peer for peer in peers if wanted(arguments, bits, peer)]
                start = time.monotonic()
                if group and start > end:
                    tell(f"{case.name} {dtype}, {bits} bits: not begun, {arguments.limit:.0f} s have passed")
                if not group or start > end:
                    continue
                add(Group(case, group, tell).measure(arguments.repeats))
                case.release()
                tell(f"{case.name} {dtype}, {bits} bits: {time.monotonic() - start:.0f} s")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["models", "products"])
    parser.add_argument("--nibble", type=Path, help="the program; without it the peers alone")
    parser.add_argument("--ggml", type=Path, help="folder of a build of ggml, with its shared libraries")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["350m"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16"])
    parser.add_argument("--bits", nargs="+", choices=GROUPS, default=list(GROUPS))
    schemes = [scheme for group in GROUPS.values() for scheme in group]
    parser.add_argument("--schemes", nargs="+", choices=schemes, help="of these alone")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="nibble, and peers with this in their name")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="on a CPU (default: one a core)")
    parser.add_argument("--prompt", type=int, default=128, help="tokens read, of models (default: 128)")
    parser.add_argument("--generate", type=int, default=64, help="tokens generated, of models (default: 64)")
    parser.add_argument("--rows", nargs="+", type=int, default=[1], help="rows of x, of products (default: 1)")
    parser.add_argument("--repeats", type=int, default=3, help="of each of a peer's two turns (default: 3)")
    parser.add_argument("--limit", type=float, default=540, help="seconds (default: 540)")
    parser.add_argument("--scratch", help="folder for checkpoints (default: the system's)")
    parser.add_argument("--out", type=Path, help="JSON: a list of runs, to which this one is added")
    arguments = parser.parse_args()
    for name in ("threads", "prompt", "generate", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name}: expected a number from 1, found {getattr(arguments, name)}")
    if min(arguments.rows) < 1:
        parser.error(f"--rows: expected numbers from 1, found {min(arguments.rows)}")
    if arguments.nibble and not arguments.nibble.is_file():
        parser.error(f"--nibble: expected the program, found no file {arguments.nibble}")
    if arguments.what == "models" and arguments.prompt + arguments.generate > 2047:
        total = arguments.prompt + arguments.generate
        parser.error(f"expected at most 2047 tokens of --prompt and --generate, found {total}")
    if arguments.out and not arguments.out.parent.is_dir():
        parser.error(f"--out: expected a file in a folder, found no folder {arguments.out.parent}")
    return arguments


def prepare(arguments: argparse.Namespace) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    try:
        import safetensors  # noqa: F401
        import torch
        import transformers
    except ImportError as problem:
        sys.exit(f"compare: needs torch, transformers and safetensors, found {problem}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("compare: --device: expected a CUDA device, found none")
    torch.set_num_threads(arguments.threads)
    torch._dynamo.config.recompile_limit = 1000  # one code serves many models here
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def main() -> None:
    arguments = parse()
    prepare(arguments)
    runs = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else []
    runs.append(document := provenance(arguments) | {"what": arguments.what, "rows": []})
    print(f"{document['device']}, {', '.join(f'{k} {v}' for k, v in document['versions'].items())}\n")
    print("| case | peer | scheme | dtype | test | us | a second | nibble is faster by | off by |")
    print("|---|---|---|---|---|---:|---:|---:|---:|", flush=True)

    def add(rows: list[Row]) -> None:
        print("\n".join(map(line, rows)), flush=True)
        document["rows"] += as_json(rows)
        if arguments.out:
            arguments.out.write_text(json.dumps(runs, indent=1) + "\n")

    run(arguments, add)


if __name__ == "__main__":
    main()
