"""Writes the tables of measurements: what stands in a file between <!-- table: NAME --> and <!-- /table -->.

    python3 scripts/tables.py README.md            makes them anew from the JSON in scripts/figures
    python3 scripts/tables.py --check README.md    exits 1 when one is not what the JSON says
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Callable, Iterable

FIGURES = Path(__file__).resolve().parent / "figures"
SCHEMES = ["none", "int8", "nf4", "nf4-dq", "fp4", "fp4-dq", "int4"]
DTYPES = ["fp32", "bf16", "fp16"]
Cells = list[str]


class Missing(Exception):
    """A sentence: which measurements a table lacks."""


def read(place: str) -> list[dict]:
    try:
        return json.loads((FIGURES / place).read_text())
    except (OSError, ValueError) as error:
        raise Missing(f"scripts/figures/{place}: expected measurements, found {error}") from None


def markdown(header: Cells, rows: Iterable[Cells], texts: int) -> str:
    """`texts`: how many columns at the left are words."""
    rule = "|" + "---|" * texts + "---:|" * (len(header) - texts)
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


def present(values: Iterable, order: list | None = None) -> list:
    """Each once: in the order they come, or in `order`."""
    found = dict.fromkeys(values)
    return sorted(found, key=order.index) if order else list(found)


def model_name(row: dict) -> str:
    return row["model_filename"].removeprefix("synthetic:")


def step_ms(row: dict) -> float:
    """Milliseconds that a step of one token a sequence takes."""
    return 1e3 * row["n_sequences"] / row["median_ts"]


def prompt_ms(row: dict) -> float:
    return 1e3 * row["n_prompt"] * row["n_sequences"] / row["median_ts"]


def by_scheme(rows: list[dict], columns: list[tuple[str, Callable[[dict], bool]]], cell: Callable[[dict], str]) -> str:
    """A row for each model; of each column's measurements a cell for each scheme."""
    header, picks = ["ms"], []
    for name, wanted in columns:
        schemes = present((row["scheme"] for row in rows if wanted(row)), SCHEMES)
        header += [f"{name}: {scheme}" if i == 0 else scheme for i, scheme in enumerate(schemes)]
        picks += [(wanted, scheme) for scheme in schemes]
    lines = []
    for model in present(map(model_name, rows)):
        own = [row for row in rows if model_name(row) == model]
        cells = [next((cell(row) for row in own if wanted(row) and row["scheme"] == scheme), "")
                 for wanted, scheme in picks]  # fmt: skip
        lines.append([model, *cells])
    return markdown(header, lines, 1)


def cuda_decode() -> str:
    rows = read("cuda/decode.json")
    places = present((row["n_sequences"], row["n_depth"]) for row in rows)
    columns = [
        (f"{sequences} sequence{'s' * (sequences > 1)}, {depth} tokens held",
         lambda row, s=sequences, d=depth: (row["n_sequences"], row["n_depth"]) == (s, d))
        for sequences, depth in sorted(places)
    ]  # fmt: skip
    return by_scheme(rows, columns, lambda row: f"{step_ms(row):.3f}")


def cuda_prefill() -> str:
    rows = read("cuda/prefill.json")
    columns = [(f"{prompt} tokens", lambda row, p=prompt: row["n_prompt"] == p)
               for prompt in sorted(present(row["n_prompt"] for row in rows))]  # fmt: skip
    return by_scheme(rows, columns, lambda row: f"{prompt_ms(row):.1f}")


def rate_and_share(row: dict) -> str:
    share = row["roofline_share"]
    return f"{row['median_ts']:.1f}" + (f" ({100 * share:.0f} %)" if share else "")


def speed(place: str, counted: str = "n_gen") -> str:
    """Tokens a second, generated or read (counted: "n_prompt"), by scheme; for each model and dtype a column, and its
    share of the roofline where tokens are generated."""
    rows = [row for row in read(place) if row[counted] and not row["n_depth"] and row["n_sequences"] == 1]
    columns = [(model, dtype) for model in present(map(model_name, rows))
               for dtype in present((row["dtype"] for row in rows if model_name(row) == model), DTYPES)]  # fmt: skip
    found = {(model_name(row), row["dtype"], row["scheme"]): row for row in rows}
    lines = []
    for scheme in present((row["scheme"] for row in rows), SCHEMES):
        own = [found.get((*column, scheme)) for column in columns]
        lines.append([scheme, *(rate_and_share(row) if row else "" for row in own)])
    names = [f"{model.removeprefix('opt-')} {dtype}" for model, dtype in columns]
    return markdown(["tokens a second", *names], lines, 1)


def test_name(row: dict) -> str:
    return f"tg{row['n_gen']}" if row["n_gen"] else f"pp{row['n_prompt']}"


def threads(*places: str) -> str:
    """Tokens a second by scheme, for each model, test and number of threads; of tests that generate the share of
    the roofline too."""
    rows = [row for place in places for row in read(place)]
    found = {(model_name(row), test_name(row), row["n_threads"], row["scheme"]): row for row in rows}
    columns = sorted(present(key[:3] for key in found), key=lambda column: (parameters(column[0]), column[2]))
    lines = []
    for scheme in present((row["scheme"] for row in rows), SCHEMES):
        own = [found.get((*column, scheme)) for column in columns]
        lines.append([scheme, *(rate_and_share(row) if row else "" for row in own)])
    names = [f"{model[4:]} {test}, {count} thread{'s' * (count > 1)}" for model, test, count in columns]
    return markdown(["tokens a second", *names], lines, 1)


def quality() -> str:
    """Perplexity in every dtype; what a scheme alone changes, in fp32 beside plain weights."""
    rows = read("cpu/quality.json")
    dtypes = present((row["dtype"] for row in rows), DTYPES)
    found = {(row["scheme"], row["dtype"]): row for row in rows}
    lines = []
    for scheme in present((row["scheme"] for row in rows), SCHEMES):
        cells = [f"{found[scheme, 'bf16']['model_size'] / 1e6:.1f}"]
        cells += [f"{found[scheme, dtype]['perplexity']:.3f}" for dtype in dtypes]
        if scheme == "none":
            other = {dtype: read(f"cpu/divergence-{dtype}.json")["base"] for dtype in dtypes if dtype != "fp32"}
            cells.append(", ".join(f"{dtype} {base['kl_divergence']['mean']:.5f}" for dtype, base in other.items()))
            cells.append(", ".join(f"{dtype} {percent(base)}" for dtype, base in other.items()))
        else:
            base = read(f"cpu/divergence-{scheme}.json")["base"]
            cells += [f"{base['kl_divergence']['mean']:.5f}", percent(base)]
        lines.append([scheme, *cells])
    return markdown(["", "size, MB", *dtypes, "KL divergence, nats", "same likeliest token"], lines, 1)


def perplexities(place: str) -> str:
    rows = read(place)
    dtypes = present((row["dtype"] for row in rows), DTYPES)
    found = {(row["scheme"], row["dtype"]): row["perplexity"] for row in rows}
    lines = [[scheme, *(f"{found[scheme, dtype]:.3f}" for dtype in dtypes)]
             for scheme in present((row["scheme"] for row in rows), SCHEMES)]  # fmt: skip
    return markdown(["perplexity", *dtypes], lines, 1)


def percent(base: dict) -> str:
    return f"{100 * base['same_likeliest']['mean']:.1f} %"


def peer_rows(machine: str, what: str, threads: int | None = None) -> list[dict]:
    """Of all runs in the file; what was measured again stands as measured last."""
    found: dict[tuple, dict] = {}
    for run in read(f"{machine}/peers.json"):
        if run["what"] == what and threads in (None, run["threads"]):
            for row in run["rows"]:
                for key in [key for key in found if key[:4] == identity(row)[:4] and "" in (key[4], row["test"])]:
                    del found[key]  # it has run now, or no longer does
                found[identity(row)] = row
    if not found:
        raise Missing(f"scripts/figures/{machine}/peers.json: expected a run of {what}, found none")
    return list(found.values())


def identity(row: dict) -> tuple:
    return (row["case"], row["peer"], row["scheme"], row["dtype"], row["test"])


def bits(row: dict) -> int:
    return {"none": 16, "int8": 8, "q8_0": 8}.get(row["scheme"], 4)


def peers(machine: str, what: str, threads: int | None, own: Callable[[dict], str], other: Callable[[dict], str]) -> str:
    """A row for each peer, nibble's before those it is compared with, and a column for each test of each case."""
    rows = peer_rows(machine, what, threads)
    columns = sorted({(row["case"], row["test"]) for row in rows if not row["skipped"]}, key=column_order)
    names = sorted({identity(row)[1:4] for row in rows}, key=lambda name: peer_order(name, rows))
    found = {identity(row): row for row in rows}
    lines = []
    for peer, scheme, dtype in names:
        cells = [found.get((case, peer, scheme, dtype, test)) for case, test in columns]
        if any(cells):
            show = own if peer == "nibble" else other
            lines.append([peer, f"{scheme} {dtype}", *(show(row) if row else "" for row in cells)])
    table = markdown(["", "weights, compute", *(f"{case[4:]} {test}" for case, test in columns)], lines, 2)
    skipped = present(f"{row['peer']}, {row['scheme']} {row['dtype']} ({row['skipped']})" for row in rows
                      if row["skipped"])  # fmt: skip
    return table + (f"\n\nNot run: {'; '.join(skipped)}." if skipped else "")


def parameters(case: str) -> float:
    number, unit = re.fullmatch(r"opt-([\d.]+)([mb])", case).groups()
    return float(number) * {"m": 1e6, "b": 1e9}[unit]


def column_order(column: tuple[str, str]) -> tuple:
    """Smaller models first; fewer rows first; reading before generating, products as a layer has them."""
    case, test = column
    kernel, _, count = test.partition(" x")
    known = ["qkv", "out", "fc1", "fc2"]
    place = known.index(kernel) if kernel in known else 0
    return parameters(case), int(count or 0), place, test


def peer_order(name: tuple, rows: list[dict]) -> tuple:
    peer, scheme, dtype = name
    came = [identity(row)[1:4] for row in rows].index(name)
    return -bits({"scheme": scheme}), DTYPES.index(dtype), peer != "nibble", came


def times(row: dict) -> str:
    return f"{row['ratio']:.2f}" if row["ratio"] else ""


def rate(row: dict) -> str:
    return f"**{row['work'] / row['median']:.0f} t/s**"


def digits(value: float) -> str:
    """Three, or all that stand before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ms_each(row: dict) -> str:
    """Of a token generated, of a whole prompt read."""
    return digits(1e3 * row["median"] / (row["work"] if row["test"].startswith("tg") else 1))


def us(row: dict) -> str:
    return digits(1e6 * row["median"])


def with_times(show: Callable[[dict], str]) -> Callable[[dict], str]:
    return lambda row: f"{show(row)} ({times(row)})" if row["ratio"] else show(row)


def bold(show: Callable[[dict], str]) -> Callable[[dict], str]:
    return lambda row: f"**{show(row)}**"


TABLES: dict[str, Callable[[], str]] = {
    "cpu quality": quality,
    "cpu speed": lambda: speed("cpu/speed.json"),
    "cpu threads": lambda: threads("cpu/threads-1.3b.json", "cpu/threads-6.7b.json"),
    "cuda speed": lambda: speed("cuda/speed.json"),
    "cuda quality": lambda: perplexities("cuda/quality.json"),
    "cuda decode": cuda_decode,
    "cuda prefill": cuda_prefill,
    "amx prompts": lambda: speed("amx/speed.json", "n_prompt"),
    "amx threads": lambda: threads("amx/threads-1.3b.json", "amx/threads-6.7b.json"),
    "vnni threads": lambda: threads("vnni/threads-1.3b.json", "vnni/threads-6.7b.json"),
    "cpu peers": lambda: peers("cpu", "models", 2, rate, times),
    "vnni peers": lambda: peers("vnni", "models", 2, rate, times),
    "vnni products": lambda: peers("vnni", "products", 2, bold(us), times),
    "amx peers": lambda: peers("amx", "models", 2, rate, times),
    "amx products": lambda: peers("amx", "products", 2, bold(us), times),
    "cpu products, 1 thread": lambda: peers("cpu", "products", 1, bold(us), times),
    "cpu products, 2 threads": lambda: peers("cpu", "products", 2, bold(us), times),
    "cuda peers": lambda: peers("cuda", "models", None, bold(ms_each), with_times(ms_each)),
    "cuda products": lambda: peers("cuda", "products", None, bold(us), with_times(us)),
}
MARKED = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)


def renewed(text: str) -> str:
    def table(match: re.Match) -> str:
        begin, name, _, end = match.groups()
        if name not in TABLES:
            raise Missing(f"expected a table among {', '.join(TABLES)}, found {name}")
        return f"{begin}{TABLES[name]()}\n{end}"

    return MARKED.sub(table, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    for file in arguments.files:
        try:
            before = file.read_text()
            after = renewed(before)
        except (Missing, OSError) as problem:
            print(f"tables: {file}: {problem}", file=sys.stderr)
            return 2
        if before == after:
            continue
        if arguments.check:
            print(f"tables: {file}: expected the tables of scripts/figures, found others", file=sys.stderr)
            return 1
        file.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
