"""Writes an OPT checkpoint of any size with made-up weights, as transformers + bitsandbytes save it, so that loading can
be timed without a download.

    python scripts/make_checkpoint.py DIR --hidden 4096 --layers 32 --scheme nf4      6.7b; or none: fp16
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

VOCABULARY, CONTEXT, BLOCKSIZE = 50272, 2048, 64
NF4 = [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
       0.0795803, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0]  # fmt: skip


def config(hidden: int, layers: int, scheme: str) -> dict:
    settings = {
        "model_type": "opt", "activation_function": "relu", "do_layer_norm_before": True, "dtype": "float16",
        "hidden_size": hidden, "ffn_dim": 4 * hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // 128,
        "word_embed_proj_dim": hidden, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
    }  # fmt: skip
    if scheme == "nf4":
        settings["quantization_config"] = {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": False, "bnb_4bit_quant_storage": "uint8",
        }  # fmt: skip
    return settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--hidden", type=int, default=4096, help="hidden_size, a multiple of a head's 128")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--scheme", choices=["none", "nf4"], default="nf4")
    options = parser.parse_args()
    hidden, layers = options.hidden, options.layers
    random = np.random.default_rng(0)
    values = (0.02 * random.standard_normal(1 << 22)).astype(np.float16)  # repeated: only sizes matter
    codes = random.integers(0, 256, 1 << 22, dtype=np.uint8)
    tensors: dict[str, np.ndarray] = {}

    def dense(name: str, *shape: int) -> None:
        tensors[name] = np.resize(values, shape)

    def linear(name: str, n: int, k: int) -> None:
        tensors[f"{name}.bias"] = np.zeros(n, np.float16)
        if options.scheme == "none":
            return dense(f"{name}.weight", n, k)
        state = {"quant_type": "nf4", "blocksize": BLOCKSIZE, "dtype": "float16", "shape": [n, k]}
        tensors[f"{name}.weight"] = np.resize(codes, (n * k // 2, 1))
        tensors[f"{name}.weight.absmax"] = np.full(n * k // BLOCKSIZE, 0.048, np.float32)
        tensors[f"{name}.weight.quant_map"] = np.array(NF4, np.float32)
        tensors[f"{name}.weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = np.ones(hidden, np.float16)
        tensors[f"{name}.bias"] = np.zeros(hidden, np.float16)

    dense("model.decoder.embed_tokens.weight", VOCABULARY, hidden)
    dense("model.decoder.embed_positions.weight", CONTEXT + 2, hidden)
    for i in range(layers):
        layer = f"model.decoder.layers.{i}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.self_attn.{projection}", hidden, hidden)
        linear(f"{layer}.fc1", 4 * hidden, hidden)
        linear(f"{layer}.fc2", hidden, 4 * hidden)
        norm(f"{layer}.self_attn_layer_norm")
        norm(f"{layer}.final_layer_norm")
    norm("model.decoder.final_layer_norm")

    options.directory.mkdir(parents=True)
    (options.directory / "config.json").write_text(json.dumps(config(hidden, layers, options.scheme), indent=2))
    save_file(tensors, options.directory / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
