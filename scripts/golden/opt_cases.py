"""The tiny OPT variants of the model fixtures: their configurations, random weights and files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import OPTConfig, OPTForCausalLM

WEIGHT_STD = 0.2
BIAS_STD = 0.1
CONTEXT = 80
SHARD_SIZE = "32KB"

BASE: dict[str, Any] = dict(
    vocab_size=96,
    hidden_size=64,
    ffn_dim=80,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=CONTEXT,
)
SMALL = {"ffn_dim": 48}
ONE_LAYER = SMALL | {"num_hidden_layers": 1}
POST_NORM = {"do_layer_norm_before": False, "word_embed_proj_dim": 32}
GALACTICA = {"activation_function": "gelu", "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
NO_BIAS = {"enable_bias": False, "layer_norm_elementwise_affine": False}

State = dict[str, torch.Tensor]
Save = Callable[[OPTForCausalLM, Path], None]


def save_safetensors(model: OPTForCausalLM, folder: Path) -> None:
    model.save_pretrained(folder)


def save_safetensors_sharded(model: OPTForCausalLM, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)


def save_base_model(model: OPTForCausalLM, folder: Path) -> None:
    """Saves OPTModel alone: its keys begin with `decoder.` and there is no lm_head."""
    model.model.save_pretrained(folder)


def sort_metadata(path: Path) -> None:
    """Puts __metadata__ in a fixed order, which the writer leaves to a hash table; the header keeps its length."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(end - 8)
    path.write_bytes(content[:8] + text + content[end:])


def save_lm_head_only(model: OPTForCausalLM, folder: Path) -> None:
    """Keeps the tied matrix under the head's name and the removed name in the metadata, as the hub's converter did."""
    model.save_pretrained(folder)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    removed = "model.decoder.embed_tokens.weight"
    del state[removed]
    path = folder / "model.safetensors"
    save_file(state, path, metadata={"format": "pt", removed: "lm_head.weight"})
    sort_metadata(path)


def save_lying_config(model: OPTForCausalLM, folder: Path) -> None:
    """Writes the claims of published Galactica configs over a checkpoint without biases and LayerNorm weights."""
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"bias": False, "enable_bias": True, "layer_norm_elementwise_affine": True}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_configs(model: OPTForCausalLM, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = ["OPTForCausalLM"]
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def save_torch_bin(model: OPTForCausalLM, folder: Path) -> None:
    """One torch.save of the state dict; the tied head is a second key of the same storage."""
    save_configs(model, folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def save_torch_bin_sharded(model: OPTForCausalLM, folder: Path) -> None:
    save_configs(model, folder)
    state: State = model.state_dict()
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="pytorch_model{suffix}.bin", max_shard_size=SHARD_SIZE
    )
    for name, tensors in split.filename_to_tensors.items():
        torch.save({tensor: state[tensor] for tensor in tensors}, folder / name)
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class Case:
    """A checkpoint: what differs from BASE, the dtype its weights are stored in, and how it is written."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float16
    save: Save = save_safetensors

    def config(self) -> OPTConfig:
        return OPTConfig(**(BASE | self.changes))


CASES = (
    Case("pre_norm", SMALL, dtype=torch.float32),
    Case("pre_norm_fp16", {"ffn_dim": 260}),  # fc1 and fc2 have 260 blocks of 64: more than one nested block of 256
    Case("pre_norm_bf16", SMALL, dtype=torch.bfloat16),
    Case("post_norm_350m", POST_NORM),
    Case("odd_dims", {"hidden_size": 45, "ffn_dim": 61, "num_attention_heads": 3, "word_embed_proj_dim": 27}),
    Case("no_final_norm", ONE_LAYER | {"_remove_final_layer_norm": True}),
    Case("galactica_bias", ONE_LAYER | GALACTICA),
    Case("galactica_no_bias", ONE_LAYER | GALACTICA | NO_BIAS),
    Case("galactica_lying_config", ONE_LAYER | GALACTICA | NO_BIAS, save=save_lying_config),
    Case("untied_head", ONE_LAYER | {"tie_word_embeddings": False}),
    Case("decoder_prefix", ONE_LAYER, save=save_base_model),
    Case("lm_head_only", ONE_LAYER, save=save_lm_head_only),
    Case("head80", ONE_LAYER | {"hidden_size": 160}),
    Case("head96", ONE_LAYER | {"hidden_size": 96, "num_attention_heads": 1}),
    Case("head128", ONE_LAYER | {"hidden_size": 128, "num_attention_heads": 1}),
    Case("torch_bin", ONE_LAYER, save=save_torch_bin),
    Case("torch_bin_sharded", ONE_LAYER, save=save_torch_bin_sharded),
    Case("safetensors_sharded", ONE_LAYER, save=save_safetensors_sharded),
    Case("gelu_new", ONE_LAYER | {"activation_function": "gelu_new"}),
    Case("whole_32s", {"ffn_dim": 160, "num_hidden_layers": 1}),  # what GPTQ and AWQ can pack
)


def random_model(case: Case, seed: int) -> OPTForCausalLM:
    """The architecture of the case with every parameter drawn anew: no ones, no zeros, and large enough to matter."""
    model = OPTForCausalLM(case.config())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = BIAS_STD if name.endswith("bias") else WEIGHT_STD
            mean = 1.0 if name.endswith("layer_norm.weight") else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + mean)
    return model.to(case.dtype).eval()
