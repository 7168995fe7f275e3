"""Whole models: one set of random weights and one prompt for all peers; a prompt is read, then tokens generated."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Callable, Iterator

import numpy
import torch
import transformers
from harness import Absent, Peer, Seconds
from opt_decoder import Int4Linear, Int8Linear, OptDecoder, PlainLinear
from program import NibbleModel
from settings import Settings, distance
from shapes import DTYPES, SHAPES, VOCABULARY, Shape
from transformers import BitsAndBytesConfig, OPTConfig, OPTForCausalLM

# How far logits may be from those of the same weights in fp32, relatively. 16-bit arithmetic rounds by 2^-9, 8-bit
# weights are off by 1 % and 4-bit ones by 10 %, which a random model's layers pass on and add up.
TOLERANCES = {"none": 0.05, "int8": 0.1}
OF_FOUR_BITS = 0.5


class ModelCase:
    """A checkpoint on disk, the same model in memory, and its logits in fp32 after each token of the prompt."""

    def __init__(self, name: str, shape: Shape, settings: Settings, scratch: str):
        self.name, self.settings = name, settings
        self.folder = tempfile.mkdtemp(dir=scratch)
        s = shape
        config = OPTConfig(
            hidden_size=s.hidden, ffn_dim=s.feed_forward, num_hidden_layers=s.layers, num_attention_heads=s.heads,
            word_embed_proj_dim=s.embedded, do_layer_norm_before=s.norm_first, vocab_size=VOCABULARY,
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(settings.device):
            model = OPTForCausalLM(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim == 1:  # biases and norms begin as zeros and ones, which hide what is done wrong
                        parameter.add_(0.1 * torch.randn_like(parameter))
        self.model = model.to(settings.torch_dtype)
        self.model.save_pretrained(self.folder)
        self.prompt = torch.arange(10, 10 + settings.prompt, device=settings.device) % 1000
        self.reference = self.in_fp32()
        self.prefill, self.decode = f"pp{settings.prompt}", f"tg{settings.generate} @ d{settings.prompt}"

    @torch.no_grad()
    def in_fp32(self) -> torch.Tensor:
        model = self.model
        if self.settings.dtype != "fp32":
            model = OPTForCausalLM.from_pretrained(
                self.folder, dtype=torch.float32, device_map={"": self.settings.device}
            ).eval()
        return model(self.prompt[None], use_cache=False).logits[0].float()

    def tolerance(self, scheme: str) -> float:
        return TOLERANCES.get(scheme, OF_FOUR_BITS)

    def work(self, test: str) -> float:
        return {self.prefill: self.settings.prompt, self.decode: self.settings.generate}[test]

    def release(self) -> None:
        self.settings.release()

    def timed(self, repeats: int, prefill: Callable[[], object], decode: Callable[[], object]) -> Seconds:
        pairs = [(self.settings.seconds(prefill), self.settings.seconds(decode)) for _ in range(repeats + 1)]
        prefills, decodes = zip(*pairs[1:])
        return {self.prefill: list(prefills), self.decode: list(decodes)}


class Transformers:
    """Eager, with the cache that `generate` would use and none of its overhead."""

    def __init__(self, case: ModelCase, quantization: BitsAndBytesConfig | None):
        self.case, self.model = case, case.model
        if quantization:
            self.model = OPTForCausalLM.from_pretrained(
                case.folder, dtype=case.settings.torch_dtype, quantization_config=quantization,
                device_map={"": case.settings.device},
            ).eval()  # fmt: skip
        self.prefill()
        self.off_by = distance(self.out.logits[0, -1], case.reference[-1])

    @torch.no_grad()
    def prefill(self) -> None:
        self.out = self.model(self.case.prompt[None], use_cache=True, logits_to_keep=1)

    @torch.no_grad()
    def decode(self) -> None:
        for _ in range(self.case.settings.generate):
            token = self.out.logits[:, -1:].argmax(-1)
            self.out = self.model(token, past_key_values=self.out.past_key_values, use_cache=True)

    def turn(self, repeats: int) -> Seconds:
        return self.case.timed(repeats, self.prefill, self.decode)


class ByHand:
    """opt_decoder.py: the strongest that PyTorch offers."""

    @torch.no_grad()
    def __init__(self, case: ModelCase, linear: type, compiled: bool):
        self.case = case
        context = case.settings.prompt + case.settings.generate + 8
        self.decoder = OptDecoder(case.model, linear, context, compiled)
        self.off_by = distance(self.decoder.prefill(case.prompt), case.reference[-1])
        self.decoder.capture(case.settings)

    @torch.no_grad()
    def turn(self, repeats: int) -> Seconds:
        case = self.case
        return case.timed(
            repeats,
            lambda: self.decoder.prefill(case.prompt),
            lambda: self.decoder.generate(case.settings.generate),
        )


class CTranslate2:
    def __init__(self, case: ModelCase, scheme: str):
        try:
            import ctranslate2
        except ImportError as error:
            raise Absent(f"CTranslate2 is not installed: {error}") from None
        self.case = case
        compute = DTYPES[case.settings.dtype]
        wanted = compute if scheme == "none" else f"{scheme}_{compute}"
        if wanted not in ctranslate2.get_supported_compute_types(case.settings.device):
            raise Absent(f"CTranslate2 does not compute in {wanted} on this device")
        with tempfile.TemporaryDirectory() as source, tempfile.TemporaryDirectory() as folder:
            for file in Path(case.folder).iterdir():
                (Path(source) / file.name).symlink_to(file)
            save_word_tokenizer(source)
            ctranslate2.converters.TransformersConverter(source).convert(folder, force=True)
            threads = {"intra_threads": case.settings.threads} if case.settings.threads else {}
            self.generator = ctranslate2.Generator(folder, device=case.settings.device, compute_type=wanted, **threads)
        self.prompt = [[f"t{token}" for token in case.prompt.tolist()]]
        logits = self.generator.forward_batch(self.prompt).to(ctranslate2.DataType.float32)
        logits = torch.as_tensor(numpy.array(logits.to_device(ctranslate2.Device.cpu)))
        self.off_by = distance(logits[0, -1], case.reference[-1])

    def seconds(self, tokens: int) -> float:
        options = {"max_length": tokens, "min_length": tokens, "include_prompt_in_result": False}
        return self.case.settings.seconds(lambda: self.generator.generate_batch(self.prompt, **options))

    def turn(self, repeats: int) -> Seconds:
        """It reads a prompt only to generate: the first token is its prefill, what more take longer its decode."""
        pairs = [(self.seconds(1), self.seconds(1 + self.case.settings.generate)) for _ in range(repeats + 1)][1:]
        firsts = [first for first, _ in pairs]
        return {self.case.prefill: firsts, self.case.decode: [both - first for first, both in pairs]}


def save_word_tokenizer(folder: str) -> None:
    """A tokenizer of as many words as the model has tokens, for a converter that asks for one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t3"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="t2", eos_token="t2", unk_token="t3", pad_token="t1"
    ).save_pretrained(folder)


def bitsandbytes(scheme: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if scheme == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    kind, _, nested = scheme.partition("-")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested == "dq",
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip


def peers(settings: Settings) -> Iterator[Peer]:
    dtype = settings.dtype
    for scheme in ("none", "int8", "nf4", "nf4-dq", "fp4", "fp4-dq"):
        yield Peer("nibble", scheme, dtype, lambda case, s=scheme: NibbleModel(case, s))
    yield Peer("transformers", "none", dtype, lambda case: Transformers(case, None))
    for scheme in ("int8", "nf4", "nf4-dq", "fp4", "fp4-dq"):
        yield Peer("transformers + bitsandbytes", scheme, dtype,
                   lambda case, s=scheme: Transformers(case, bitsandbytes(s, settings.torch_dtype)))  # fmt: skip
    if settings.device == "cuda":  # a CPU has no launches to save
        for scheme, linear in (("none", PlainLinear), ("int8", Int8Linear), ("int4", Int4Linear)):
            for how, compiled in (("one graph", False), ("one graph, compiled", True)):
                yield Peer(f"PyTorch, {how}", scheme, dtype, lambda case, l=linear, c=compiled: ByHand(case, l, c))
    for scheme in ("none", "int8"):
        yield Peer("CTranslate2", scheme, dtype, lambda case, s=scheme: CTranslate2(case, s))
