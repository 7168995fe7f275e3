"""llama.cpp's CPU kernels through ctypes: the shared libraries of a build of ggml, of which nothing is kept here.

Weights go where llama.cpp puts them: into the CPU backend's own order of rows ("repacked") where it has one for the
type, else as they are.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_bool, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Callable

import torch
from harness import Absent

TYPES = {"f32": 0, "q4_0": 2, "q8_0": 8}  # enum ggml_type
# Bytes of the struct ggml_tensor and its bookkeeping, and of a graph, with room to spare: contexts hold no data.
OF_A_TENSOR, OF_A_GRAPH = 1024, 1 << 20

FUNCTIONS = {
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "ggml_free": (None, [c_void_p]),
    "ggml_log_set": (None, [c_void_p, c_void_p]),
    "ggml_backend_dev_by_type": (c_void_p, [c_int]),
    "ggml_backend_dev_backend_reg": (c_void_p, [c_void_p]),
    "ggml_backend_dev_init": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_dev_buffer_type": (c_void_p, [c_void_p]),
    "ggml_backend_dev_supports_op": (c_bool, [c_void_p, c_void_p]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, ctypes.c_char_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_buft_name": (ctypes.c_char_p, [c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
    "ggml_backend_free": (None, [c_void_p]),
}


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class Ggml:
    def __init__(self, folder: Path):
        names = ("libggml-base.so", "libggml-cpu.so", "libggml.so")
        found = {path.name: path for path in sorted(folder.rglob("libggml*.so"))}
        missing = [name for name in names if name not in found]
        if missing:
            raise Absent(f"ggml: {folder}: expected {', '.join(names)}, found no {missing[0]}")
        libraries = [ctypes.CDLL(str(found[name]), mode=ctypes.RTLD_GLOBAL) for name in names]
        for name, (result, arguments) in FUNCTIONS.items():
            function = next((getattr(library, name) for library in libraries if hasattr(library, name)), None)
            if function is None:
                raise Absent(f"ggml: {folder}: expected the function {name}, found none")
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)
        self.init = libraries[0].ggml_init
        self.init.restype, self.init.argtypes = c_void_p, [InitParams]
        self.silent = ctypes.CFUNCTYPE(None, c_int, ctypes.c_char_p, c_void_p)(lambda *_: None)
        self.log_set(ctypes.cast(self.silent, c_void_p), None)
        self.cpu = self.backend_dev_by_type(0)

    @staticmethod
    @functools.cache
    def open(folder: Path) -> Ggml:
        return Ggml(folder)

    def of_registry(self, name: str, result: type | None, *arguments: type) -> Callable:
        address = self.backend_reg_get_proc_address(self.backend_dev_backend_reg(self.cpu), name.encode())
        if not address:
            raise Absent(f"ggml: its CPU backend has no {name}")
        return ctypes.CFUNCTYPE(result, *arguments)(address)

    def context(self, tensors: int) -> int:
        return self.init(InitParams(tensors * OF_A_TENSOR + OF_A_GRAPH, None, True))

    def quantized(self, kind: str, weight: torch.Tensor) -> ctypes.Array:
        n, k = weight.shape
        values = weight.float().contiguous()
        codes = ctypes.create_string_buffer(4 * n * k)
        size = self.quantize_chunk(TYPES[kind], values.data_ptr(), codes, 0, n, k, None)
        return (ctypes.c_char * size).from_buffer(codes)

    def buffer_types(self) -> list[int]:
        """The CPU's, its own orders of rows first."""
        extra = self.of_registry("ggml_backend_dev_get_extra_bufts", ctypes.POINTER(c_void_p), c_void_p)(self.cpu)
        types = []
        while extra[len(types)]:
            types.append(extra[len(types)])
        return [*types, self.backend_dev_buffer_type(self.cpu)]

    def buffer_type(self, kind: str, n: int, k: int) -> int:
        """The first whose weights the backend multiplies: tried with one weight."""
        for found in self.buffer_types():
            contexts = [self.context(1), self.context(2)]
            weight = self.new_tensor_2d(contexts[0], TYPES[kind], k, n)
            product = self.mul_mat(contexts[1], weight, self.new_tensor_2d(contexts[1], TYPES["f32"], k, 1))
            buffer = self.backend_alloc_ctx_tensors_from_buft(contexts[0], found)
            fits = self.backend_dev_supports_op(self.cpu, product)
            self.backend_buffer_free(buffer)
            for context in contexts:
                self.free(context)
            if fits:
                return found
        raise Absent(f"ggml: its CPU backend does not multiply {n} x {k} weights of {kind}")


class GgmlProducts:
    """x times every copy of one weight."""

    def __init__(self, library: Ggml, kind: str, weight: torch.Tensor, x: torch.Tensor, copies: int, threads: int):
        self.g = g = library
        (n, k), m = weight.shape, len(x)
        codes = g.quantized(kind, weight)
        self.contexts = [g.context(copies), g.context(copies + 1)]
        weights = [g.new_tensor_2d(self.contexts[0], TYPES[kind], k, n) for _ in range(copies)]
        factors = g.new_tensor_2d(self.contexts[1], TYPES["f32"], k, m)
        results = [g.mul_mat(self.contexts[1], w, factors) for w in weights]
        self.graph = g.new_graph(self.contexts[1])
        for result in results:
            g.build_forward_expand(self.graph, result)
        types = [g.buffer_type(kind, n, k), g.backend_dev_buffer_type(g.cpu)]
        self.buffers = [g.backend_alloc_ctx_tensors_from_buft(*place) for place in zip(self.contexts, types)]
        for w in weights:
            g.backend_tensor_set(w, codes, 0, len(codes))
        x = x.float().contiguous()
        g.backend_tensor_set(factors, x.data_ptr(), 0, g.nbytes(factors))
        self.backend = g.backend_dev_init(g.cpu, None)
        g.of_registry("ggml_backend_set_n_threads", None, c_void_p, c_int)(self.backend, threads)
        self.run()
        self.result = torch.empty(m, n)
        g.backend_tensor_get(results[-1], self.result.data_ptr(), 0, g.nbytes(results[-1]))

    def run(self) -> None:
        if self.g.backend_graph_compute(self.backend, self.graph) != 0:
            raise RuntimeError("ggml: the graph was not computed")

    def __del__(self) -> None:
        self.g.backend_free(self.backend)
        for buffer in self.buffers:
            self.g.backend_buffer_free(buffer)
        for context in self.contexts:
            self.g.free(context)
