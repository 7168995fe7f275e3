"""Train the demonstration model, an OPT of 23 M parameters, and write it as a Hugging Face checkpoint.

    python train.py --train train.txt.xz --heldout heldout.txt.xz --tokenizer tokenizer.model \
        --out checkpoint --minutes 9

--minutes bounds the whole run, tokenizing and compiling included; the learning rate follows the
elapsed share of the training time, so every run anneals to the end. The weights of the lowest
held-out loss are kept in --out (fp16). --state names a file the run is saved to and, where it
exists, continued from.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from data import PREFIX_ID, Corpus

POSITION_OFFSET = 2  # OPT's: position p has row p + 2
PAD_ID = 1


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(hidden, hidden) for _ in range(3))
        self.out_proj = nn.Linear(hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        weight = torch.cat([p.weight for p in projections])
        bias = torch.cat([p.bias for p in projections])
        q, k, v = F.linear(x, weight, bias).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # scales by head_dim ** -0.5, as OPT does q
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(hidden, heads)
        self.self_attn_layer_norm = nn.LayerNorm(hidden)
        self.fc1 = nn.Linear(hidden, ffn)
        self.fc2 = nn.Linear(ffn, hidden)
        self.final_layer_norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x)))
        return x + self.dropout(self.fc2(F.relu(self.fc1(self.final_layer_norm(x)))))


class OPT(nn.Module):
    """OPT's network: pre-norm, learned positions, ReLU, biases, tied head."""

    def __init__(
        self, vocab: int, positions: int, hidden: int, layers: int, heads: int, ffn: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, hidden)
        self.embed_positions = nn.Embedding(positions + POSITION_OFFSET, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, ffn, dropout) for _ in range(layers))
        self.final_layer_norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out_proj.weight", "fc2.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * layers) if residual else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device) + POSITION_OFFSET
        x = self.dropout(self.embed_tokens(tokens) + self.embed_positions(positions))
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.final_layer_norm(x), self.embed_tokens.weight)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss in nats a token."""
        return F.cross_entropy(self.logits(tokens).flatten(0, 1).float(), targets.flatten())


def write_checkpoint(model: OPT, args: argparse.Namespace) -> None:
    """Write the model as fp16 shards with an index, config.json and generation_config.json."""
    tensors = {f"model.decoder.{k}": v.detach().half().cpu().contiguous() for k, v in model.state_dict().items()}
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > args.shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file(shard, args.out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    config = {
        "_remove_final_layer_norm": False,
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": PREFIX_ID,
        "do_layer_norm_before": True,
        "dropout": args.dropout,
        "enable_bias": True,
        "eos_token_id": PREFIX_ID,
        "ffn_dim": args.ffn,
        "hidden_size": args.hidden,
        "init_std": 0.02,
        "layer_norm_elementwise_affine": True,
        "layerdrop": 0.0,
        "max_position_embeddings": args.context,
        "model_type": "opt",
        "num_attention_heads": args.hidden // 64,
        "num_hidden_layers": args.layers,
        "pad_token_id": PAD_ID,
        "prefix": "</s>",
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": args.vocab,
        "word_embed_proj_dim": args.hidden,
    }
    generation = {
        "_from_model_config": True,
        "bos_token_id": PREFIX_ID,
        "eos_token_id": PREFIX_ID,
        "pad_token_id": PAD_ID,
    }
    for file, content in (
        ("model.safetensors.index.json", index),
        ("config.json", config),
        ("generation_config.json", generation),
    ):
        (args.out / file).write_text(json.dumps(content, indent=2) + "\n")


@torch.no_grad()
def heldout_loss(model: OPT, windows: torch.Tensor, autocast: bool) -> float:
    """Mean loss over the windows' predictions; the model is left in training mode."""
    model.eval()
    total = 0.0
    with torch.autocast(windows.device.type, torch.bfloat16, enabled=autocast):
        for batch in windows.split(32):
            total += model(batch[:, :-1], batch[:, 1:]).item() * len(batch)
    model.train()
    return total / len(windows)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="training text, plain or .xz")
    parser.add_argument("--heldout", type=Path, required=True, help="held-out text, plain or .xz")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and train_log.jsonl")
    parser.add_argument("--state", type=Path, help="file to save the run to and to continue it from")
    parser.add_argument("--minutes", type=float, default=9.0, help="wall-clock limit of the whole run")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=448, help="a multiple of 64; heads are 64 wide")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--ffn", type=int, default=1792)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64, help="windows a step")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--warmup", type=float, default=0.03, help="share of the training time")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--raw-share", type=float, default=0.125, help="share of windows that are plain cuts")
    parser.add_argument("--eval-seconds", type=float, default=30)
    parser.add_argument("--eval-windows", type=int, default=256)
    parser.add_argument("--finish-seconds", type=float, default=15, help="kept free for the last evaluation")
    parser.add_argument("--shard-bytes", type=int, default=14_000_000)
    parser.add_argument("--processes", type=int, default=16, help="tokenizing processes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def main() -> None:
    began = time.monotonic()
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")

    corpus = Corpus.load(args.train, args.tokenizer, args.processes)
    heldout = Corpus.load(args.heldout, args.tokenizer, args.processes).heldout_windows(args.context).to(device)
    probe = heldout[:: max(1, len(heldout) // args.eval_windows)]

    model = OPT(
        args.vocab, args.context, args.hidden, args.layers, args.hidden // 64, args.ffn, args.dropout
    ).to(device)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
        fused=True,
    )
    step, epoch, done, share_before, best = 0, 0, 0, 0.0, math.inf
    if args.state and args.state.exists():
        saved = torch.load(args.state, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, epoch, done, share_before, best = saved["progress"]
        torch.manual_seed(args.seed + step)
    compute_loss = torch.compile(model) if args.compile else model

    log_file = (args.out / "train_log.jsonl").open("a")

    def log(**values: object) -> None:
        line = json.dumps({"seconds": round(time.monotonic() - began, 1), **values})
        log_file.write(line + "\n")
        log_file.flush()
        print(line, flush=True)

    log(
        event="start",
        parameters=sum(p.numel() for p in model.parameters()),
        train_tokens=corpus.stream.numel(),
        heldout_windows=len(heldout),
        step=step,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    )
    on_device = corpus.to(device)
    deadline = began + args.minutes * 60 - args.finish_seconds
    timed_from = evaluated = 0.0
    share = share_before
    while share < 1:
        paragraphs, starts = corpus.epoch(args.seed + epoch, args.context, args.raw_share)
        paragraphs, starts = paragraphs.to(device), starts.to(device)
        while share < 1 and done + args.batch <= len(starts):
            windows = on_device.windows(
                paragraphs[done : done + args.batch], starts[done : done + args.batch], args.context
            )
            lr = args.lr * min(1, (share + 1e-3) / args.warmup) * 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = lr
            with torch.autocast(device.type, torch.bfloat16):
                loss = compute_loss(windows[:, :-1], windows[:, 1:])
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step, done = step + 1, done + args.batch

            if not timed_from:  # the first step compiles; the schedule starts after it
                loss.item()
                timed_from = evaluated = time.monotonic()
            now = time.monotonic()
            share = min(1.0, share_before + (1 - share_before) * (now - timed_from) / max(1e-9, deadline - timed_from))
            if step % 50 == 0:
                log(step=step, epoch=epoch, share=round(share, 4), lr=lr, loss=loss.item(), norm=norm.item())
            if now - evaluated > args.eval_seconds or share >= 1:
                evaluated = now
                current = heldout_loss(model, probe, autocast=True)
                log(step=step, tokens=step * args.batch * args.context, share=round(share, 4), heldout=current)
                if current < best:
                    best = current
                    write_checkpoint(model, args)
                if args.state:
                    progress = (step, epoch, done, share, best)
                    torch.save(
                        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress},
                        args.state,
                    )
        epoch, done = epoch + 1, 0
    log(
        event="end",
        step=step,
        tokens=step * args.batch * args.context,
        best_probe=best,
        last_heldout=heldout_loss(model, heldout, autocast=False),
    )


if __name__ == "__main__":
    main()
