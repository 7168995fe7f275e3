"""Runs the stages of scripts/gpu_check.sh; writes check.json, and check.log with what the programs said.

    python3 scripts/gpu_stages.py --programs build --out build/gpu tests memcheck
    python3 scripts/gpu_stages.py --programs build --out build/gpu figures peers --sizes 350m 1.3b 6.7b

Without stages all of them run. A stage that finds nothing to run has failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Tests that run on the GPU have its name in theirs.
GPU_TESTS = "*cuda*"
# Every kernel once or more, at small sizes: what a sanitizer can do in minutes.
SANITIZED_TESTS = [
    "All/LinearTest.GivesASegmentTheSameBits*/cuda_*",
    "All/LinearTest.*FewRows*/cuda_*",
    "All/CrowdTest.*Small*/cuda_fp16_nf4",
    "All/FusedWayTest.*Small*/cuda_fp16_nf4",
    "*ecomp*cuda*",
    "All/ProjectTest.*/cuda_*",
    "All/AttentionTest.GivesASequenceTheSameBits*/cuda_*",
    "All/LayerNormTest.GivesARow*/cuda_*",
    "All/SamplingTest.WithoutTemperatureTakesTheLowest*/cuda_*",
    "All/RowsTest.OfABatchs*/cuda_*",
    "All/RepeatTest.LeavesWhat*/cuda_*",
]
# racecheck, by far the slowest, takes 7 minutes for these.
RACECHECK_TESTS = [
    "All/LinearTest.MatchesAPlainSumForAnyShape/cuda_fp16_nf4",
    "All/LinearTest.MatchesAPlainSumForAnyShape/cuda_bf16_int8",
    "All/LinearTest.MatchesAPlainSumForAnyShape/cuda_fp32_nf4dq",
    "All/LinearTest.MatchesAPlainSumForFewRows*/cuda_fp16_int8",
    "All/LinearTest.GivesFewRows*/cuda_fp16_nf4",
    "All/LinearTest.GivesASegmentTheSameBitsAloneAndBesideOthers/cuda_fp16_nf4",
    "All/CrowdTest.*Small*/cuda_fp16_nf4",
    "All/CrowdTest.*Small*/cuda_bf16_int4asym",
    "All/FusedWayTest.*Small*/cuda_fp16_nf4",
    "All/ProjectTest.*/cuda_fp16",
    "All/EpilogueTest.*/cuda_bf16",
    "All/Int8DecompTest.*/cuda_fp16",
    "All/AttentionTest.*/cuda_fp16",
    "All/LayerNormTest.GivesARow*/cuda_*",
    "All/SamplingTest.WithoutTemperatureTakesTheLowest*/cuda_fp16",
    "All/RowsTest.*/cuda_*",
    "All/RepeatTest.ChoosesTheSame*/cuda_fp32_fp16",
]


@dataclass(frozen=True)
class Sanitizer:
    tests: list[str]
    seconds: int
    most_shards: int = sys.maxsize  # processes side by side


SANITIZERS = {
    "memcheck": Sanitizer(SANITIZED_TESTS, 300),
    # A process takes up to 40 GB of the host's memory.
    "racecheck": Sanitizer(RACECHECK_TESTS, 600, most_shards=4),
    # Eight want more than an H200's memory.
    "initcheck": Sanitizer(SANITIZED_TESTS, 300, most_shards=4),
    "synccheck": Sanitizer(SANITIZED_TESTS, 300),
}
# What `nibble bench` measures for each file of scripts/figures/cuda, call by call, and of which models alone.
FIGURES = {
    "decode.json": (["--scheme none,int8,nf4,nf4-dq --dtype fp16 -p 0 -n 64 -d 128,1900 -b 1,8 -r 3"], None),
    "prefill.json": (["--scheme none,int8,nf4 --dtype fp16 -p 128,512,1900 -n 0 -r 3"], None),
    "speed.json": (
        ["--scheme none,int8,nf4,nf4-dq,fp4,fp4-dq --dtype fp32,bf16,fp16 -p 0 -n 64 -r 3"],
        ["350m", "1.3b"],
    ),
    "scaling.json": (
        [
            "--scheme none,int8,nf4 --dtype fp16 -p 0 -n 32 -d 128 -b 1-64*2 -r 3",
            "--scheme none,int8,nf4 --dtype fp16 -p 0 -n 32 -d 512,1024,1536,2000 -r 3",
        ],
        ["6.7b"],
    ),
}
# What scripts/peers/compare.py does; both go into peers.json.
PEERS = [
    "models --schemes none int8 nf4 nf4-dq fp4 fp4-dq int4 --generate 32 --repeats 2",
    "products --schemes none int8 nf4 int4 --rows 1 16",
]


class StageError(Exception):
    """A sentence about why a stage failed."""


@dataclass
class Check:
    programs: Path
    out: Path
    shards: int
    tests: str
    sizes: list[str]
    environment: dict[str, str]
    scratch: Path
    deadline: float = 0.0
    results: dict[str, object] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def program(self, name: str) -> Path | None:
        places = [self.programs / folder / name for folder in ("bin", "tests")]
        return next((place for place in places if place.is_file()), None)

    def require(self, name: str) -> Path:
        found = self.program(name)
        if found is None:
            raise StageError(f"expected {name} in {self.programs}/bin or /tests, found none")
        return found

    def run(self, command: list[str | Path], **environment: str) -> tuple[int, str]:
        """A command's exit code and output, which also goes to check.log. Raises StageError past the deadline."""
        line = "$ " + " ".join(map(str, command))
        left = self.deadline - time.monotonic()
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self.environment | environment,
            text=True,
            errors="replace",
        )
        try:
            text, _ = process.communicate(timeout=max(left, 1))
            return process.returncode, text
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
            raise StageError(f"{Path(command[0]).name} ran past the stage's time; it said last:\n{text[-2000:]}") from None
        finally:
            with self.lock, (self.out / "check.log").open("a") as log:
                log.write(f"{line}\n{text}\n")

    def report(self, name: str) -> Path:
        """Where a program shall write a JSON report; what was there is gone."""
        path = self.scratch / f"{name}.json"
        path.unlink(missing_ok=True)
        return path


def read_gtest(reports: list[Path]) -> tuple[int, dict[str, str]]:
    """Tests that ran, and the first words of those that failed."""
    ran, failed = 0, {}
    for report in reports:
        if not report.exists():
            continue
        for suite in json.loads(report.read_text())["testsuites"]:
            for test in suite["testsuite"]:
                ran += test["result"] == "COMPLETED"
                if "failures" in test:
                    failed[f"{suite['name']}.{test['name']}"] = test["failures"][0]["failure"][:1000]
    return ran, failed


def describe(failed: dict[str, str]) -> str:
    shown = "\n".join(f"{name}\n{text}" for name, text in list(failed.items())[:4])
    return f"failed: {' '.join(list(failed)[:40])}\n{shown}"


def run_gtest(check: Check, program: str, tests: str, shards: int, under: tuple[str, ...] = ()) -> None:
    """Runs a program's tests, dealt out to several processes; `under` a tool, after which the results are named."""
    path = check.require(program)
    name = Path(under[0]).name + " " + under[2] if under else program

    def shard(index: int) -> tuple[int, str, Path]:
        report = check.report(f"{name}.{index}")
        command = [*under, path, f"--gtest_filter={tests}", f"--gtest_output=json:{report}", "--gtest_brief=1"]
        code, text = check.run(command, GTEST_TOTAL_SHARDS=str(shards), GTEST_SHARD_INDEX=str(index))
        return code, text, report

    with ThreadPoolExecutor(shards) as pool:
        codes, texts, reports = zip(*pool.map(shard, range(shards)))
    ran, failed = read_gtest(list(reports))
    check.results[name] = {"ran": ran, "failed": failed, "exit_codes": list(codes)}
    if ran == 0:
        raise StageError(f"{name}: expected tests that match {tests}, found none")
    if failed:
        raise StageError(f"{name}: {len(failed)} of {ran} tests {describe(failed)}")
    if any(codes):
        ended = "\n".join(text[-2000:] for code, text in zip(codes, texts) if code)
        raise StageError(f"{name}: exit codes {sorted(set(codes))}, it said last:\n{ended}")


def tests(check: Check) -> None:
    run_gtest(check, "test_kernels", check.tests, check.shards)
    run_gtest(check, "test_runtime", check.tests, 2)


def sanitize_with(tool: str):
    def stage(check: Check) -> None:
        compute_sanitizer = shutil.which("compute-sanitizer", path=check.environment["PATH"])
        if compute_sanitizer is None:
            raise StageError("expected compute-sanitizer of the CUDA toolkit in PATH, found none")
        under = (compute_sanitizer, "--tool", tool, "--error-exitcode", "86", "--print-limit", "20")
        leaks = ("--leak-check", "full") if tool == "memcheck" else ()
        sanitizer = SANITIZERS[tool]
        shards = min(check.shards, sanitizer.most_shards)
        run_gtest(check, "test_kernels", ":".join(sanitizer.tests), shards, (*under, *leaks))

    return stage


def roofline(check: Check) -> None:
    report = check.report("roofline")
    code, text = check.run([check.require("device_bench"), "--json", report, "--commit", commit()])
    print(text, flush=True)
    if code != 0 or not report.exists():
        raise StageError(f"device_bench: exit code {code}")
    check.results["roofline"] = json.loads(report.read_text())


def benches(check: Check) -> None:
    """Google Benchmark's programs, as far as their benchmarks have the GPU's name in theirs."""
    found = {}
    programs = [p for folder in ("bin", "tests") for p in sorted((check.programs / folder).glob("*_bench"))]
    for program in programs:
        if program.name == "device_bench":
            continue
        report = check.report(program.name)
        command = [program, "--benchmark_filter=cuda", "--benchmark_min_time=0.2"]
        code, text = check.run([*command, f"--benchmark_out={report}", "--benchmark_out_format=json"])
        if code != 0:
            raise StageError(f"{program.name}: exit code {code}, it said last:\n{text[-2000:]}")
        if report.exists() and report.read_text():
            print(text, flush=True)
            found[program.name] = json.loads(report.read_text())["benchmarks"]
    check.results["benches"] = found
    if not any(found.values()):
        raise StageError("expected benchmarks with cuda in their names, found none")


def figures(check: Check) -> None:
    """A model that cannot be measured is a sentence, and the others are measured."""
    failed = check.results["figures"] = {}
    for name, (calls, models) in FIGURES.items():
        rows = []
        sizes = check.sizes if models is None else [size for size in check.sizes if size in models]
        for size, call in itertools.product(sizes, calls):
            command = [check.require("nibble"), "bench", "--device", "cuda", "-m", f"synthetic:opt-{size}"]
            start = time.monotonic()
            code, text = check.run([*command, *call.split(), "-o", "json"])
            if code != 0:
                failed[f"{name} {size}"] = text.strip().splitlines()[-1]
                continue
            rows += json.JSONDecoder().raw_decode(text, text.index("[\n"))[0]
            (check.out / name).write_text(json.dumps(rows, indent=1) + "\n")
            print(f"   {name}: {size}: {len(rows)} measurements ({time.monotonic() - start:.0f} s)", flush=True)
    if failed:
        raise StageError("; ".join(f"{name}: {sentence}" for name, sentence in failed.items()))


def peers(check: Check) -> None:
    program = check.require("nibble")
    for what in PEERS:
        command = [sys.executable, ROOT / "scripts/peers/compare.py", *what.split(), "--device", "cuda"]
        command += ["--nibble", program, "--sizes", *check.sizes, "--out", check.out / "peers.json"]
        limit = max(1.0, check.deadline - time.monotonic() - 60)
        code, text = check.run([*command, "--limit", f"{limit:.0f}"], COMMIT=commit())
        print(text, flush=True)
        if code != 0:
            raise StageError(f"compare.py {what}: exit code {code}, it said last:\n{text[-2000:]}")


# What a stage may take, in seconds.
STAGES = {
    "tests": (tests, 300),
    **{tool: (sanitize_with(tool), sanitizer.seconds) for tool, sanitizer in SANITIZERS.items()},
    "roofline": (roofline, 120),
    "benches": (benches, 240),
    "figures": (figures, 300),
    "peers": (peers, 500),
}


def output_of(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def commit() -> str:
    return os.environ.get("COMMIT") or output_of(["git", "rev-parse", "HEAD"]) or "unknown"


def device() -> dict[str, str]:
    keys = ["name", "driver_version", "memory.total", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"]
    values = output_of(["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"]).splitlines()
    return dict(zip(keys, (value.strip() for value in values[0].split(",")))) if values else {}


def environment_for(programs: Path) -> dict[str, str]:
    """The tests' own places are where they were built; here they are in this checkout."""
    environment = dict(os.environ)
    cuda = Path(environment.get("CUDA_HOME", "/usr/local/cuda"))
    environment["PATH"] = f"{environment['PATH']}:{cuda}/bin"
    libraries = [str(programs / "lib"), environment.get("LD_LIBRARY_PATH", ""), str(cuda / "lib64")]
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    environment["NIBBLE_FIXTURES_DIR"] = str(ROOT / "tests/golden")
    environment["NIBBLE_BUNDLED_MODEL"] = str(ROOT / "models/bundled")
    environment["NIBBLE_CLI"] = str(programs / "bin/nibble")
    return environment


def run_stages(check: Check, names: list[str], seconds: float | None) -> bool:
    """Whether all passed. check.json is written after each, so that a run cut short leaves what it has."""
    stages = {}
    report = {"commit": commit(), "date": time.strftime("%Y-%m-%d %H:%M:%S"), "device": device()}
    report |= {"stages": stages, "results": check.results}
    for name in names:
        stage, limit = STAGES[name]
        limit = seconds or limit
        print(f"== {name} (at most {limit:.0f} s)", flush=True)
        start = time.monotonic()
        check.deadline = start + limit
        error = ""
        try:
            stage(check)
        except StageError as problem:
            error = str(problem)
        took = round(time.monotonic() - start, 1)
        stages[name] = {"passed": not error, "seconds": took, "error": error}
        (check.out / "check.json").write_text(json.dumps(report, indent=1) + "\n")
        print(f"== {name}: {error or 'passed'} ({took} s)", flush=True)
    return all(stage["passed"] for stage in stages.values())


def main() -> int:
    parser = argparse.ArgumentParser(description="Tests, sanitizers and benchmarks of the CUDA backend.")
    parser.add_argument("--programs", type=Path, required=True, help="a build's folder, or an unpacked pack")
    parser.add_argument("--out", type=Path, required=True, help="folder for check.json and check.log")
    parser.add_argument("--shards", type=int, default=min(8, os.cpu_count() or 1), help="processes of kernel tests")
    parser.add_argument("--tests", default=GPU_TESTS, help=f"gtest filter of stage tests (default: {GPU_TESTS})")
    parser.add_argument("--sizes", nargs="+", default=["350m", "1.3b", "6.7b", "13b"], help="of figures and peers")
    parser.add_argument("--seconds", type=float, help="what each stage may take (default: by stage)")
    names = [*STAGES, "sanitizers"]
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(names)} (default: all)")
    arguments = parser.parse_args()
    wrong = set(arguments.stages) - set(names)
    if wrong:
        parser.error(f"expected stages among {', '.join(names)}, found {', '.join(sorted(wrong))}")
    wanted = [name for stage in arguments.stages for name in (SANITIZERS if stage == "sanitizers" else [stage])]

    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "check.log").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        programs = arguments.programs.resolve()
        check = Check(
            programs=programs,
            out=arguments.out.resolve(),
            shards=arguments.shards,
            tests=arguments.tests,
            sizes=arguments.sizes,
            environment=environment_for(programs),
            scratch=Path(scratch),
        )
        return 0 if run_stages(check, wanted or list(STAGES), arguments.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
