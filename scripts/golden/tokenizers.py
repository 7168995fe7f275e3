"""Make the tokenizer fixtures of tests/golden/tokenizer from the Hugging Face and SentencePiece libraries.

    python tokenizers.py --corpus heldout.txt.xz --opt-vocabulary DIR --out tests/golden/tokenizer

Small tokenizers are trained on the beginning of the corpus, one directory each. texts.jsonl has the texts all of them are
asked for, one base64 string of bytes a line, invalid UTF-8 included. Beside each tokenizer lies vectors.jsonl, for each text
a line with "ids", "ids_as_text" (special tokens not parsed, where asked for and different) and "decoded" (where that is not the text,
U+FFFD for what is invalid); opt/random_ids.jsonl has ids out of any order with what they decode to. heldout.json has the number and the hash of the ids of the whole corpus, batch by batch, for OPT's own vocabulary (DIR
holds its vocab.json and merges.txt) and for the SentencePiece BPE model.

Needs transformers, tokenizers and sentencepiece.
"""

import argparse
import base64
import importlib
import io
import json
import lzma
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

# This file has the name of a library it uses; its own directory must not come first.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
hf = importlib.import_module("tokenizers")
spm = importlib.import_module("sentencepiece")
AutoTokenizer = importlib.import_module("transformers").AutoTokenizer
decoders, models, normalizers = hf.decoders, hf.models, hf.normalizers
pre_tokenizers, processors, trainers = hf.pre_tokenizers, hf.processors, hf.trainers

TRAINING_BYTES = 200_000
BATCH_LINES = 1000

# Symbol runs and newlines apart, as in Galactica's own file.
GALACTICA_SYMBOLS = r"""[\(\)\[\]\{\}]|([!"\#\$%\&'\*\+,\-\./:;<=>\?\\\^_`\|\~])\1*"""

TEXTS = [
    "", " ", "  ", "a", " a", "Hello world", " Hello  world ", "A photo of a cat", "\n", "\n\n\n", "\t", "\r\n",
    "line one\r\nline two\r\n", "tabs\tand\nnewlines\n\n\nend\n", "   \n  indented\n    more", "trailing spaces   ",
    " " * 300, "a" + " " * 257 + "b", "\t" * 90 + "x", "\n" * 99 + " x", " \n \n \n", "x \u00a0 y", "\u3000\u3000ab",
    "".join(map(chr, [0x9, 0xA, 0xB, 0xC, 0xD, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)])) + "end",
    "a\u2028b\u2029c\u202fd\u205fe\u3000f", "a\u0085b \u0085 c", "x\u001c\u001d\u001e\u001fy", " \u001c \u001f ",
    "\u180ea \u180e b\u180e\u180e", "\u200bzero\u200dwidth\u2060joiner\ufeff", "".join(map(chr, range(0x20))), "\x7f\x80\x9f",
    "I'm don't they've we'll he'd it's you're", "I'M DON'T THEY'VE WE'LL HE'D IT'S YOU'RE", "'s's'S 't 're''ll '", "l'été d'or",
    "0 1 12 123 1234 12345 1,234.56 (50%) 3.14e-10", "\u0661\u0662\u0663 \u0967\u0968\u0969 \u0be7 \uff11\uff12 \u00bd \u2167 \u00b2x \u2460 \U0001d7d8",
    "x1y22z333", "\U00010d40\U00010d41 \U00011f50 \U0001ccf3 \U0001e5f1", "\U00011de0\U00011de1 \U00016ff4 7",
    "caf\u00e9 cafe\u0301 n\u0303 \u1e9b\u0323 a\u0300\u0301\u0302 \u0915\u094d\u0937", "Z\u0351\u036b\u0343a\u035b\u033cl\u0323g\u0327o\u0309",
    "\ufb01 \u212b \u2126 \uff21\uff42\uff43 \u3392 \u32ff \u00bc \u2460 \u1d2c \U0001d400 \uac00 \u1100\u1161 \u0958",
    "\U0001f600 \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1eb\U0001f1f7 \u2764\ufe0f 1\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f flag", "\U0001fae8\U0001fadf\U0001f6d8 new emoji",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8\u3067\u3059\u3002 \ud55c\uad6d\uc5b4 \u6587\u5b57",
    "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645 \u0661\u0662 \u05e9\u05dc\u05d5\u05dd \u200f\u202bx\u202c",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u0393\u03b5\u03b9\u03b1 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947 \u10d2\u10d0",
    "\u1c89\u1c8a \ua7cb\ua7da \U000105c0\U000105f3 \U00010d4a \U00016d40 \U0001e5d0 \U00031350\U000323af \U0002ebf0 \U000323b0 \U0001e030",
    "\ufffd\ufffe\uffff \U0010ffff \ue000 \U000f0000", "foo_bar.baz(qux)==42; // ok?", "http://example.com/?q=1&b=2#x", "!!!???...---___***",
    "((([[[{{{}}}]]])))", "x" * 700, "supercalifragilisticexpialidocious" * 9, "ab" * 150, "\u00e9" * 80, "\U0001f600" * 40,
    "a</s>b", " <pad> ", "</s></s>x<pad><pad>", "<s> and <unk> and <mask>", "</s", "</s>", " </s> x", "a<pad>\n</s>\tb", "<<pad>>",
    "</s>\u00e9<pad>'s", "<pad >", "the </s>the", "[START_REF] Attention [END_REF] x[START_REF]y", "[START_SMILES]SPL1T-TH1S-Pl3A5ECSPL1T-TH1S-Pl3A5E=O[END_SMILES]",
    "SPL1T-TH1S-Pl3A5E", "aSPL1T-TH1S-Pl3A5Eb cSPL1T-TH1S-Pl3A5E SPL1T-TH1S-Pl3A5E3", "spl1t-th1s-pl3a5e", "y = \\frac{1}{2} + 10^{-3}", "a\nb \n c",
    "foo bar", "foobar", "a foo.", "xfoo foox foo", "(foo)", "\u00e9foo foo\u00e9 foo_ foo\u0301 foo\u200d", "left  <L>  right", "x  <R>  y <R>", " <L><R> <L> ",
    "norm\u00ae norm(R) \u2162norm", "<LONG> <LONG><LONGER> <LONGEST", "\u2581under\u2581score \u2581", "  \u2581 x", "<0x41> <0x0A>", "word " * 20,
]  # fmt: skip

BYTES = [
    bytes(range(256)), b"\xff", b"a\xffb", b"\xc0\x80", b"\xe2\x82", b"\xe2\x82 x", b"\xf0\x9f\x98", b"\xf0\x9f\x98\xf0\x9f\x98\x80", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xe1\xa0\xc0 \xf1\x80\x80\xe1\x80", b"</s\xff>", b"\x80\x80\x80 \xbf", b"abc\xc3",
]  # fmt: skip


def cases() -> list[bytes]:
    """Return the texts every tokenizer is asked for: the nasty ones and random mixtures of their parts."""
    rng = random.Random(1)
    alphabet = "".join(TEXTS[i] for i in range(len(TEXTS)) if len(TEXTS[i]) < 120)
    mixed = ["".join(rng.choice(alphabet) for _ in range(40)) for _ in range(30)]
    return [text.encode() for text in TEXTS + mixed] + BYTES


def lossy(text: bytes) -> str:
    return text.decode("utf-8", errors="replace")


def write_lines(path: Path, values: Iterable[object]) -> None:
    path.write_text("".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values), encoding="utf-8")


def hf_vectors(tokenizer: "AutoTokenizer") -> Iterable[dict]:
    for text in map(lossy, cases()):
        vector = vector_of(text, tokenizer(text)["input_ids"], lambda ids: decode(tokenizer, ids))
        as_text = tokenizer(text, split_special_tokens=True)["input_ids"]
        yield vector | ({} if as_text == vector["ids"] else {"ids_as_text": as_text})


def vector_of(text: str, ids: list[int], decode_ids: Callable[[list[int]], str]) -> dict:
    decoded = decode_ids(ids)
    return {"ids": ids} | ({} if decoded == text else {"decoded": decoded})


def decode(tokenizer: "AutoTokenizer", ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def random_ids(tokenizer: "AutoTokenizer") -> Iterable[dict]:
    rng = random.Random(2)
    for _ in range(50):
        ids = [rng.randrange(len(tokenizer)) for _ in range(20)]
        yield {"ids": ids, "decoded": decode(tokenizer, ids)}


def special(content: str) -> "hf.AddedToken":
    return hf.AddedToken(content, special=True, normalized=False)


def train_byte_level(text: str, size: int, pre_tokenizer: "pre_tokenizers.PreTokenizer", names: list[str]) -> "hf.Tokenizer":
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[special(name) for name in names],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def opt_config() -> dict:
    """Return the tokenizer_config.json of the published OPT checkpoints."""

    def token(content: str) -> dict:
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {"__type": "AddedToken", "content": content, **flags}

    return {
        "add_bos_token": True,
        "add_prefix_space": False,
        "bos_token": token("</s>"),
        "eos_token": token("</s>"),
        "errors": "replace",
        "pad_token": token("<pad>"),
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": token("</s>"),
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def make_opt(out: Path, text: str) -> None:
    """Write `opt` (vocab.json + merges.txt) and `opt_json`, the same as tokenizer.json."""
    plain, single = out / "opt", out / "opt_json"
    plain.mkdir(parents=True)
    trained = train_byte_level(text, 700, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    trained.model.save(str(plain))
    write_json(plain / "tokenizer_config.json", opt_config())
    tokenizer = AutoTokenizer.from_pretrained(plain)
    vectors = list(hf_vectors(tokenizer))
    write_lines(plain / "vectors.jsonl", vectors)
    write_lines(plain / "random_ids.jsonl", random_ids(tokenizer))
    single.mkdir()
    tokenizer.save_pretrained(single)
    assert list(hf_vectors(AutoTokenizer.from_pretrained(single))) == vectors


def make_galactica(out: Path, text: str) -> None:
    directory = out / "galactica"
    directory.mkdir(parents=True)
    steps = pre_tokenizers.Sequence([
        pre_tokenizers.Split("SPL1T-TH1S-Pl3A5E", "removed"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split(hf.Regex(GALACTICA_SYMBOLS), "isolated"),
        pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    names = ["<s>", "<pad>", "</s>", "<unk>", "[START_REF]", "[END_REF]", "[START_SMILES]", "[END_SMILES]"]
    tokenizer = train_byte_level(text, 600, steps, names)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    write_lines(directory / "vectors.jsonl", hf_vectors(AutoTokenizer.from_pretrained(directory)))


def make_flags(out: Path, text: str) -> None:
    """Write `flags`: every flag of added tokens, every behavior of Split, whole pieces, an unknown token, a template."""
    directory = out / "flags"
    directory.mkdir(parents=True)
    steps = pre_tokenizers.Sequence([
        pre_tokenizers.Split(hf.Regex(r"[.?]"), "merged_with_previous"),
        pre_tokenizers.Split("(", "merged_with_next"),
        pre_tokenizers.Split(hf.Regex(r"-"), "contiguous"),
        pre_tokenizers.Split(hf.Regex(r"[^*]+"), "removed", invert=True),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Digits(individual_digits=True),
    ])  # fmt: skip
    trained = train_byte_level(text, 500, steps, ["<s>", "<unk>", "<e>"])
    value = json.loads(trained.to_str())
    model = value["model"]
    model["vocab"]["\u0120foobar"] = model["vocab"].pop("q")  # a token no merge makes, a byte without a token
    model["merges"] = [merge for merge in model["merges"] if "q" not in "".join(merge)]
    model["unk_token"], model["fuse_unk"], model["ignore_merges"] = "<unk>", True, True
    tokenizer = hf.Tokenizer.from_str(json.dumps(value))
    tokenizer.add_tokens([
        hf.AddedToken("foo", single_word=True, normalized=False), hf.AddedToken("<L>", lstrip=True), hf.AddedToken("<R>", rstrip=True, normalized=False),
        hf.AddedToken("norm\u00ae"), hf.AddedToken("<LONG>", normalized=False), hf.AddedToken("<LONG><LONGER>", normalized=False), hf.AddedToken(" <Answer/>"),
    ])  # fmt: skip
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(),
        processors.TemplateProcessing(single="<s> $A <e> <e>", special_tokens=[("<s>", 0), ("<e>", 2)]),
    ])  # fmt: skip
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    # split_special_tokens leaves the added tokens in that are not special; nibble's "as text" leaves none.
    vectors = hf_vectors(AutoTokenizer.from_pretrained(directory))
    write_lines(directory / "vectors.jsonl", ({k: v for k, v in vector.items() if k != "ids_as_text"} for vector in vectors))


def train_sentencepiece(text: str, **options: object) -> bytes:
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()), model_writer=model, byte_fallback=True, minloglevel=2, num_threads=1, **options
    )
    return model.getvalue()


def make_sentencepiece(out: Path, text: str) -> None:
    """Write `sentencepiece_bpe`, as the bundled model has it, and `sentencepiece_unigram`, with rules of normalization alone."""
    bpe = out / "sentencepiece_bpe"
    bpe.mkdir(parents=True)
    model = train_sentencepiece(
        text, model_type="bpe", vocab_size=700, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, required_chars="0123456789", bos_id=0, pad_id=1, eos_id=2, unk_id=3,
    )  # fmt: skip
    (bpe / "tokenizer.model").write_bytes(model)
    names = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    flags = {"add_bos_token": True, "add_prefix_space": True, "legacy": False}
    write_json(bpe / "tokenizer_config.json", {**flags, **names, "tokenizer_class": "LlamaTokenizer"})
    write_lines(bpe / "vectors.jsonl", hf_vectors(AutoTokenizer.from_pretrained(bpe)))

    unigram = out / "sentencepiece_unigram"
    unigram.mkdir(parents=True)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("FF21\t41\nBD\t31 2044 32\nFB01\t66 69\n")  # code points: from, to
        rules.flush()
        model = train_sentencepiece(text, model_type="unigram", vocab_size=600, normalization_rule_tsv=rules.name)
    (unigram / "spiece.model").write_bytes(model)
    processor = spm.SentencePieceProcessor(model_proto=model)
    # The library does not look for control pieces in a text: its ids are those of the text as text.
    write_lines(unigram / "vectors.jsonl", ({"ids_as_text": [2, *processor.encode(lossy(text))]} for text in cases()))


def fnv1a(ids: list[int]) -> int:
    """Hash ids as little-endian 32-bit words (Fowler, Noll, Vo; 64 bits)."""
    value = 0xCBF29CE484222325
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def make_heldout(out: Path, corpus: str, opt_vocabulary: Path) -> None:
    lines = [line + "\n" for line in corpus.removesuffix("\n").split("\n")]
    batches = ["".join(lines[i : i + BATCH_LINES]) for i in range(0, len(lines), BATCH_LINES)]
    with tempfile.TemporaryDirectory() as directory:
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(opt_vocabulary / name, directory)
        write_json(Path(directory) / "tokenizer_config.json", opt_config())
        opt = AutoTokenizer.from_pretrained(directory)
    llama = AutoTokenizer.from_pretrained(out / "sentencepiece_bpe")
    result = {"batch_lines": BATCH_LINES}
    for name, tokenizer in {"opt": opt, "sentencepiece_bpe": llama}.items():
        encoded = [tokenizer(batch)["input_ids"] for batch in batches]
        result[name] = [{"count": len(ids), "fnv1a": f"{fnv1a(ids):016x}"} for ids in encoded]
    write_json(out / "heldout.json", result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="heldout.txt.xz, one paragraph a line")
    parser.add_argument("--opt-vocabulary", type=Path, required=True, help="directory of OPT's vocab.json and merges.txt")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    corpus = lzma.open(args.corpus).read().decode("utf-8")
    text = corpus[:TRAINING_BYTES]
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    write_lines(args.out / "texts.jsonl", (base64.b64encode(text).decode() for text in cases()))
    make_opt(args.out, text)
    make_galactica(args.out, text)
    make_flags(args.out, text)
    make_sentencepiece(args.out, text)
    make_heldout(args.out, corpus, args.opt_vocabulary)


if __name__ == "__main__":
    main()
