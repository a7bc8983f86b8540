"""A tokenizer for exported models: any text comes back as it was, and common English words are a token each.

>>> vocabulary = byte_pairs(32000)
>>> vocabulary.tokens[5], vocabulary.merges[0]
('"', ('Ġ', 't'))

The model is byte-level byte-pair encoding, as in GPT-2 and Llama 3: after the special tokens come the 256 bytes, then the
beginnings of COMMON words with the space before them, then placeholders that no text has. Weights are random, so what a
token says does not matter; that it has a text, and that a text has tokens, does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
SPACE = "Ġ"
"""The byte of a space as GPT-2 writes it."""
COMMON = (
    *(
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "that",
        "for",
        "it",
        "as",
        "was",
        "with",
        "be",
        "by",
        "on",
        "not",
        "he",
    ),
    *(
        "this",
        "are",
        "or",
        "his",
        "from",
        "at",
        "which",
        "but",
        "have",
        "an",
        "had",
        "they",
        "you",
        "were",
        "there",
    ),
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school"),
    *("state", "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week"),
)
"""Words that have a token, as far as the vocabulary has room."""
CHAT = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"
"""The chat template, in Jinja: engines answer chats only where a model has one."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens` by id; `merges` in the order of their rank."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]


@cache
def letters() -> tuple[str, ...]:
    """The printable letter that stands for each byte (GPT-2's encoder.py, bytes_to_unicode)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


def byte_pairs(size: int, whole_letters: bool = False) -> Vocabulary:
    """A vocabulary of `size` tokens. One too small for all bytes has the first of them, and reads others as unknown.

    `whole_letters` leaves out the bytes that stand for parts of letters beyond ASCII: a token of theirs has no text of its own,
    and a server that streams text keeps it back.
    """
    tokens = [*SPECIAL, *letters()[: 128 if whole_letters else 256]][:size]
    merges: list[tuple[str, str]] = []
    known = set(tokens)
    for word in COMMON:
        beginnings = [SPACE + word[:end] for end in range(len(word) + 1)]
        new = [(a, b[-1]) for a, b in pairwise(beginnings) if b not in known]
        if len(tokens) + len(new) > size:
            break
        merges += new
        tokens += [a + b for a, b in new]
        known.update(tokens)
    return Vocabulary((*tokens, *(f"w{number}" for number in range(len(tokens), size))), tuple(merges))


def tokenizer_files(size: int, longest: int) -> dict[str, dict[str, Any]]:
    """tokenizer.json and its settings, for models of `size` tokens and sequences up to `longest`."""
    made = byte_pairs(size)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": word, **flags} for i, word in enumerate(SPECIAL[:size])],
        "normalizer": None,
        "pre_tokenizer": bytes_only,
        "post_processor": None,
        "decoder": bytes_only,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(made.tokens)},
            "merges": [" ".join(pair) for pair in made.merges],
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT,
        **dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True)),
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": settings}
