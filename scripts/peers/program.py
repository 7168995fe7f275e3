"""The program nibble as a peer."""

from __future__ import annotations

import json
import subprocess
import tempfile
from typing import Any

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

    def bench(self, model: str, repeats: int, *tests: str) -> list[dict[str, Any]]:
        command = ["bench", "-m", model, *self.place(), "-r", str(repeats), "-o", "json", *tests]
        return json.loads(self.run(*command))


class NibbleModel:
    """A checkpoint quantized once, then read by every run of the program."""

    def __init__(self, case, scheme: str):
        self.case, self.program = case, Program(case.settings)
        self.folder = case.folder
        if scheme != "none":
            self.folder = f"{case.folder}-{scheme}"
            self.program.run("quantize", case.folder, self.folder, "--scheme", scheme)
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            tokens = ",".join(map(str, case.prompt.tolist()))
            self.program.run("logits", "-m", self.folder, *self.program.place(), "--tokens", tokens, "-o", file.name)
            self.off_by = distance(load_file(file.name)["logits"][-1], case.reference)

    def turn(self, repeats: int) -> Seconds:
        prompt, generate = str(self.case.settings.prompt), str(self.case.settings.generate)
        (read,) = self.program.bench(self.folder, repeats, "-p", prompt, "-n", "0")
        (written,) = self.program.bench(self.folder, repeats, "-p", "0", "-n", generate, "-d", prompt)
        return {
            self.case.prefill: [nanoseconds / 1e9 for nanoseconds in read["samples_ns"]],
            self.case.decode: [nanoseconds / 1e9 for nanoseconds in written["samples_ns"]],
        }


class NibbleProducts:
    """`nibble bench --kernels` of a synthetic model: the kernels whose logits are checked where models are compared."""

    off_by = None

    def __init__(self, case, scheme: str):
        self.case, self.scheme, self.program = case, scheme, Program(case.settings)
        self.turn(1)

    def turn(self, repeats: int) -> Seconds:
        rows = ",".join(map(str, self.case.settings.rows))
        model = f"synthetic:{self.case.name}"
        found = self.program.bench(model, repeats, "--kernels", "--scheme", self.scheme, "-p", rows, "-n", "0")
        tests = {self.case.test(kernel["kernel"], kernel["m"]): kernel["samples_ns"] for kernel in found}
        return {test: [ns / 1e9 for ns in samples] for test, samples in tests.items() if test in self.case.tests}
