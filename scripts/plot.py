"""Draws what `nibble bench -o json` measured, as PNG and SVG.

    python scripts/plot.py FILE.json [FILE.json ...] --out FOLDER [--names speed memory quality scaling roofline]

speed: tokens a second by scheme and dtype; memory: by scheme, stacked by class; quality: perplexity against size;
scaling: with depth and with batch; roofline: share of what memory gives, by model size. A picture whose measurements
are not in the files is left out, and that is said. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Callable, Iterable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

Row = dict
SCHEMES = ["none", "int8", "fp4", "nf4", "fp4-dq", "nf4-dq", "int4", "int4-asym", "int8-decomp"]
DTYPES = ["fp32", "bf16", "fp16"]
# Okabe and Ito's colours, which the colour-blind tell apart, and grey.
COLORS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#999999"]
CLASSES = ["linear_weights", "quantization_state", "embeddings", "output_head", "biases_and_norms", "KV_cache",
           "workspace", "tokenizer"]  # fmt: skip


class Missing(Exception):
    """The files do not hold what a picture shows."""


def short(model: str) -> str:
    return model.rstrip("/").split("/")[-1].removeprefix("synthetic:")


def color(scheme: str) -> str:
    return COLORS[SCHEMES.index(scheme)]


def ordered(values: Iterable[str], order: list[str]) -> list[str]:
    return sorted(set(values), key=order.index)


def by_model(rows: list[Row]) -> dict[str, list[Row]]:
    """Smallest first."""
    groups = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["model_n_params"]):
        groups[short(row["model_filename"])].append(row)
    return groups


def plain_decoding(rows: list[Row]) -> list[Row]:
    """One sequence that generates behind as few tokens as were measured."""
    alone = [row for row in rows if row["n_gen"] and row["n_sequences"] == 1]
    least = min((row["n_depth"] for row in alone), default=0)
    return [row for row in alone if row["n_depth"] == least]


def one_dtype(rows: list[Row]) -> list[Row]:
    """For pictures by scheme: the rows of bf16 where they are, else of the first dtype."""
    if not rows:
        raise Missing("no measurement of the kind it shows")
    dtypes = {row["dtype"] for row in rows}
    chosen = "bf16" if "bf16" in dtypes else ordered(dtypes, DTYPES)[0]
    return [row for row in rows if row["dtype"] == chosen]


def panels(count: int, width: float = 4.2, rotation: float = 0) -> tuple[Figure, list[plt.Axes]]:
    figure, axes = plt.subplots(1, count, figsize=(width * count, 3.6), squeeze=False, layout="constrained")
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params("x", labelrotation=rotation)
    return figure, list(axes[0])


def speed(rows: list[Row]) -> Figure:
    models = by_model(plain_decoding(rows))
    if not models:
        raise Missing("no test that generates in one sequence")
    figure, axes = panels(len(models), rotation=45)
    for ax, (model, measured) in zip(axes, models.items()):
        schemes = ordered((row["scheme"] for row in measured), SCHEMES)
        dtypes = ordered((row["dtype"] for row in measured), DTYPES)
        for i, dtype in enumerate(dtypes):
            chosen = [row for row in measured if row["dtype"] == dtype]
            places = [schemes.index(row["scheme"]) + (i - (len(dtypes) - 1) / 2) * 0.8 / len(dtypes) for row in chosen]
            ax.bar(places, [row["median_ts"] for row in chosen], 0.8 / len(dtypes), label=dtype, color=COLORS[DTYPES.index(dtype)],
                   yerr=[row["spread_ts"] for row in chosen], error_kw={"elinewidth": 0.8})  # fmt: skip
        ax.set_xticks(range(len(schemes)), schemes)
        ax.set_title(model)
    axes[0].set_ylabel("tokens a second, generating")
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    names = ordered(handles, DTYPES)
    figure.legend([handles[name] for name in names], names, title="compute dtype", frameon=False, fontsize=8,
                  loc="outside right center")  # fmt: skip
    return figure


def memory(rows: list[Row]) -> Figure:
    models = by_model(one_dtype(rows))
    figure, axes = panels(len(models), rotation=45)
    for ax, (model, measured) in zip(axes, models.items()):
        first = {row["scheme"]: row for row in reversed(measured)}
        schemes = ordered(first, SCHEMES)
        below = [0.0] * len(schemes)
        for i, memory_class in enumerate(CLASSES):
            sizes = [first[scheme]["memory"][memory_class] / 1e6 for scheme in schemes]
            ax.bar(schemes, sizes, 0.7, below, label=memory_class.replace("_", " "), color=COLORS[i])
            below = [low + size for low, size in zip(below, sizes)]
        says = [first[scheme]["huggingface_size"] / 1e6 for scheme in schemes]
        ax.plot(schemes, says, "k_", markersize=26, label="Hugging Face's figure")
        ax.set_title(f"{model}, {measured[0]['dtype']}")
    axes[0].set_ylabel("MB")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    return figure


def quality(rows: list[Row]) -> Figure:
    known = [row for row in rows if row["perplexity"] is not None]
    if not known:
        raise Missing("no perplexity (nibble bench --perplexity FILE)")
    models = by_model(one_dtype(known))
    figure, axes = panels(len(models), 5)
    for ax, (model, measured) in zip(axes, models.items()):
        for scheme, row in {row["scheme"]: row for row in measured}.items():
            ax.plot(row["model_size"] / 1e6, row["perplexity"], "o", color=color(scheme), label=scheme)
        ax.set_title(f"{model}, {measured[0]['dtype']}")
        ax.set_xlabel("weights with their state, MB")
        ax.set_xlim(left=0)
        ax.legend(frameon=False)
    axes[0].set_ylabel("perplexity")
    return figure


def scaling(rows: list[Row]) -> Figure:
    generating = one_dtype([row for row in rows if row["n_gen"]])
    axes_of = {"n_depth": "tokens held before", "n_sequences": "sequences at once"}
    if not any(len({row[key] for row in generating}) > 1 for key in axes_of):
        raise Missing("one depth and one batch only (nibble bench -d 0,512 -b 1-8*2)")
    figure, axes = panels(2, 5)
    for ax, (key, label) in zip(axes, axes_of.items()):
        (other,) = axes_of.keys() - {key}
        least = min(row[other] for row in generating)
        lines = defaultdict(dict)
        for row in generating:
            if row[other] == least:
                lines[short(row["model_filename"]), row["scheme"]][row[key]] = row["median_ts"]
        for (model, scheme), points in lines.items():
            if len(points) == 1:
                continue
            ax.plot(*zip(*sorted(points.items())), "o-", color=color(scheme), label=f"{model} {scheme}")
        ax.set_xlabel(label)
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel(f"tokens a second, {generating[0]['dtype']}")
    figure.legend(*axes[1].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    return figure


def roofline(rows: list[Row]) -> Figure:
    generating = one_dtype(plain_decoding(rows))
    if not generating:
        raise Missing("no test that generates in one sequence")
    figure, (ax,) = panels(1, 6)
    lines = defaultdict(dict)
    for row in generating:
        lines[row["scheme"]][row["model_n_params"] / 1e6] = 100 * row["roofline_share"]
    for scheme in ordered(lines, SCHEMES):
        ax.plot(*zip(*sorted(lines[scheme].items())), "o-", color=color(scheme), label=scheme)
    ax.axhline(100, color="grey", linewidth=0.8, linestyle="--")
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("parameters, millions")
    ax.set_ylabel(f"% of what memory gives, generating, {generating[0]['dtype']}")
    ax.legend(frameon=False)
    return figure


PICTURES: dict[str, Callable[[list[Row]], Figure]] = {
    "speed": speed, "memory": memory, "quality": quality, "scaling": scaling, "roofline": roofline,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", nargs="+", choices=PICTURES, default=list(PICTURES))
    arguments = parser.parse_args()
    rows = [row for file in arguments.files for row in json.loads(file.read_text())]
    if not rows:
        print("plot: the files hold no measurements", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        try:
            figure = PICTURES[name](rows)
        except Missing as missing:
            print(f"plot: {name} is left out: {missing}", file=sys.stderr)
            continue
        for ending in ("png", "svg"):
            metadata = {"Date": None} if ending == "svg" else None
            figure.savefig(arguments.out / f"{name}.{ending}", dpi=110, metadata=metadata)
        plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
