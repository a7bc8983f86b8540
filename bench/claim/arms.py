"""The arms of each experiment on the claim: which works run, at which doses, what is special about them.

>>> [arm.factors for arm in arms_of(1, Scene(cache_bytes=314_572_800, ridge=11.2))][:3]
[{'k': 0}, {'k': 2}, {'k': 5}]

Arms of one `group` are prepared together and take turns in one process, so that a slow moment hits all of
them; groups follow each other. Works are large beside what launching costs and, where memory is meant,
kept out of the caches. What is varied and what is held stands in results/claim/experiments.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from membound.bench.claim.scene import Scene
from membound.kernels.dose_models import unheld
from membound.kernels.weights.formats import FORMATS
from membound.kernels.work import (
    DecodeAttention,
    LatentAttention,
    Linear,
    Prefill,
    RoutedExperts,
    Step,
    Work,
    parse,
)

WIDE = 4096
"""Rows and columns of the matrices: a 7B to 8B model's attention projections, 34 MB in bf16."""
CONTEXT = 8192
Q_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
"""Llama-3-8B's attention."""
RIDGE_SHARES = (0.15, 0.25, 0.35, 0.45, 0.7, 1.0, 1.4, 2.0)
"""FLOPs of experiment 1 as shares of the ridge, beside none extra: dense where the plateau is judged."""
BEYOND = 4
"""The last dose of rows is at least half of so many times the predicted knee."""
KV_HEAD_DOSES = (32, 16, 8, 4)
KV_FORMAT_DOSES = ("f32", "bf16", "f16", "int8")
WEIGHT_FORMAT_DOSES = ("f32", "bf16", "f16", "int8", "int4g32", "int4g128")
ROW_DOSES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 128)
"""Rows of x in experiments 3 and 6, which share their kernels and references so."""
CACHE_BATCHES = (1, 2, 4, 8)
BATCH_CONTEXT = 1024
DUTIES = (0.25, 0.5, 1.0)
CACHE_SHARES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
CORE_CACHE_SHARE = 0.5
"""Of the cores' own caches, which other guests of the machine cannot fill: as for their read ceilings."""
GRAPH = "graph"
"""The variant whose launches are captured, as backends call it (docs/gpu.md)."""
SUITE_MODEL = "qwen2.5-0.5b"
PROMPT_MODEL = "llama-2-7b"
"""One layer of it: a prompt's last token alone meets the head, which must not be most of what is read. With two layers
of the suite's model it was four fifths, and read for one row, as in decoding."""
PROMPT_DOSES = (128, 256, 512)
"""Tokens: with 64, reading the weights still takes an eighth of the time on a CPU."""
LARGE_BATCHES = (256, 512, 1024)
LATENT_HEADS = (32, 64, 128)
EXPERT_HIDDEN, EXPERT_WIDTH = 1024, 512
"""Of granite-3.1-1b-a400m: small experts, so that all doses of a format fit the memory of small machines beside each other."""
EXPERTS, EXPERT_BATCH, EXPERT_CHOICE = 64, 8, 8
EXPERT_DOSES = (8, 16, 32, 64)
"""From the experts of one token, which all share, to those of a batch that shares none; uniform routing would read 42."""
EXPERT_FORMATS = ("f32", "bf16")
QUERY_DOSES = (1, 2, 4, 8)
"""New tokens of a sequence: from none that is drafted to more than drafts have."""
SHARED_HEADS = ((32, 2048), (16, 4096), (8, 8192), (4, 16384))
"""KV heads and context of experiment 13: as many bytes in each, eight times the FLOPs in the last."""
CONTEXT_DOSES = (1024, 2048, 4096, 8192)
CONTEXT_MODELS = {
    "window": ("dose-window", 4),
    "delta": ("dose-delta", 8),
    "mamba": ("dose-mamba", 8),
    "index": ("dose-index", 8),
}
"""Models of experiment 13 by arm (`kernels/dose_models.py`), with sequences: caches and states are most of what they read."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One work at one dose. `factors` are those of the observation, by the names in experiments.toml.

    extra_fmas: multiply-adds more for each weight or cache element (None: the ordinary kernel); trade and
    duty: what a co-runner does ("" for none), and for which share of its core; resident: the same input set again and
    again, so that it stays in a cache that holds it; variant: of the backend at hand, "" for itself.
    """

    name: str
    group: str
    work: str
    factors: dict[str, float | str] = field(default_factory=dict)
    extra_fmas: int | None = None
    trade: str = ""
    duty: float = 0.0
    resident: bool = False
    variant: str = ""

    @property
    def parsed(self) -> Work:
        """The work."""
        return parse(self.work)

    @property
    def contestant(self) -> tuple[str, int | None, str]:
        """What arms have in common that take turns on the same prepared work."""
        return self.work, self.extra_fmas, self.variant

    @property
    def flops(self) -> int:
        """FLOPs of a launch, the extra ones too: two for each multiply-add."""
        work = self.parsed
        return work.flops + (2 * self.extra_fmas * loaded_elements(work) if self.extra_fmas else 0)

    def as_json(self) -> dict[str, Any]:
        """The fields, for a job."""
        return asdict(self)


def grouped(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Arms by their group, in the order they were met: what is prepared and takes turns together."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.group, []).append(arm)
    return groups


def by_contestant(arms: Sequence[Arm]) -> dict[tuple[str, int | None, str], list[Arm]]:
    """Arms by the prepared work that they share."""
    found: dict[tuple[str, int | None, str], list[Arm]] = {}
    for arm in arms:
        found.setdefault(arm.contestant, []).append(arm)
    return found


def named(backend: str, variant: str) -> str:
    """``backend:device`` as that variant; itself without one."""
    return f"{backend}+{variant}" if variant else backend


def loaded_elements(work: Work) -> int:
    """Weights, or elements of K and V, that a launch loads. Raises ValueError for other works."""
    if isinstance(work, Linear):
        return work.n * work.k
    if isinstance(work, DecodeAttention):
        return 2 * work.batch * work.context * work.kv_heads * work.head_dim
    raise ValueError(f"{work.spec} is no single operation")


def arms_of(experiment: int, scene: Scene) -> list[Arm]:
    """The arms of an experiment on this machine; empty for one that measures nothing (9)."""
    return list(_MAKERS[experiment](scene))


def _arm(name: str, group: str, work: Work, **more: Any) -> Arm:
    return Arm(name, group, work.spec, **more)


def _rows(scene: Scene) -> Iterator[int]:
    """ROW_DOSES, then on by doubling until they are well beyond where products turn compute-bound."""
    yield from ROW_DOSES
    rows = 2 * ROW_DOSES[-1]
    while rows < BEYOND * scene.knee_rows:
        yield rows
        rows *= 2


def _cache(
    context: int = CONTEXT, kv_heads: int = KV_HEADS, batch: int = 1, kv: str = "f32"
) -> DecodeAttention:
    return DecodeAttention(context, Q_HEADS, kv_heads, HEAD_DIM, batch, kv)


def _plain_cache(scene: Scene, context: int, kv_heads: int = KV_HEADS) -> DecodeAttention:
    """Attention over as many bytes in any format as a float32 cache of so many tokens has in a scene of scale 1."""
    wider = FORMATS["f32"].bits // FORMATS[scene.floats].bits
    return _cache(wider * scene.scale * context, kv_heads, kv=scene.floats)


def _free_compute(scene: Scene) -> Iterator[Arm]:
    if not scene.ridge:
        return
    works: dict[str, Work] = {
        "linear_f32": Linear(scene.scale * WIDE, WIDE, weight="f32"),
        "linear_bf16": Linear(2 * scene.scale * WIDE, WIDE, weight="bf16"),
        "attention_f32": _cache(scene.scale * CONTEXT, kv="f32"),
        "attention_bf16": _cache(scene.scale * CONTEXT // 2, Q_HEADS, kv="bf16"),
    }
    for name, work in works.items():
        each, ridge_flops = 2 * loaded_elements(work), scene.ridge * work.traffic.total_bytes
        doses = (round((share * ridge_flops - work.flops) / each) for share in (0.0, *RIDGE_SHARES))
        for k in dict.fromkeys(max(0, dose) for dose in doses):
            yield _arm(name, name, work, factors={"k": k}, extra_fmas=k)


def _byte_dose(scene: Scene) -> Iterator[Arm]:
    for heads in KV_HEAD_DOSES:
        yield _arm(
            "kv_heads",
            "kv_heads",
            _plain_cache(scene, CONTEXT, heads),
            factors={"kv_heads": heads},
        )
    for kv in KV_FORMAT_DOSES:
        yield _arm("kv_format", "kv_format", _cache(scene.scale * CONTEXT, kv=kv), factors={"format": kv})
    for weight in WEIGHT_FORMAT_DOSES:
        work = Linear(2 * scene.scale * WIDE, WIDE, weight=weight)
        yield _arm("weight_format", "weight_format", work, factors={"format": weight})


def _flop_dose(scene: Scene) -> Iterator[Arm]:
    for weight, n in (("f32", scene.scale * WIDE), ("bf16", 2 * scene.scale * WIDE)):
        for m in _rows(scene):
            name = f"linear_{weight}"
            yield _arm(name, name, Linear(n, WIDE, m, weight), factors={"m": m})


def _theft(scene: Scene) -> Iterator[Arm]:
    if not scene.co_runner_cores:
        return
    victims: dict[str, Work] = {
        "linear": Linear(scene.scale * WIDE, WIDE, weight="f32"),
        "attention": _plain_cache(scene, CONTEXT),
    }
    for group, victim in victims.items():
        for duty in DUTIES if scene.spatial else (0.0,):  # a block that waits still takes room from others
            yield _arm("idle", group, victim, trade="idle", duty=duty, factors={"duty": duty})
        for trade in ("bandwidth", "fma"):
            for duty in DUTIES:
                yield _arm(trade, group, victim, trade=trade, duty=duty, factors={"duty": duty})


def _residency(scene: Scene) -> Iterator[Arm]:
    sizes = [share * scene.cache_bytes for share in CACHE_SHARES]
    if 0 < scene.core_cache_bytes < sizes[0]:
        sizes.insert(0, CORE_CACHE_SHARE * scene.core_cache_bytes)
    for size in sizes:
        work = Linear(round(size / (4 * WIDE)), WIDE, weight="f32")
        factors: dict[str, float | str] = {
            "working_set_bytes": work.footprint_bytes,
            "cache_bytes": scene.cache_bytes,
        }
        yield _arm("linear_f32", "residency", work, factors=factors, resident=True)


def _batch_knee(scene: Scene) -> Iterator[Arm]:
    for batch in _rows(scene):
        work = Linear(2 * scene.scale * WIDE, WIDE, batch, "bf16")
        yield _arm("linear", "linear", work, factors={"batch": batch})
    for batch in CACHE_BATCHES:
        cache = _cache(scene.scale * BATCH_CONTEXT, batch=batch, kv="bf16")
        yield _arm("attention", "attention", cache, factors={"batch": batch})


def _overhead(scene: Scene) -> Iterator[Arm]:
    works: list[Work] = [
        *(Linear(scene.scale * n, WIDE, weight="f32") for n in (256, 1024, WIDE, 3 * WIDE)),
        *(Linear(scene.scale * WIDE, WIDE, m, "f32") for m in (16, 64)),
        *(_plain_cache(scene, context) for context in (512, 2048, CONTEXT)),
        Step("tiny", context=256, weight=scene.floats, kv=scene.floats),
        Step(SUITE_MODEL, context=512, weight=scene.floats, kv=scene.floats, layers=2),
    ]
    for work in works:
        operations = sum(op.count for op in work.operations) if isinstance(work, Step) else 1
        yield _arm("plain", "suite", work, factors={"operations": operations})
        if GRAPH in scene.variants:
            yield _arm("graph", "suite", work, factors={"operations": operations}, variant=GRAPH)


def _counterexamples(scene: Scene) -> Iterator[Arm]:
    for tokens in PROMPT_DOSES:
        prompt = Prefill(PROMPT_MODEL, tokens=tokens, weight="f32", kv="f32", layers=1)
        yield _arm("prefill", "prefill", prompt, factors={"dose": tokens})
    for rows in LARGE_BATCHES:
        work = Linear(WIDE, WIDE, rows, "f32")
        yield _arm("large_batch", "large_batch", work, factors={"dose": rows})
    for heads in LATENT_HEADS:
        latent = LatentAttention(CONTEXT, heads)
        yield _arm("latent_attention", "latent_attention", latent, factors={"dose": heads})


def _expert_dose(scene: Scene) -> Iterator[Arm]:
    for weight in EXPERT_FORMATS:
        for distinct in EXPERT_DOSES:
            work = RoutedExperts(
                hidden=EXPERT_HIDDEN,
                width=scene.scale * EXPERT_WIDTH,
                count=EXPERTS,
                chosen=EXPERT_CHOICE,
                batch=EXPERT_BATCH,
                weight=weight,
                distinct=distinct,
            )
            name = f"experts_{weight}"
            yield _arm(name, name, work, factors={"distinct": distinct})


def _query_dose(scene: Scene) -> Iterator[Arm]:
    cache = _plain_cache(scene, CONTEXT)
    for queries in QUERY_DOSES:
        experts = RoutedExperts(
            hidden=EXPERT_HIDDEN,
            width=scene.scale * EXPERT_WIDTH,
            count=EXPERTS,
            chosen=EXPERT_CHOICE,
            batch=queries,
            weight="f32",
        )
        works: dict[str, Work] = {
            "dense": Linear(scene.scale * WIDE, WIDE, queries, "f32"),
            "attention": replace(cache, queries=queries),
            "experts": experts,
        }
        for name, work in works.items():
            yield _arm(name, name, work, factors={"queries": queries})


def _context_dose(scene: Scene) -> Iterator[Arm]:
    for heads, context in SHARED_HEADS:
        shared, whole = (_plain_cache(scene, context, one) for one in (heads, Q_HEADS))
        factors: dict[str, float | str] = {"context": context, "whole_bytes": whole.traffic.total_bytes}
        yield _arm("heads", "heads", shared, factors=factors)
    for name, (model, batch) in CONTEXT_MODELS.items():
        for context in CONTEXT_DOSES:
            step = Step(model, scene.scale * batch, context, scene.floats, scene.floats)
            factors = {"context": context, "whole_bytes": whole_bytes(step)}
            yield _arm(name, name, step, factors=factors)


def whole_bytes(step: Step) -> int:
    """What a step of such a model would move if all its layers saw every token, with a cache in place of each state."""
    decoder = step.shape.decoder
    more = unheld(decoder).cached_numbers(step.context) - decoder.cached_numbers(step.context)
    cached = more * FORMATS[step.kv].bits // 8
    return step.traffic.total_bytes + step.batch * (cached - sum(decoder.state_bytes))


def _clocks(scene: Scene) -> Iterator[Arm]:
    yield _arm("observed", "observed", Linear(scene.scale * WIDE, WIDE, weight="f32"))
    yield _arm("observed", "observed", _plain_cache(scene, CONTEXT))


def _stored(scene: Scene) -> Iterator[Arm]:
    """Experiment 9 reads what other runs have stored."""
    yield from ()


_MAKERS: dict[int, Callable[[Scene], Iterator[Arm]]] = {
    1: _free_compute,
    2: _byte_dose,
    3: _flop_dose,
    4: _theft,
    5: _residency,
    6: _batch_knee,
    7: _overhead,
    8: _clocks,
    9: _stored,
    10: _counterexamples,
    11: _expert_dose,
    12: _query_dose,
    13: _context_dose,
}
