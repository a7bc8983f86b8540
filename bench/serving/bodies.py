"""What is asked for: prompts of a given length that no cache has seen, and the fields that a server takes.

>>> prompts = Prompts(seed=1, vocab=32000)
>>> body(Asked("completions", "my-model", tokens=64), prompts.ids(128, number=0), Fields())
b'{"model":"my-model","prompt":[...],"max_tokens":64,"stream":true,"ignore_eos":true,...}'

Token ids go where an endpoint takes them: no tokenizer is needed, and the length is exact. Text is of short words, about one token
each, the first of them new in every prompt, so that no prefix cache holds any of it; a prefix that is to be shared is
asked for. Fields that not every server knows are dropped one by one where it refuses them, and what was dropped is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

FIRST_ID = 10
"""Ids below it are special tokens in most vocabularies."""
WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school"),
    *("state", "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week"),
)
SAFE_VOCAB = 1000
"""Ids below it are in every vocabulary; used where the size is not known."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Seeded prompts; number i is the same whatever came before. `shared`: tokens that all begin with."""

    seed: int
    vocab: int = SAFE_VOCAB
    shared: int = 0

    def ids(self, length: int, number: int) -> list[int]:
        """Token ids, `length` of them."""
        common = np.random.default_rng((self.seed, 0)).integers(
            FIRST_ID, self.vocab, min(self.shared, length)
        )
        own = np.random.default_rng((self.seed, 1, number)).integers(
            FIRST_ID, self.vocab, length - len(common)
        )
        return [*common.tolist(), *own.tolist()]

    def text(self, length: int, number: int) -> str:
        """About `length` tokens of text, a word each."""
        common = np.random.default_rng((self.seed, 0)).integers(0, len(WORDS), min(self.shared, length))
        count = length - len(common)
        own = np.random.default_rng((self.seed, 1, number)).integers(0, len(WORDS), count)
        first = [f"{self.seed}-{number}"] if count else []
        return " ".join([*(WORDS[i] for i in common), *first, *(WORDS[i] for i in own[1:])])


@dataclass(frozen=True, slots=True)
class Asked:
    """What every request of a load has in common. `tokens`: the length of its answer."""

    name: str
    """``completions`` or ``chat/completions``."""
    model: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Fields:
    """Optional fields of a request, in the order in which they are given up."""

    return_token_ids: bool = True
    ignore_eos: bool = True
    include_usage: bool = True
    ids: bool = True
    """Prompts as token ids rather than text."""

    def without(self, words: str) -> Fields | None:
        """The same less the field that a refusal names, or else the next one; None if there is none left."""
        on = [name for name in ORDER if getattr(self, name)]
        if not on:
            return None
        named = [name for name in on if any(mark in words for mark in MARKS[name])]
        return replace(self, **{(named or on)[0]: False})

    @property
    def dropped(self) -> list[str]:
        """Names of what the server does not take."""
        return [name for name in ORDER if not getattr(self, name)]


ORDER = ("return_token_ids", "ignore_eos", "include_usage", "ids")
MARKS = {
    "return_token_ids": ("return_token_ids",),
    "ignore_eos": ("ignore_eos",),
    "include_usage": ("stream_options", "include_usage"),
    "ids": ("prompt", "string", "str type", "token ids"),
}
"""Words of a refusal that name the field."""


def body(asked: Asked, prompt: Sequence[int] | str, fields: Fields, logprobs: bool = False) -> bytes:
    """A request's JSON. A chat takes text alone. `logprobs` has some servers tell tokens that they would not tell else."""
    made: dict[str, Any] = {"model": asked.model}
    if asked.name == "completions":
        made["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
    else:
        made["messages"] = [{"role": "user", "content": prompt}]
    made |= {"max_tokens": asked.tokens, "stream": True, "temperature": 0}
    if fields.ignore_eos:
        made["ignore_eos"] = True
    if fields.include_usage:
        made["stream_options"] = {"include_usage": True}
    if fields.return_token_ids:
        made["return_token_ids"] = True
    if logprobs:
        made["logprobs"] = 1
    return json.dumps(made, separators=(",", ":")).encode()
