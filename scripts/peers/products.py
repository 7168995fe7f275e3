"""The products of a model's layers alone: y = x W^T at every shape, each layer's weight in memory of its own.

What the test "fc1 x16" takes is the time of one product with 16 rows of x; all layers' are run one after the other, so
that weights come from memory as in a step.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace
from typing import Callable, Iterator

import torch
from ggml_library import Ggml, GgmlProducts
from harness import Absent, Peer, Seconds
from models import ModelCase
from opt_decoder import Int4Linear, Int8Linear, PlainLinear
from program import NibbleProducts
from settings import Settings, captured, distance
from shapes import Shape

# Of one product with normally distributed weights, whose relative error is that of its result. 16-bit results round by
# 2^-9; int8 has a step of 1/127 of 4 deviations, some 1 %; 4 bits in blocks of 32 to 64 are off by 8 to 11 %.
TOLERANCES = {"none": 0.01, "int8": 0.03, "q8_0": 0.03}
OF_FOUR_BITS = 0.15


@dataclass(frozen=True)
class Product:
    """One weight [n, k] and rows of x [m, k], in the case's dtype, and their product in fp32."""

    test: str
    weight: torch.Tensor
    x: torch.Tensor
    reference: torch.Tensor
    copies: int


class ProductCase:
    def __init__(self, name: str, shape: Shape, settings: Settings, scratch: str):
        self.name, self.shape, self.settings, self.scratch = name, shape, settings, scratch
        self.tests = [self.test(name, m) for m in settings.rows for name in self.shape.products]

    @functools.cached_property
    def layer(self) -> ModelCase:
        """A model of one layer, for whom products cannot be had by themselves."""
        settings = replace(self.settings, prompt=max(self.settings.rows))
        return ModelCase(f"{self.name}, one layer", replace(self.shape, layers=1), settings, self.scratch)

    @staticmethod
    def test(name: str, rows: int) -> str:
        return f"{name} x{rows}"

    def products(self) -> Iterator[Product]:
        generator = torch.Generator(self.settings.device).manual_seed(0)
        options = {"generator": generator, "device": self.settings.device}
        for name, (n, k) in self.shape.products.items():
            weight = (0.02 * torch.randn(n, k, **options)).to(self.settings.torch_dtype)
            for m in self.settings.rows:
                x = torch.randn(m, k, **options).to(self.settings.torch_dtype)
                reference = x.float() @ weight.float().T
                yield Product(self.test(name, m), weight, x, reference, self.shape.layers)

    def tolerance(self, scheme: str) -> float:
        return TOLERANCES.get(scheme, OF_FOUR_BITS)

    def work(self, test: str) -> float:
        return 1

    def release(self) -> None:
        self.settings.release()


# Prepares all of a product's copies; returns what runs them, and the result of the last.
Prepare = Callable[[Product, Settings], tuple[Callable[[], object], torch.Tensor]]


class Products:
    def __init__(self, case: ProductCase, prepare: Prepare):
        self.case, self.off_by = case, 0.0
        self.runs: dict[str, Callable[[], object]] = {}
        for product in case.products():
            self.runs[product.test], result = prepare(product, case.settings)
            self.off_by = max(self.off_by, distance(result, product.reference))

    def turn(self, repeats: int) -> Seconds:
        seconds: Seconds = {}
        for test, run in self.runs.items():
            run()
            seconds[test] = [self.case.settings.seconds(run) / self.case.shape.layers for _ in range(repeats)]
        return seconds


def of_modules(linear: Callable[[torch.Tensor], torch.nn.Module], compiled: bool = False) -> Prepare:
    """Any linear of PyTorch; one CUDA graph runs all copies."""

    @torch.no_grad()
    def prepare(product: Product, settings: Settings) -> tuple[Callable[[], object], torch.Tensor]:
        first = linear(product.weight.clone())
        modules = [first, *(copy.deepcopy(first) for _ in range(product.copies - 1))]
        if compiled:
            for module in modules:
                module.compile(fullgraph=True, dynamic=False)
        result = torch.empty_like(product.reference, dtype=product.x.dtype)

        @torch.no_grad()
        def run() -> None:
            for module in modules:
                y = module(product.x)
            result.copy_(y)

        return captured(settings, run), result

    return prepare


def bitsandbytes(scheme: str) -> Callable[[torch.Tensor], torch.nn.Module]:
    def linear(weight: torch.Tensor) -> torch.nn.Module:
        try:
            import bitsandbytes as bnb
        except ImportError as error:
            raise Absent(f"bitsandbytes is not installed: {error}") from None
        n, k = weight.shape
        if scheme == "int8":
            module = bnb.nn.Linear8bitLt(k, n, bias=False, has_fp16_weights=False)
            module.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
        else:
            kind, _, nested = scheme.partition("-")
            module = bnb.nn.Linear4bit(k, n, bias=False, compute_dtype=weight.dtype)
            module.weight = bnb.nn.Params4bit(
                weight.cpu(), requires_grad=False, quant_type=kind, compress_statistics=nested == "dq", module=module
            )
        return module.to(weight.device)

    return linear


def onnxruntime(bits: int, accuracy_level: int) -> Prepare:
    """MatMulNBits in blocks of 32, as onnxruntime-genai builds models; accuracy level 4 rounds x to 8 bits."""
    block = 32

    def prepare(product: Product, settings: Settings) -> tuple[Callable[[], object], torch.Tensor]:
        if settings.device != "cpu":
            raise Absent("onnxruntime: MatMulNBits is compared on the CPU")
        try:
            import onnxruntime as ort
            from onnx import TensorProto, helper, numpy_helper
        except ImportError as error:
            raise Absent(f"onnxruntime and onnx are not installed: {error}") from None
        n, k = product.weight.shape
        m = len(product.x)
        blocks = product.weight.float().reshape(n, k // block, block)
        middle = 1 << (bits - 1)
        scales = (blocks.abs().amax(2) / (middle - 1)).clamp(min=1e-8)
        codes = ((blocks / scales[..., None]).round() + middle).clamp(0, 2 * middle - 1).to(torch.uint8)
        if bits == 4:
            codes = codes[..., ::2] | codes[..., 1::2] << 4
        nodes, constants, outputs = [], [], []
        for i in range(product.copies):
            constants += [
                numpy_helper.from_array(codes.numpy(), f"w{i}"),
                numpy_helper.from_array(scales.reshape(-1).numpy(), f"s{i}"),
            ]
            nodes.append(
                helper.make_node("MatMulNBits", ["x", f"w{i}", f"s{i}"], [f"y{i}"], domain="com.microsoft", K=k, N=n,
                                 bits=bits, block_size=block, accuracy_level=accuracy_level)
            )  # fmt: skip
            outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [m, n]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])
        graph = helper.make_graph(nodes, "products", [x], outputs, constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs = {"x": product.x.float().numpy()}
        names = [f"y{i}" for i in range(product.copies)]
        result = torch.as_tensor(session.run(names[-1:], inputs)[0])
        return lambda: session.run(names, inputs), result

    return prepare


def ggml(kind: str) -> Prepare:
    def prepare(product: Product, settings: Settings) -> tuple[Callable[[], object], torch.Tensor]:
        if settings.device != "cpu":
            raise Absent("ggml: its CPU kernels are compared on the CPU")
        if settings.ggml is None:
            raise Absent("ggml: no library given (--ggml FOLDER)")
        library = Ggml.open(settings.ggml)
        products = GgmlProducts(library, kind, product.weight, product.x, product.copies, settings.threads)
        return products.run, products.result

    return prepare


def peers(settings: Settings) -> Iterator[Peer]:
    dtype = settings.dtype
    for scheme in ("none", "int8", "nf4", "nf4-dq", "fp4", "fp4-dq"):
        yield Peer("nibble", scheme, dtype, lambda case, s=scheme: NibbleProducts(case, s))

    def products(name: str, scheme: str, prepare: Prepare) -> Peer:
        return Peer(name, scheme, dtype, lambda case: Products(case, prepare))

    plain = "cuBLAS" if settings.device == "cuda" else "PyTorch"
    yield products(plain, "none", of_modules(lambda weight: PlainLinear(weight, None)))
    if settings.device == "cuda":
        yield products("PyTorch, compiled", "int8", of_modules(lambda weight: Int8Linear(weight, None), compiled=True))
    yield products("PyTorch _weight_int4pack_mm", "int4", of_modules(lambda weight: Int4Linear(weight, None)))
    for scheme in ("int8", "nf4", "nf4-dq", "fp4", "fp4-dq"):
        yield products("bitsandbytes", scheme, of_modules(bitsandbytes(scheme)))
    if settings.device == "cpu":
        for scheme, bits in (("int8", 8), ("int4", 4)):
            yield products("onnxruntime MatMulNBits", scheme, onnxruntime(bits, 0))
            yield products("onnxruntime MatMulNBits, 8-bit activations", scheme, onnxruntime(bits, 4))
        for kind in ("q8_0", "q4_0"):
            yield products("ggml, 8-bit activations", kind, ggml(kind))
