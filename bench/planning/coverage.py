"""What `membound coverage` shows: which works each backend says it can do, from its own `supports`.

>>> table = gather(registry.entries(), threads=2, pythons={})
>>> table[0].id, table[0].refused["mla:context=1024,q_heads=128,batch=1,kv=fp8"]
('numba:cpu', 'there is no attention kernel over an fp8 cache for CPUs')

Every device that an entry point lists is opened and asked, in a worker of its own. Of those that cannot be
opened here, only classes that need no device for it (`Backend.unopened`) are asked. Of all others nothing is
known, and nothing is said.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.backends import registry
from membound.backends.api import Backend
from membound.bench.environments.build import remedy_for
from membound.bench.measure.closing import closed
from membound.bench.measure.contestant import BROKEN
from membound.bench.measure.failures import FigureError, one_line, said
from membound.bench.measure.figures import device_fields, device_names, reason_against
from membound.bench.planning.asking import ask_all
from membound.bench.planning.probe import LIMIT_S
from membound.bench.protocol.messages import AskCoverage, Coverage, Failed
from membound.bench.protocol.process import Worker
from membound.errors import BackendUnavailable, MemboundError
from membound.kernels.onnx_step import EXAMPLE
from membound.kernels.parts import Latent
from membound.kernels.steps import CACHES
from membound.kernels.work import (
    ACTS,
    FORMATS,
    KV_FORMATS,
    DecodeAttention,
    LatentAttention,
    Linear,
    OnnxStep,
    Prefill,
    RoutedExperts,
    SpecError,
    Step,
    Work,
    parse,
)
from membound.results.fields import wrong_field
from membound.results.plain_text import as_markdown
from membound.results.roofline import device_class

SHAPES: tuple[Work, ...] = (
    Linear(4096, 4096),
    DecodeAttention(1024),
    LatentAttention(1024),
    RoutedExperts(2048, 768),
    Step("llama-3.2-1b"),
    Step("qwen3-30b-a3b", layers=1),
    Step("deepseek-v2", layers=2),
    Step("qwen3.5-9b", layers=4),
    Prefill("llama-3.2-1b"),
    Prefill("qwen3-30b-a3b", layers=1),
    Prefill("deepseek-v2", layers=2),
    Prefill("qwen3.5-9b", layers=4),
    OnnxStep(str(EXAMPLE)),
)
"""A work of each kind, whole models dense, with experts, with latent attention and with states, of sizes that nothing refuses: what
is asked about are formats."""
VALUES: dict[str, tuple[Any, ...]] = {
    "weight": tuple(FORMATS),
    "act": ACTS,
    "kv": tuple(KV_FORMATS),
    "page": (0, 16),
    "queries": (1, 4),
    "cache": CACHES,
}
"""Keys of a work that say what it is made of, not how large it is, with the values asked about."""
NONE = "–"
ASKED, NOT_ASKED = "Asked without the device", "Not here, and not asked"


def keys_of(work: Work) -> tuple[str, ...]:
    """The keys of VALUES that a work of this kind has, in the order of its spec. The formats of a file are its own."""
    if isinstance(work, OnnxStep):
        return ()
    return tuple(f.name for f in fields(work) if f.name in VALUES)


def title_of(shape: Work) -> str:
    """What a shape's table is of: ``step``, ``step, experts``."""
    if not isinstance(shape, Step | Prefill):
        return shape.kind
    decoder = shape.shape.decoder
    latent = isinstance(decoder.layers[0].mixer, Latent)
    there = {
        "experts": shape.distinct > 0,
        "latent attention": latent,
        "states": any(decoder.state_bytes),
    }
    return ", ".join([shape.kind, *(name for name, so in there.items() if so)])


def works_of(shape: Work) -> Iterator[Work]:
    """A shape in every combination of VALUES that there is: float weights, say, do not go with act=int8."""
    keys = keys_of(shape)
    for values in product(*(VALUES[key] for key in keys)):
        try:
            yield replace(shape, **dict(zip(keys, values, strict=True)))
        except SpecError:
            continue


def all_works() -> list[Work]:
    """Every work that is asked about."""
    return [work for shape in SHAPES for work in works_of(shape)]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a device says of all works. `id` is its name without a number: ``torch:cuda+graph``.

    `refused` holds specs with the reasons; where it was `asked`, all others are supported, and where it was not,
    nothing is known. `reason` and `remedy` say why it was not `opened`, and what would help.
    """

    id: str
    opened: bool = False
    asked: bool = False
    reason: str = ""
    remedy: str = ""
    refused: dict[str, str] = field(default_factory=dict)


# In a worker


def ask(entry: str, threads: int, specs: Sequence[str]) -> Iterator[Answers]:
    """Every device that an entry point lists, the first of its kind, and those that answer unopened."""
    prefix, works = entry.partition(".")[0], [parse(spec) for spec in specs]
    whole = Answers(entry.replace(".", ":", 1), reason="not among the devices that are here")
    told: dict[str, Answers] = {}
    try:
        cls = registry.load(entry)
    except BackendUnavailable as error:
        yield _absent(whole.id, error)
        return
    try:
        for device in device_names(cls):
            name = _without_number(f"{prefix}:{device}")
            if name not in told or not told[name].opened:
                told[name] = _opened(name, cls, device, threads, works)
    except BackendUnavailable as error:
        whole = _absent(whole.id, error)
    for device in cls.unopened:
        name = f"{prefix}:{device}"
        before = told.get(name, whole)
        if not before.opened:
            told[name] = _unopened(replace(before, id=name), cls, works)
    yield from told.values() or [whole]


def _without_number(name: str) -> str:
    """``torch:cuda:1+graph`` as ``torch:cuda+graph``."""
    kind = device_class(name).partition(":")[0]
    _, plus, variants = name.partition("+")
    return f"{name.partition(':')[0]}:{kind}{plus}{variants}"


def _absent(name: str, error: Exception) -> Answers:
    remedy = said(error.remedy) if isinstance(error, BackendUnavailable) else ""
    ours = isinstance(error, MemboundError | FigureError)
    return Answers(name, reason=said(error) if ours else one_line(error), remedy=remedy)


def _opened(name: str, cls: type[Backend], device: str, threads: int, works: Sequence[Work]) -> Answers:
    try:
        backend = cls()
        try:
            device_fields(backend.open(device, threads))
            return Answers(name, opened=True, asked=True, refused=_refused(backend, works))
        finally:
            closed(backend)
    except Exception as error:  # the boundary around a runtime: its other devices may do
        return _absent(name, error)


def _unopened(before: Answers, cls: type[Backend], works: Sequence[Work]) -> Answers:
    """The answers of a class that needs no device for them; none if it needs a package that is not here."""
    try:
        return replace(before, asked=True, refused=_refused(cls(), works))
    except Exception as error:  # the boundary around a runtime
        return _absent(before.id, error)


def _refused(backend: Backend, works: Sequence[Work]) -> dict[str, str]:
    return {work.spec: reason for work in works if (reason := reason_against(backend, work)) is not None}


# In the harness


def gather(entries: Sequence[str], threads: int, pythons: Mapping[str, str]) -> list[Answers]:
    """The answers of every device of the named entry points, each in a worker; `pythons` as in `plan.Options`."""
    specs = [work.spec for work in all_works()]

    def ask_in_worker(entry: str) -> list[Answers]:
        python = pythons.get(entry.partition(".")[0], sys.executable)
        try:
            with Worker(threads, python) as worker:
                worker.greet(LIMIT_S)
                answer = worker.ask(AskCoverage(entry, specs), LIMIT_S)
                worker.close()
        except BROKEN as error:
            problem, remedy = remedy_for(python)
            reason = problem or f"asking it failed: {error}"
            return [Answers(entry.replace(".", ":", 1), reason=reason, remedy=remedy)]
        if isinstance(answer, Coverage):
            return [_answers(entry, told) for told in answer.answers]
        reason = answer.reason if isinstance(answer, Failed) else "it gave no answers"
        return [Answers(entry.replace(".", ":", 1), reason=f"asking it failed: {reason}")]

    return ask_all(ask_in_worker, entries)


def _answers(entry: str, told: dict[str, Any]) -> Answers:
    """What a worker told of a device; fields that only another membound has are passed by."""
    known = {f.name: told[f.name] for f in fields(Answers) if f.name in told}
    if wrong := wrong_field(Answers, known):
        return Answers(
            entry.replace(".", ":", 1), reason=f"asking it failed: it tells what cannot be: {wrong}"
        )
    return Answers(**known)


Box = tuple[tuple[str, ...], ...]
"""Values for each key: every combination of them is meant."""


def boxes(points: Iterable[tuple[str, ...]]) -> list[Box]:
    """Points as boxes: every combination of the values of a box is a point, and each point is in one box."""
    below: dict[str, list[tuple[str, ...]]] = {}
    for point in points:
        if not point:
            return [()]
        below.setdefault(point[0], []).append(point[1:])
    alike: dict[tuple[Box, ...], list[str]] = {}
    for first, rest in below.items():
        alike.setdefault(tuple(boxes(rest)), []).append(first)
    return [(tuple(firsts), *box) for rest, firsts in alike.items() for box in rest]


def supported(table: Sequence[Answers], shape: Work) -> tuple[list[list[str]], str]:
    """The lines of a kind's table: backends, then the values of each of its keys; and who does nothing of it."""
    keys, asked = keys_of(shape), [answers for answers in table if answers.asked]
    points = [
        (answers.id, *(str(getattr(work, key)) for key in keys))
        for answers in asked
        for work in works_of(shape)
        if work.spec not in answers.refused
    ]
    able = {point[0] for point in points}
    idle = ", ".join(answers.id for answers in asked if answers.id not in able)
    return [[", ".join(values) for values in box] for box in boxes(points)], idle


def reasons(table: Sequence[Answers]) -> list[list[str]]:
    """Why not: backends, kinds of work, the reason; what backends say of the same kinds alike is one line."""
    kinds: dict[tuple[str, str], dict[str, None]] = {}
    for answers in table:
        for spec, reason in answers.refused.items():
            kinds.setdefault((answers.id, reason), {})[spec.partition(":")[0]] = None
    alike: dict[tuple[str, str], list[str]] = {}
    for (name, reason), found in kinds.items():
        alike.setdefault((", ".join(found), reason), []).append(name)
    return [[", ".join(names), found, reason] for (found, reason), names in alike.items()]


def as_json(table: Sequence[Answers]) -> dict[str, Any]:
    """All specs asked about, and what each backend refuses of them."""
    return {
        "works": [work.spec for work in all_works()],
        "backends": [asdict(answers) for answers in table],
    }


def coverage_view(table: Sequence[Answers]) -> Group:
    """The tables for people; 80 columns are enough."""
    parts: list[RenderableType] = []
    width = max((len(f"{answers.id},") for answers in table), default=0)
    for shape in SHAPES:
        view = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        view.add_column(title_of(shape), width=width)
        for name in keys_of(shape):
            view.add_column(name, overflow="fold")
        lines, idle = supported(table, shape)
        for line in lines:
            view.add_row(*line)
        parts += [view, *([Text(f"none of it: {idle}")] if idle else []), Text()]
    parts += [Text(f"{names}: {reason} ({found})") for names, found, reason in reasons(table)]
    parts += [Text(), *(Text(line) for line in absences(table)), Text()]
    return Group(*parts, Text(f"{_intro()} {_sizes()}".replace("`", ""), style="dim"))


def absences(table: Sequence[Answers]) -> Iterator[str]:
    """A line for each device that was not opened: whether it was asked all the same, why not, what would help."""
    for answers in table:
        if not answers.opened:
            why = "; ".join(filter(None, (" ".join(answers.reason.split()), answers.remedy)))
            yield f"{ASKED if answers.asked else NOT_ASKED}: {answers.id} ({why})"


def coverage_markdown(table: Sequence[Answers]) -> str:
    """The same as a page of Markdown, without what only this machine lacks: docs/coverage.md is made so."""
    from membound.results.views.markdown import LEFT, table_lines

    page = [
        "# Which backend does what",
        "",
        f"{_intro()} The page is what `membound coverage --markdown` prints.",
        "",
    ]
    for shape in SHAPES:
        names, (lines, idle) = ("backend", *keys_of(shape)), supported(table, shape)
        lines += [[idle, *(NONE for _ in keys_of(shape))]] if idle and keys_of(shape) else []
        told = [[as_markdown(backends), *cells] for backends, *cells in lines]
        page += [f"## `{title_of(shape)}`", "", *table_lines(names, (LEFT,) * len(names), told)]
    page += ["## Why not", ""]
    told_why = ((as_markdown(name), works, as_markdown(why)) for name, works, why in reasons(table))
    page += table_lines(("backend", "works", "reason"), (LEFT,) * 3, told_why)
    unopened = [answers for answers in table if not answers.opened]
    for why, absent in (
        (ASKED, [answers.id for answers in unopened if answers.asked]),
        (NOT_ASKED, [answers.id for answers in unopened if not answers.asked]),
    ):
        page += [f"{why}: {as_markdown(', '.join(absent))}.", ""] if absent else []
    return "\n".join([*page, _sizes(), ""])


def _intro() -> str:
    return (
        f"Each backend was asked about each of these works through its own `supports`, on {platform.machine()}. "
        "A line holds for every combination of its values."
    )


def _sizes() -> str:
    specs = ", ".join(f"`{shape.spec}`" for shape in SHAPES if not isinstance(shape, OnnxStep))
    return f"Sizes asked about, of which others may be refused: {specs}, and a small file in ONNX's own operators."
