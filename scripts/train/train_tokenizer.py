"""Train the SentencePiece BPE tokenizer of the demonstration model.

    python train_tokenizer.py --text train.txt.xz --out tokenizer.model

The text is one paragraph a line, plain or .xz; every --every-th paragraph is used, so the result
depends on the file and the arguments alone. No piece crosses a line, so a newline is always the
byte-fallback piece <0x0A>.
"""

import argparse
import io
import lzma
from collections.abc import Iterator
from pathlib import Path

import sentencepiece as spm

SEPARATOR = "<|endoftext|>"


def paragraphs(path: Path, every: int) -> Iterator[str]:
    """Yield every `every`-th non-empty paragraph of a plain or .xz text."""
    opened = lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8")
    with opened as lines:
        kept = (line.rstrip("\n") for line in lines if line.strip() and line.rstrip("\n") != SEPARATOR)
        yield from (line for i, line in enumerate(kept) if i % every == 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="training text, plain or .xz")
    parser.add_argument("--out", type=Path, required=True, help="the tokenizer.model to write")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--every", type=int, default=5, help="use every N-th paragraph")
    args = parser.parse_args()

    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=paragraphs(args.text, args.every),
        model_writer=model,
        model_type="bpe",
        vocab_size=args.vocab_size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        character_coverage=0.99998,
        required_chars="0123456789",
        max_sentence_length=65536,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
    )
    args.out.write_bytes(model.getvalue())


if __name__ == "__main__":
    main()
