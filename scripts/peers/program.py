"""The program nibble as a peer."""

from __future__ import annotations

import json
import subprocess
import tempfile
from typing import Any

import torch
from harness import Absent, Seconds
from safetensors.torch import load_file
from settings import Settings, distance


class Program:
    def __init__(self, settings: Settings):
        self.settings = settings

    def run(self, *command: str) -> str:
        if self.settings.nibble is None:
            raise Absent("nibble: no program given (--nibble FILE)")
        result = subprocess.run([str(self.settings.nibble), *command], capture_output=True, text=True)
        if result.returncode != 0:
            raise Absent(result.stderr.strip().splitlines()[-1])
        return result.stdout

    def place(self) -> list[str]:
        threads = ["-t", str(self.settings.threads)] if self.settings.threads else []
        return ["--dtype", self.settings.dtype, "--device", self.settings.device, *threads]

    def quantized(self, folder: str, scheme: str) -> str:
        """The checkpoint itself, or another beside it."""
        if scheme == "none":
            return folder
        self.run("quantize", folder, f"{folder}-{scheme}", "--scheme", scheme)
        return f"{folder}-{scheme}"

    def logits(self, folder: str, tokens: torch.Tensor) -> torch.Tensor:
        """After each token."""
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            ids = ",".join(map(str, tokens.tolist()))
            self.run("logits", "-m", folder, *self.place(), "--tokens", ids, "-o", file.name)
            return load_file(file.name)["logits"]

    def bench(self, model: str, repeats: int, *tests: str) -> list[dict[str, Any]]:
        command = ["bench", "-m", model, *self.place(), "-r", str(repeats), "-o", "json", *tests]
        return json.loads(self.run(*command))


class NibbleModel:
    """A checkpoint quantized once, then read by every run of the program."""

    def __init__(self, case, scheme: str):
        self.case, self.program = case, Program(case.settings)
        self.folder = self.program.quantized(case.folder, scheme)
        self.off_by = distance(self.program.logits(self.folder, case.prompt)[-1], case.reference[-1])

    def turn(self, repeats: int) -> Seconds:
        prompt, generate = str(self.case.settings.prompt), str(self.case.settings.generate)
        (read,) = self.program.bench(self.folder, repeats, "-p", prompt, "-n", "0")
        (written,) = self.program.bench(self.folder, repeats, "-p", "0", "-n", generate, "-d", prompt)
        return {
            self.case.prefill: [nanoseconds / 1e9 for nanoseconds in read["samples_ns"]],
            self.case.decode: [nanoseconds / 1e9 for nanoseconds in written["samples_ns"]],
        }


class NibbleProducts:
    """`nibble bench --kernels` of a synthetic model. Checked are the logits of one layer of its shape."""

    CHAINED = 4  # qkv, out, fc1 and fc2 follow each other; their errors add as squares

    def __init__(self, case, scheme: str):
        self.case, self.scheme, self.program = case, scheme, Program(case.settings)
        layer = case.layer
        folder = self.program.quantized(layer.folder, scheme)
        found = [self.program.logits(folder, layer.prompt[:rows]) for rows in case.settings.rows]
        self.off_by = max(distance(logits, layer.reference[: len(logits)]) for logits in found) / self.CHAINED**0.5

    def turn(self, repeats: int) -> Seconds:
        rows = ",".join(map(str, self.case.settings.rows))
        model = f"synthetic:{self.case.name}"
        found = self.program.bench(model, repeats, "--kernels", "--scheme", self.scheme, "-p", rows, "-n", "0")
        tests = {self.case.test(kernel["kernel"], kernel["m"]): kernel["samples_ns"] for kernel in found}
        return {test: [ns / 1e9 for ns in samples] for test, samples in tests.items() if test in self.case.tests}
