#!/usr/bin/env python3
"""Writes the fixtures of tests/models/{safetensors,torch_bin,checkpoint}*_test.cpp with the real writers.

    python scripts/golden/checkpoints.py tests/golden/checkpoint

needs torch, safetensors, numpy and huggingface_hub. Beside the fixtures it writes expected.json: for each fixture its
tensors as {"dtype", "shape", "data" (hexadecimal, row-major, little endian)}, as PyTorch itself holds them. With the
same versions of the writers it writes the same bytes, except that bad_legacy.bin holds memory addresses.
"""

import argparse
import json
import os
import pathlib
import shutil
import zipfile

import huggingface_hub
import numpy
import safetensors.numpy
import safetensors.torch
import torch

NAMES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64",
    torch.int64: "int64", torch.int32: "int32", torch.int16: "int16", torch.int8: "int8",
    torch.uint64: "uint64", torch.uint32: "uint32", torch.uint16: "uint16", torch.uint8: "uint8",
    torch.bool: "bool",
}


def describe(tensors):
    return {
        name: {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data": tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes().hex(),
        }
        for name, tensor in tensors.items()
    }


def every_dtype():
    """One tensor of each element type, with odd shapes, a scalar, an empty tensor and a name that needs escaping."""
    tensors = {f"t.{name}": (torch.randn(2, 3) * 50).abs().to(dtype) for dtype, name in NAMES.items()}
    tensors["scalar"] = torch.tensor(-7)
    tensors["empty"] = torch.zeros(0, 3)
    tensors['say "é"\n'] = torch.randn(5)
    return tensors


def views():
    """Storages shared and seen through offsets and strides."""
    base = torch.randn(6, 4)
    return {"tied.a": base, "tied.b": base, "transposed": base.t(), "rows": base[2:4], "columns": base[:, 1::2],
            "halves": torch.randn(3, 5).half().permute(1, 0)}


class RunsACommand:
    """What a malicious checkpoint looks like: loading it would call os.system."""

    def __reduce__(self):
        return os.system, ("true",)


class Doubler(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def rezip(source, target, compression=zipfile.ZIP_STORED, change=None):
    """Copies an archive record by record; `change` maps (name, data) to the records to write."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            for record, data in (change or (lambda n, d: [(n, d)]))(name, old.read(name)):
                new.writestr(zipfile.ZipInfo(record), data, compression)  # without the time of day


def write_torch(out, expected):
    def save(name, tensors, saved=None, **options):
        torch.save(tensors if saved is None else saved, out / name, **options)
        expected[name] = describe(tensors)

    plain = every_dtype()
    save("torch_dtypes.bin", plain)
    save("torch_protocol4.bin", plain, pickle_protocol=4)
    save("torch_views.bin", views())
    module = torch.nn.Linear(3, 2)
    save("torch_module.bin", dict(module.state_dict()), module.state_dict())
    save("torch_parameter.bin", {"weight": module.weight, "bias": module.bias}, dict(module.named_parameters()))
    save("torch_nested.bin", dict(module.state_dict()),
         {"step": 3, "rate": 0.5, "big": 1 << 40, "names": ["a", "b"], "none": None, "model": module.state_dict()})

    small = out / "torch_module.bin"
    rezip(small, out / "torch_deflated.bin", zipfile.ZIP_DEFLATED)
    expected["torch_deflated.bin"] = expected["torch_module.bin"]

    torch.save(module.state_dict(), out / "bad_legacy.bin", _use_new_zipfile_serialization=False)
    torch.jit.script(Doubler()).save(out / "bad_torchscript.bin")
    torch.save({"weight": RunsACommand()}, out / "bad_command.bin")
    torch.save({"weight": torch.zeros(1).expand(1000)}, out / "bad_expanded.bin")
    torch.save({"weight": torch.zeros(1, dtype=torch.complex64)}, out / "bad_complex.bin")

    def bad(name, change):
        rezip(small, out / name, change=change)

    bad("bad_byteorder.bin", lambda n, d: [(n, b"big" if n.endswith("byteorder") else d)])
    bad("bad_missing_storage.bin", lambda n, d: [] if n.endswith("data/1") else [(n, d)])
    bad("bad_short_storage.bin", lambda n, d: [(n, d[:-4] if n.endswith("data/1") else d)])
    bad("bad_no_pickle.bin", lambda n, d: [] if n.endswith("data.pkl") else [(n, d)])
    bad("bad_twice.bin", lambda n, d: [(n, d)] * (2 if n.endswith("data/0") else 1))
    bad("bad_name.bin", lambda n, d: [(n.replace("data/0", "../0"), d)])


def write_safetensors(out, expected):
    tensors = every_dtype()
    safetensors.torch.save_file(tensors, out / "torch.safetensors", {"format": "pt"})
    expected["torch.safetensors"] = describe(tensors)
    tensors = {k: torch.from_numpy(v) for k, v in
               {"z": numpy.arange(3, dtype=numpy.int16), "a": numpy.ones((2, 1, 2)), "m": numpy.zeros(7, bool)}.items()}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    safetensors.numpy.save_file(arrays, out / "numpy.safetensors")
    expected["numpy.safetensors"] = describe(tensors)
    # One note only: the reference writer puts several in the order of a randomly seeded hash table.
    safetensors.numpy.save_file(arrays, out / "notes.safetensors", {"né": "2\t\"\x01"})
    expected["notes.safetensors"] = describe(tensors)


def write_sharded(out, expected):
    tensors = {f"layers.{i}.weight": torch.randn(4, 8) for i in range(3)} | {"head": torch.randn(3).half()}
    for name, safe in (("sharded_safetensors", True), ("sharded_torch", False)):
        (out / name).mkdir()
        huggingface_hub.save_torch_state_dict(tensors, out / name, max_shard_size=300, safe_serialization=safe)
        expected[name] = describe(tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="folder to write; what it holds is replaced")
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    torch.manual_seed(0)
    expected = {}
    write_torch(out, expected)
    write_safetensors(out, expected)
    write_sharded(out, expected)
    (out / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
