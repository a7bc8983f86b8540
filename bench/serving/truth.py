"""Whether a server says the right thing while it is under load: its greedy tokens against the float64 reference.

>>> truth_of(served, played, window, secret="").as_config()
{'requests': 4, 'tokens': 64, 'error': 2.1e-07, 'tolerance': 0.00017, 'unknown': ''}

Of the requests that were kept for it some are taken whose answers were whole. Each token is looked at behind those that the
server chose before it, so that a choice between two that are equally likely does no harm later. A server that answers faster
and wrong is wrong.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from membound.backends.api import Tokens
from membound.bench.measure.check import token_error
from membound.bench.serving.answer import read_stream
from membound.bench.serving.client import Played
from membound.bench.serving.clocks import NS
from membound.bench.serving.served import Served
from membound.kernels.inputs import ModelInputs
from membound.kernels.prompt import scores
from membound.kernels.reference import tolerance
from membound.kernels.seeded import make_inputs
from membound.results.fields import LARGEST
from membound.results.serving.window import Window

MOST_REQUESTS = 4
MOST_TOKENS = 32
"""Of an answer: what follows rests on the same weights."""
MOST_FLOPS = 1e12
"""Of all that is compared: half a minute of float64 on a few cores. One request is compared in any case."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What was compared; `error` as `token_error` has it. `unknown`: why nothing was."""

    requests: int = 0
    tokens: int = 0
    error: float | None = None
    tolerance: float | None = None
    unknown: str = ""

    @property
    def wrong(self) -> str:
        """How the server was wrong, or ''."""
        if self.error is None or self.tolerance is None or self.error <= self.tolerance:
            return ""
        return (
            f"the server's tokens are not the model's: error {self.error:.2g} in {self.tokens} tokens of {self.requests} "
            f"requests exceeds {self.tolerance:.2g}"
        )

    def as_config(self) -> dict[str, Any]:
        """For a row."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Answer:
    prompt: list[int]
    chosen: list[int]


def truth_of(served: Served | None, played: Played, window: Window, secret: str) -> Truth:
    """Compare some of the answers whose requests were kept."""
    if served is None:
        return Truth(unknown="the server's model is not known: --reference names it")
    found, silent = _answers(played, window, secret)
    if not found:
        return Truth(
            unknown="the server does not tell its tokens" if silent else "no answer that could be compared"
        )
    chosen = _affordable(served, found)
    error, inputs = 0.0, None
    for group in _alike(chosen):
        inputs = _inputs(served, group)
        error = max(error, _error(inputs, group))
    if inputs is None:
        raise AssertionError("no group of answers")
    return Truth(
        len(chosen),
        sum(len(one.chosen) for one in chosen),
        min(error, LARGEST),
        float(tolerance(inputs.work)),
    )


def _answers(played: Played, window: Window, secret: str) -> tuple[list[_Answer], bool]:
    """Whole answers to kept requests with prompts of token ids, and whether any of them lacked its tokens.

    Those of the window; where it has none, those before it, which were answered under the same load.
    """
    found, silent = [], False
    kept = [raw for raw in played.answers if raw.body]
    inside = [raw for raw in kept if window.warm_s <= (raw.due_ns - played.started_ns) / NS < window.end_s]
    for raw in inside or kept:
        seen, prompt = read_stream(raw, secret), json.loads(raw.body).get("prompt")
        if (
            seen.outcome
            or raw.end not in ("complete", "closed")
            or not isinstance(prompt, list)
            or len(prompt) < 2
        ):
            continue
        if seen.ids:
            found.append(_Answer(prompt, seen.ids[:MOST_TOKENS]))
        else:
            silent = True
    return found, silent


def _affordable(served: Served, found: Sequence[_Answer]) -> list[_Answer]:
    """As many as are worth the time, evenly among them."""
    each = max(len(one.prompt) + len(one.chosen) for one in found) * served.work.flops
    count = max(1, min(MOST_REQUESTS, len(found), int(MOST_FLOPS // each)))
    return [found[i * len(found) // count] for i in range(count)]


def _alike(found: Sequence[_Answer]) -> list[list[_Answer]]:
    """Answers that can be computed together: prompts and answers of one length."""
    groups: defaultdict[tuple[int, int], list[_Answer]] = defaultdict(list)
    for one in found:
        groups[len(one.prompt), len(one.chosen)].append(one)
    return list(groups.values())


def _inputs(served: Served, group: Sequence[_Answer]) -> ModelInputs:
    """The model behind these prompts, the last token of each being the step's own."""
    context = len(group[0].prompt) - 1
    made = make_inputs(replace(served.work, batch=len(group), context=context), served.seed)
    if not isinstance(made, ModelInputs):
        raise AssertionError(f"{type(made).__name__} is no ModelInputs")
    vocab = made.model.vocab
    return replace(
        made, tokens=np.array([[i % vocab for i in one.prompt] for one in group], np.int64), held=[]
    )


def _error(inputs: ModelInputs, group: Sequence[_Answer]) -> float:
    chosen = np.array([one.chosen for one in group], np.int64)
    if chosen.min() < 0 or chosen.max() >= inputs.model.vocab:
        return LARGEST
    return token_error(Tokens(chosen), scores(inputs, chosen))
