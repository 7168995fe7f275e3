"""Corpus text to token windows.

A corpus is plain or .xz text: paragraphs separated by an empty line, books by a line holding only
<|endoftext|>. Its stream is every book as token 2 (`</s>`, OPT's text prefix and separator) and
the book's tokens. Inference sees `</s>` and then text whose first word has SentencePiece's dummy
prefix, so most training windows are built that way too: each starts at a paragraph, with a head of
`</s>` and the first word encoded as the start of a text, and goes on in the stream.
"""

import lzma
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import sentencepiece as spm
import torch

SEPARATOR = "<|endoftext|>\n"
PREFIX_ID = 2
HEAD = 9  # longest window head: the prefix and a first word of at most 8 tokens

_tokenizer: spm.SentencePieceProcessor


def _load_tokenizer(path: str) -> None:
    global _tokenizer
    _tokenizer = spm.SentencePieceProcessor(model_file=path)


@lru_cache(maxsize=1 << 16)
def _first_word(word: str) -> tuple[tuple[int, ...], int]:
    """The word's tokens at the start of a text, and how many it has after a newline."""
    return tuple(_tokenizer.encode(word)), len(_tokenizer.encode("\n" + word)) - 2


def _encode_book(book: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The book's stream; and of each paragraph its head, the head's length and where the stream goes on."""
    stream, heads, lengths, tails = [PREFIX_ID], [[0] * HEAD], [0], [0]
    for i, paragraph in enumerate(book.strip("\n").split("\n\n")):
        if i == 0:
            stream += _tokenizer.encode(paragraph)
            continue
        start = len(stream) + 2
        stream += _tokenizer.encode("\n\n" + paragraph)[1:]  # without the dummy prefix
        word, skipped = _first_word(paragraph.split(" ", 1)[0])
        if paragraph and paragraph[0] != "\n" and len(word) < HEAD:
            heads.append([PREFIX_ID, *word] + [0] * (HEAD - 1 - len(word)))
            lengths.append(1 + len(word))
            tails.append(start + skipped)
    return (
        np.array(stream, dtype=np.int32),
        np.array(heads, dtype=np.int32),
        np.array(lengths, dtype=np.int64),
        np.array(tails, dtype=np.int64),
    )


@dataclass
class Corpus:
    stream: torch.Tensor  # every token, int32
    heads: torch.Tensor  # [paragraphs, HEAD]
    lengths: torch.Tensor  # [paragraphs], tokens of the head
    tails: torch.Tensor  # [paragraphs], where in the stream the window goes on, ascending

    @classmethod
    def load(cls, path: Path, tokenizer: Path, processes: int) -> "Corpus":
        raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        books = [book for book in raw.decode("utf-8").split(SEPARATOR) if book.strip()]
        with ProcessPoolExecutor(processes, initializer=_load_tokenizer, initargs=(str(tokenizer),)) as pool:
            parts = list(pool.map(_encode_book, books))
        offsets = np.cumsum([0] + [len(part[0]) for part in parts[:-1]])
        return cls(
            torch.from_numpy(np.concatenate([part[0] for part in parts])),
            torch.from_numpy(np.concatenate([part[1] for part in parts])),
            torch.from_numpy(np.concatenate([part[2] for part in parts])),
            torch.from_numpy(np.concatenate([part[3] + at for part, at in zip(parts, offsets)])),
        )

    def to(self, device: torch.device) -> "Corpus":
        return Corpus(*(t.to(device) for t in (self.stream, self.heads, self.lengths, self.tails)))

    def epoch(self, seed: int, context: int, raw_share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass of windows, shuffled: each one's paragraph (-1: a plain cut, no head) and start in the stream."""
        rng = torch.Generator().manual_seed(seed)
        last = self.stream.numel() - context - 1
        cuts = torch.arange(int(torch.randint(context, (1,), generator=rng)), last, context)
        cuts = cuts[torch.randperm(len(cuts), generator=rng)]
        usable = int(torch.searchsorted(self.tails, last))
        paragraph = torch.searchsorted(self.tails, cuts).clamp(max=usable - 1)
        plain = torch.rand(len(cuts), generator=rng) < raw_share
        return torch.where(plain, -1, paragraph), torch.where(plain, cuts, self.tails[paragraph])

    def windows(self, paragraph: torch.Tensor, start: torch.Tensor, context: int) -> torch.Tensor:
        """The windows' tokens, [n, context + 1]."""
        at = torch.arange(context + 1, device=self.stream.device)
        length = torch.where(paragraph < 0, 0, self.lengths[paragraph])[:, None]
        head = self.heads[paragraph][:, at.clamp(max=HEAD - 1)]
        tail = self.stream[(start[:, None] + at - length).clamp(min=0)]
        return torch.where(at < length, head, tail).long()

    def heldout_windows(self, context: int) -> torch.Tensor:
        """The stream cut into consecutive pieces of context - 1 tokens, each behind token 2: [n, context]."""
        pieces = self.stream[: self.stream.numel() // (context - 1) * (context - 1)].view(-1, context - 1)
        return torch.cat([torch.full_like(pieces[:, :1], PREFIX_ID), pieces], dim=1).long()
