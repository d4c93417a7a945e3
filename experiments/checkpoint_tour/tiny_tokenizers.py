"""Tokenizer files in the published formats, with a few dozen entries."""

import base64
import json
from pathlib import Path

import tokenizers

MERGED = (b"he", b"ll", b"hell", b" w", b"or", b" wor", b"ld", b"in", b"\n\n")
"""Byte strings that are tokens of their own, each made of two tokens before it."""

VISION = ("<|image token|>", "<|image start|>", "<|image end|>", "<|video start|>")


def visible(token: bytes) -> str:
    """Bytes as GPT-2's byte level writes them, for the bytes used here."""
    table = {0x20: "Ġ", 0x0A: "Ċ"}
    return "".join(table.get(byte, chr(byte)) for byte in token)


def byte_level(folder: Path) -> Path:
    """Phi's kind of tokenizer.json: ASCII, a few merges, and <|endoftext|>."""
    single = [bytes([byte]) for byte in (0x0A, *range(0x20, 0x7F))]
    vocabulary = {visible(t): i for i, t in enumerate((*single, *MERGED))}
    merges = []
    for token in MERGED:
        place = next(
            place
            for place in range(1, len(token))
            if visible(token[:place]) in vocabulary
            and visible(token[place:]) in vocabulary
        )
        merges.append((visible(token[:place]), visible(token[place:])))
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = tokenizers.decoders.ByteLevel()
    pieces.add_special_tokens(["<|endoftext|>"])
    path = folder / "tokenizer.json"
    pieces.save(str(path))
    return path


def tiktoken(folder: Path, num_codes: int) -> Path:
    """Emu3's emu3.tiktoken with all bytes and a few merges, and its vision tokens."""
    ranks = [bytes([byte]) for byte in range(256)] + list(MERGED)
    lines = [
        f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks)
    ]
    path = folder / "emu3.tiktoken"
    path.write_text("\n".join(lines) + "\n")
    codes = [f"<|visual token {code:0>6d}|>" for code in range(num_codes)]
    (folder / "emu3_vision_tokens.txt").write_text("\n".join((*VISION, *codes)) + "\n")
    return path


def vocabulary_map(folder: Path, num_codes: int, letters: str = "▁ehlowrd<?") -> Path:
    """Chameleon's text_tokenizer.json: markers and codes are entries of the map."""
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    names += [f"IMGIMG{spelled(code)}Z" for code in range(num_codes)]
    names += ["<eoss>", "<racm3:break>", "<reserved08705>", "<reserved08706>"]
    names += [*letters, "he", "▁w"]
    names += ["<reserved99999>", "ll"]
    entries = {name: i for i, name in enumerate(names)}
    merges = [("h", "e"), ("▁", "w"), ("l", "l")]
    model = tokenizers.models.BPE(entries, merges, unk_token="<unk>")
    pieces = tokenizers.Tokenizer(model)
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    pieces.decoder = tokenizers.decoders.Metaspace()
    pieces.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    path = folder / "text_tokenizer.json"
    pieces.save(str(path))
    assert json.loads(path.read_text())["model"]["vocab"] == entries
    return path


def spelled(number: int) -> str:
    """A number with its digits as letters: 10 is BA."""
    return "".join(chr(ord("A") + int(digit)) for digit in str(number))
