"""nibble and its peers on the same random weights and prompt, in one run: tokens a second of one sequence.

    python scripts/peers/speed.py --nibble build/bin/nibble --sizes 350m 1.3b 6.7b --out peers.json --limit 480

Peers: transformers (eager), transformers + bitsandbytes, OPT written by hand in PyTorch in one CUDA graph (plain,
compiled, int8, int4: opt_decoder.py), CTranslate2, and the bare products of cuBLAS. A peer is timed only after its
logits were found close to transformers'; one that is absent or wrong is said in a sentence. --device cpu runs the same
without graphs. After --limit seconds no new point is begun.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Iterator

os.environ |= {"HF_HUB_OFFLINE": "1"}

try:
    import numpy
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers import BitsAndBytesConfig, OPTConfig, OPTForCausalLM
except ImportError as error:
    sys.exit(f"speed: needs torch, transformers and safetensors, found {error}")

from opt_decoder import MakeLinear, OptDecoder, int4_linear, int8_linear, plain_linear  # noqa: E402

# hidden size, feed-forward, layers, heads
SHAPES = {
    "125m": (768, 3072, 12, 12), "350m": (1024, 4096, 24, 16), "1.3b": (2048, 8192, 24, 32),
    "2.7b": (2560, 10240, 32, 32), "6.7b": (4096, 16384, 32, 32), "13b": (5120, 20480, 40, 40),
    "30b": (7168, 28672, 48, 56),
}  # fmt: skip
NIBBLE_SCHEMES = ["none", "int8", "fp4", "nf4", "nf4-dq"]
# How far logits may be from those of the plain model, relatively. Plain arithmetic differs by rounding; the weights of
# int8 are off by 1 %, of 4 bits by 10 %, which random layers pass on and add up.
TOLERANCES = {"none": 0.05, "int8": 0.15, "4-bit": 0.6}


def tolerance(scheme: str) -> float:
    return TOLERANCES.get(scheme, TOLERANCES["4-bit"])


@dataclass
class Point:
    model: str
    peer: str
    scheme: str
    dtype: str
    prefill: float | None = None  # tokens a second
    decode: float | None = None
    decode_samples: list[float] | None = None
    logit_error: float | None = None
    skipped: str | None = None


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def save_word_tokenizer(folder: str) -> None:
    """A tokenizer of as many words as the model has tokens, for a converter that asks for one."""
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(50272)}, unk_token="t3"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="t2", eos_token="t2", unk_token="t3", pad_token="t1"
    ).save_pretrained(folder)


class Bench:
    """One size: a checkpoint on disk, and the plain model's logits behind the prompt."""

    def __init__(self, arguments: argparse.Namespace, size: str, folder: str):
        self.arguments, self.size, self.folder = arguments, size, folder
        self.device = torch.device(arguments.device)
        self.dtype = getattr(torch, {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[arguments.dtype])
        hidden, ffn, layers, heads = SHAPES[size]
        special = {"word_embed_proj_dim": 512, "do_layer_norm_before": False} if size == "350m" else {}
        config = OPTConfig(hidden_size=hidden, ffn_dim=ffn, num_hidden_layers=layers, num_attention_heads=heads,
                           **{"word_embed_proj_dim": hidden, **special})  # fmt: skip
        torch.manual_seed(0)
        with self.device:
            model = OPTForCausalLM(config).to(self.dtype).eval()
        model.save_pretrained(folder)
        self.prompt = torch.arange(10, 10 + arguments.prompt, device=self.device) % 1000
        self.reference = self.reference_logits(model)
        del model
        self.release()

    @torch.no_grad()
    def reference_logits(self, model: OPTForCausalLM) -> torch.Tensor:
        return model(self.prompt[None], use_cache=False).logits[0, -1].float()

    def release(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        self.synchronize()
        start = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start

    def load(self, quantization: BitsAndBytesConfig | None = None) -> OPTForCausalLM:
        return OPTForCausalLM.from_pretrained(
            self.folder, dtype=self.dtype, quantization_config=quantization, device_map={"": self.arguments.device}
        ).eval()

    def checked(self, point: Point, logits: torch.Tensor) -> None:
        logits = logits.float().to(self.reference.device)
        point.logit_error = ((logits - self.reference).norm() / self.reference.norm()).item()
        if not point.logit_error <= tolerance(point.scheme):
            raise ValueError(f"its logits are off by {point.logit_error:.2f}, more than {tolerance(point.scheme)}")

    def keep(self, point: Point, prefills: list[float], decodes: list[float]) -> None:
        """Seconds of the repeats; the first of each warms up."""
        count = self.arguments.generate
        point.prefill = len(self.prompt) / statistics.median(prefills[1:])
        point.decode_samples = [count / seconds for seconds in decodes[1:]]
        point.decode = statistics.median(point.decode_samples)

    def measure_nibble(self, point: Point) -> None:
        a = self.arguments
        common = ["-m", self.folder, "--scheme", point.scheme, "--dtype", point.dtype, "--device", a.device]
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/logits.safetensors"
            tokens = ",".join(map(str, self.prompt.tolist()))
            self.nibble("logits", *common, "--tokens", tokens, "-o", out)
            self.checked(point, load_file(out)["logits"][-1])
        sizes = ["-p", str(a.prompt), "-n", str(a.generate), "-d", f"0,{a.prompt}", "-r", str(a.repeat), "-o", "json"]
        rows = json.loads(self.nibble("bench", *common, *sizes))
        point.prefill = next(row["median_ts"] for row in rows if row["n_prompt"] and not row["n_depth"])
        decode = next(row for row in rows if row["n_gen"] and row["n_depth"])
        point.decode, point.decode_samples = decode["median_ts"], decode["samples_ts"]

    def nibble(self, *command: str) -> str:
        result = subprocess.run([self.arguments.nibble, *command], capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(result.stderr.strip())
        return result.stdout

    @torch.no_grad()
    def measure_transformers(self, point: Point, quantization: BitsAndBytesConfig | None) -> None:
        model = self.load(quantization)
        prefills, decodes = [], []
        for _ in range(self.arguments.repeat + 1):
            out = None

            def prefill() -> None:
                nonlocal out
                out = model(self.prompt[None], use_cache=True, logits_to_keep=1)

            def decode() -> None:
                nonlocal out
                for _ in range(self.arguments.generate):
                    token = out.logits[:, -1:].argmax(-1)
                    out = model(token, past_key_values=out.past_key_values, use_cache=True)

            prefills.append(self.seconds(prefill))
            self.checked(point, out.logits[0, -1])
            decodes.append(self.seconds(decode))
        self.keep(point, prefills, decodes)

    @torch.no_grad()
    def measure_decoder(self, point: Point, make: MakeLinear, compiled: bool) -> None:
        model = self.load()
        count = self.arguments.generate
        decoder = OptDecoder(model, make, len(self.prompt) + count + 8, compiled)
        self.checked(point, decoder.prefill(self.prompt))
        decoder.capture()
        prefills, decodes = [], []
        for _ in range(self.arguments.repeat + 1):
            prefills.append(self.seconds(lambda: decoder.prefill(self.prompt)))
            decodes.append(self.seconds(lambda: decoder.generate(count)))
        self.keep(point, prefills, decodes)

    def measure_ctranslate2(self, point: Point) -> None:
        import ctranslate2

        count = self.arguments.generate
        with tempfile.TemporaryDirectory() as folder:
            save_word_tokenizer(self.folder)
            ctranslate2.converters.TransformersConverter(self.folder).convert(folder, force=True)
            threads = {"intra_threads": self.arguments.threads} if self.arguments.threads else {}
            generator = ctranslate2.Generator(folder, device=self.arguments.device, compute_type=point.dtype, **threads)
            prompt = [[f"t{token}" for token in self.prompt.tolist()]]
            logits = generator.forward_batch(prompt).to(ctranslate2.DataType.float32)
            logits = torch.as_tensor(numpy.array(logits.to_device(ctranslate2.Device.cpu)))
            self.checked(point, logits[0, -1])

            def run(tokens: int) -> float:
                options = {"max_length": tokens, "min_length": tokens, "include_prompt_in_result": False}
                return self.seconds(lambda: generator.generate_batch(prompt, **options))

            firsts = [run(1) for _ in range(self.arguments.repeat + 1)]
            first = statistics.median(firsts[1:])
            self.keep(point, firsts, [run(1 + count) - first for _ in range(self.arguments.repeat + 1)])

    @torch.no_grad()
    def measure_products(self, point: Point) -> None:
        """The products of one token and nothing else, each weight read from memory: what cuBLAS alone would take."""
        hidden, ffn, layers, _ = SHAPES[self.size]
        embedded = 512 if self.size == "350m" else hidden
        options = {"dtype": self.dtype, "device": self.device}
        shapes = [(3 * hidden, hidden), (hidden, hidden), (ffn, hidden), (hidden, ffn)] * layers + [(50272, embedded)]
        weights = [torch.randn(shape, **options) for shape in shapes]
        inputs = {k: torch.randn(1, k, **options) for _, k in shapes}

        def run() -> None:
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)

        run()
        self.synchronize()
        replay = run
        if self.device.type == "cuda":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            replay = graph.replay
        seconds = [self.seconds(replay) for _ in range(self.arguments.repeat * 5)]
        point.decode_samples = [1 / value for value in seconds]
        point.decode = statistics.median(point.decode_samples)

    def points(self) -> Iterator[tuple[Point, Callable[[Point], None]]]:
        dtype = self.arguments.dtype
        if self.arguments.nibble:
            for scheme in NIBBLE_SCHEMES:
                yield Point(self.size, "nibble", scheme, dtype), self.measure_nibble
        yield Point(self.size, "transformers", "none", dtype), lambda p: self.measure_transformers(p, None)
        quantizations = {"int8": BitsAndBytesConfig(load_in_8bit=True)}
        for kind, nested in (("fp4", False), ("nf4", False), ("nf4", True)):
            quantizations[kind + "-dq" * nested] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested,
                bnb_4bit_compute_dtype=self.dtype)  # fmt: skip
        for scheme, quantization in quantizations.items():
            yield (Point(self.size, "transformers + bitsandbytes", scheme, dtype),
                   lambda p, q=quantization: self.measure_transformers(p, q))  # fmt: skip
        for name, make, scheme in (("plain", plain_linear, "none"), ("int8", int8_linear, "int8"),
                                   ("int4", int4_linear, "int4")):  # fmt: skip
            for compiled in (False, True):
                peer = f"PyTorch by hand, {name}{', compiled' if compiled else ''}"
                yield (Point(self.size, peer, scheme, dtype),
                       lambda p, m=make, c=compiled: self.measure_decoder(p, m, c))  # fmt: skip
        for scheme, compute in (("none", "float32"), ("none", "bfloat16"), ("none", "float16"), ("int8", "int8")):
            yield Point(self.size, "CTranslate2", scheme, compute), self.measure_ctranslate2
        yield Point(self.size, "bare products", "none", dtype), self.measure_products


def row(point: Point) -> str:
    if point.skipped:
        return f"| {point.model} | {point.peer} | {point.scheme} | {point.dtype} | | | | skipped: {point.skipped} |"
    prefill = f"{point.prefill:.0f}" if point.prefill else ""
    error = f"{point.logit_error:.4f}" if point.logit_error is not None else ""
    spread = f"{min(point.decode_samples):.1f} to {max(point.decode_samples):.1f}"
    cells = [point.model, point.peer, point.scheme, point.dtype, prefill, f"{point.decode:.1f}", spread, error]
    return f"| {' | '.join(cells)} |"


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    return next(names, "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", help="the program; without it the peers alone")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["350m", "1.3b"])
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="bf16")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of PyTorch on a CPU")
    parser.add_argument("--only", help="peers whose name has this in it")
    parser.add_argument("--limit", type=float, default=540, help="seconds after which no new point is begun")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("speed: expected a CUDA device, found none; --device cpu runs without")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    end = time.monotonic() + arguments.limit

    found: list[Point] = []
    name = device_name(arguments.device)
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| opt- | peer | scheme | dtype | prefill, t/s | decode, t/s | least to most | logits off by |")
    print("|---|---|---|---|---:|---:|---:|---:|")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(arguments, size, folder) if time.monotonic() < end else None
            for point, measure in bench.points() if bench else ():
                if arguments.only and arguments.only not in point.peer:
                    continue
                try:
                    if time.monotonic() > end:
                        raise TimeoutError(f"the limit of {arguments.limit:.0f} s has passed")
                    measure(point)
                except Exception as error:  # noqa: BLE001 - whatever keeps a peer from running is the finding
                    point.skipped = one_line(error)
                bench.release()
                found.append(point)
                print(row(point), flush=True)
        if arguments.out:
            settings = {key: value for key, value in vars(arguments).items() if key not in ("out", "nibble")}
            versions = {"torch": torch.__version__, "transformers": transformers.__version__}
            document = {"device": name, "versions": versions, "settings": settings, "points": [asdict(p) for p in found]}
            arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
