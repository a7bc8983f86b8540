"""How many sequences decoded at once in a window, and how long they were: what the bytes of a token depend on.

>>> decoding = decoding_of(requests, window)
>>> decoding.batch, decoding.context, decoding.itl_s
(3.8, 161.0, 0.0213)

A sequence decodes from its first token to its last. The batch is the mean over tokens, not over time: that of a token that is
asked about. Prompts that an engine runs in the same steps are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from membound.results.serving.request import Request
from membound.results.serving.window import Window


@dataclass(frozen=True, slots=True)
class Decoding:
    """Means over the tokens of a window. `context` is None where the server does not tell how long prompts are."""

    batch: float
    context: float | None
    itl_s: float
    """Seconds between first and last tokens over the tokens in between."""
    tokens: int


def decoding_of(requests: Sequence[Request], window: Window) -> Decoding | None:
    """Of whole answers that were due in the window; None without two tokens."""
    whole = [one for one in window.of(requests) if one.ok and len(one.arrivals_s) > 1]
    tokens = [one.output_tokens - one.tokens[0] for one in whole]
    seconds = sum(one.arrivals_s[-1] - one.arrivals_s[0] for one in whole)
    batch = _batch([one for one in requests if len(one.arrivals_s) > 1], window)
    if not sum(tokens) or seconds <= 0 or batch is None:
        return None
    lengths = [one.prompt_tokens + (one.tokens[0] + one.output_tokens) / 2 for one in whole]
    told = all(one.prompt_tokens for one in whole)
    context = sum(n * c for n, c in zip(tokens, lengths, strict=True)) / sum(tokens) if told else None
    return Decoding(batch, context, seconds / sum(tokens), sum(tokens))


def _batch(requests: Sequence[Request], window: Window) -> float | None:
    """∫ n² dt / ∫ n dt of the number n of sequences that decode: what each of them finds, itself included."""
    spans = [
        (max(one.arrivals_s[0], window.warm_s), min(one.arrivals_s[-1], window.end_s)) for one in requests
    ]
    steps = sorted(
        (at, change) for start, end in spans if end > start for at, change in ((start, 1), (end, -1))
    )
    first = second = 0.0
    count = 0
    for (at, change), (later, _) in pairwise(steps):
        count += change
        first += count * (later - at)
        second += count * count * (later - at)
    return second / first if first > 0 else None
