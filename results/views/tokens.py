"""The first tokens that each backend chose after a step or a prompt, beside each other.

>>> tokens_lines(rows)
['step:model=tiny,...', '  backend     first tokens  error', '  numba:cpu   7 88          4.1e-07', ...]

Two backends with the same weights agree wherever no two tokens are nearly as likely. Rows of an engine and of kernels here are
comparable where the work has cache=prompt: an engine starts from a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from membound.results.plain_text import in_one_line
from membound.results.row import Row
from membound.results.views.columns import columns

NONE = "no work among these rows chose tokens: steps, prompts and exported decoders do"


def tokens_lines(rows: Sequence[Row]) -> list[str]:
    """A table for each work whose rows have tokens, and whether all of them are equal."""
    lines = list(_tables(rows))
    return lines[:-1] if lines else [NONE]


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    chose = [row for row in rows if _tokens(row)]
    for work in dict.fromkeys(row.work for row in chose):
        own = {row.backend: row for row in reversed([row for row in chose if row.work == work])}
        table = [_line(own[backend]) for backend in reversed(own)]
        yield in_one_line(work)
        yield from (f"  {line}" for line in columns(["backend", "first tokens", "error"], table, "<<<"))
        yield f"  {_agreement([_tokens(row) for row in own.values()])}"
        yield ""


def _line(row: Row) -> list[str]:
    of = "" if row.tolerance is None else f" of {row.tolerance:.2g}"
    return [
        row.backend,
        " ".join(map(str, _tokens(row))),
        "" if row.error is None else f"{row.error:.2g}{of}",
    ]


def _tokens(row: Row) -> list[int]:
    """What the row says that was chosen, a token of each sequence; [] where it says nothing, or what cannot be."""
    told = row.config.get("greedy_tokens")
    return told if isinstance(told, list) and all(type(token) is int for token in told) else []


def _agreement(chosen: Sequence[Sequence[int]]) -> str:
    """How many sequences have the same token in all backends."""
    if len(chosen) == 1:
        return "one backend alone"
    if len({*map(len, chosen)}) > 1:
        return "of different numbers of sequences"
    same = sum(len(set(tokens)) == 1 for tokens in zip(*chosen, strict=True))
    return f"{same} of {len(chosen[0])} equal in all {len(chosen)} backends"
