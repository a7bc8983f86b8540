"""A decode step that several processes share (`torch:cpu+tp2`, `torch:cuda:0+tp2`), as the worker sees it: what it asks of `Ranks`.

>>> shared = Parallel(ranks=2, threads=2)
>>> shared.prepare(work, inputs)
>>> shared.launch(); shared.sync()
>>> shared.settings()["ranks"]["all_reduces"]
32
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import Accelerator, Limit
from membound.backends.pytorch.ranks import (
    GLOO,
    CheckLimit,
    Fetch,
    Launch,
    NextLimit,
    Prepare,
    Ranks,
    Reduce,
    RunLimit,
)
from membound.errors import BackendUnavailable
from membound.kernels.inputs import ModelInputs
from membound.kernels.split import Exchanges, exchanges, ring_bytes
from membound.kernels.steps import Step

NUMBER_BYTES = {"f32": 4, "bf16": 2, "f16": 2}
"""Of a summand: torch's products have the dtype of the weights."""
SMALL_BYTES, SMALL_TIMES = 4, 100
LARGE_BYTES, LARGE_TIMES = 8 << 20, 7
DEVICE_BYTES = 256 << 20
"""All-reduces that take latency alone, and that take bandwidth: of processors, of accelerators."""
PASSES = 8
"""Of a ceiling of accelerators in a launch: telling ranks to start takes some tens of microseconds."""
MOST_LAUNCHES = 1000
"""Launches whose times are kept."""


def link_of(device: str) -> str:
    """By what ranks talk to each other there, as torch.distributed names it. Raises BackendUnavailable where it is not built in."""
    from torch import distributed

    link = distributed.get_default_backend_for_device(device) if distributed.is_available() else GLOO
    if not distributed.is_available() or not distributed.is_backend_available(link):
        raise BackendUnavailable(f"this torch is built without {link}, by which ranks talk to each other")
    return link


def accelerators_of(first: str, ranks: int) -> list[str]:
    """One for each rank: the first and those after it. Raises BackendUnavailable where there are too few."""
    import torch

    kind, _, index = first.partition(":")
    count = torch.accelerator.device_count()
    if int(index or 0) + ranks > count:
        raise BackendUnavailable(
            f"{ranks} ranks take an accelerator each, {first} and those after it, and there are {count}"
        )
    return [f"{kind}:{int(index or 0) + rank}" for rank in range(ranks)]


def check_threads(ranks: int, threads: int) -> None:
    """Raises BackendUnavailable where that many ranks cannot share the threads of a processor."""
    if threads < ranks:
        raise BackendUnavailable(
            f"{ranks} ranks take a thread each, and there are {threads}", f"--threads {ranks}"
        )
    if threads % ranks:
        raise BackendUnavailable(f"{ranks} ranks do not divide {threads} threads")


def all_of(facts: Accelerator, ranks: int) -> Accelerator:
    """So many accelerators of a kind as one."""
    return replace(
        facts,
        memory_bytes=ranks * facts.memory_bytes,
        cache_bytes=ranks * facts.cache_bytes,
        compute_units=ranks * facts.compute_units,
    )


class Parallel:
    """The ranks of a step, started when they are needed first: on the processor or, one each, on `devices`."""

    def __init__(self, ranks: int, threads: int, devices: Sequence[str] = (), link: str = GLOO) -> None:
        self.ranks = Ranks(ranks, max(1, threads // ranks), devices=devices, link=link)
        self._on_cpu, self._link_name, self._series = not devices, link, count()
        self._large_bytes = LARGE_BYTES if self._on_cpu else DEVICE_BYTES
        self._work: Step | None = None
        self._times: deque[list[tuple[float, float]]] = deque(maxlen=MOST_LAUNCHES)
        self._launched = 0
        self._link: dict[str, float] = {}

    @property
    def exchanges(self) -> Exchanges | None:
        """What a launch exchanges; None before one is prepared."""
        if self._work is None:
            return None
        return exchanges(self._work, self.ranks.count, NUMBER_BYTES[self._work.weight])

    def prepare(self, work: Step, inputs: ModelInputs) -> int:
        """Have each rank make its part and measure the link between them; bytes of weights that all of them stream."""
        self._work, self._launched = None, 0
        self._times.clear()
        if inputs.prompt_caches is not None:
            inputs.prompt_caches(inputs)  # computed once, and kept where ranks find it
        folder = str(inputs.folder) if inputs.folder else ""
        stored = sum(int(part) for part in self.ranks.ask(Prepare(work.spec, inputs.seed, folder)))
        small, _ = self.ranks.ask(Reduce(SMALL_BYTES, SMALL_TIMES))[0]
        large, _ = self.ranks.ask(Reduce(self._large_bytes, LARGE_TIMES))[0]
        latency_s = median(small)
        self._link = {
            "latency_s": latency_s,
            "bytes_per_s": ring_bytes(self.ranks.count, self._large_bytes)
            / max(median(large) - latency_s, latency_s / SMALL_TIMES),
        }
        self._work = work
        return stored

    def launch(self) -> None:
        """Start a step on all ranks."""
        self.ranks.post(Launch())
        self._launched += 1

    def sync(self) -> None:
        """Wait for it. Raises ProcessEnded, ProcessSilent, and what a rank raised."""
        if not self._launched:
            return
        seconds = self.ranks.sync()
        if seconds and isinstance(seconds[0], tuple) and self._work is not None:
            self._times.append(seconds)

    def output(self) -> npt.NDArray[np.float32]:
        """Logits [batch, vocab] of the last step."""
        logits: npt.NDArray[np.float32] = self.ranks.ask(Fetch())[0]
        return logits

    def limits(self, quick: bool) -> Iterator[Limit]:
        """The link: large all-reduces between the same ranks. Of accelerators all else too, driven by all ranks at once."""
        given: list[float] = []
        times = 1 if self._on_cpu else PASSES

        def launch(_: int) -> None:
            given[:] = [found for _, found in self.ranks.ask(Reduce(self._large_bytes, times))]

        config = {
            "variant": f"{self._link_name}, {self.ranks.count} ranks",
            "array_bytes": self._large_bytes,
            "arrays": 1,
        }
        yield Limit(
            "all_reduce",
            times * ring_bytes(self.ranks.count, self._large_bytes),
            "bytes/s",
            config,
            launch,
            lambda: given == [float(self.ranks.count)] * self.ranks.count,
        )
        if not self._on_cpu:
            yield from self._device_limits(quick)

    def _device_limits(self, quick: bool) -> Iterator[Limit]:
        series = next(self._series)
        while (found := self.ranks.ask(NextLimit(series, quick)))[0] is not None:
            if any(other is None or other[0] != found[0][0] for other in found):
                raise RuntimeError(
                    "the ranks' accelerators are not of one kind: they have different ceilings"
                )
            name, _, unit, config = found[0]
            yield Limit(
                name,
                PASSES * sum(amount for _, amount, _, _ in found),
                unit,
                config | {"ranks": self.ranks.count},
                lambda number: self.ranks.post(RunLimit(series, PASSES * number, PASSES)),
                lambda: all(self.ranks.ask(CheckLimit(series))),
            )

    def settings(self) -> dict[str, Any]:
        """Under `ranks`, what they exchange in a launch, the link as it was at preparing, and medians of what each took."""
        moved = self.exchanges
        if moved is None or not self._times:
            return {}
        working, exchanging = (
            [median(launch[rank][part] for launch in self._times) for rank in range(self.ranks.count)]
            for part in (0, 1)
        )
        return {
            "ranks": {
                "count": self.ranks.count,
                "threads": self.ranks.threads,
                "all_reduces": moved.all_reduces,
                "all_reduce_bytes": moved.all_reduce_bytes,
                "gather_bytes": moved.gather_bytes,
                "link_bytes": moved.link_bytes,
                "working_s": working,
                "exchanging_s": exchanging,
                "link_latency_s": self._link["latency_s"],
                "link_bytes_per_s": self._link["bytes_per_s"],
                "link_measured": "at preparing",
            }
        }

    def close(self) -> None:
        """End the ranks."""
        self.ranks.close()


def parallel_of(
    ranks: int, threads: int, device: str, facts: Accelerator | None
) -> tuple[Parallel, Accelerator | None]:
    """The ranks of a device, and all accelerators that they take as one. Raises BackendUnavailable."""
    if facts is None:
        check_threads(ranks, threads)
        return Parallel(ranks, threads, link=link_of(device)), None
    devices = accelerators_of(device, ranks)
    return Parallel(ranks, threads, devices, link_of(device)), all_of(facts, ranks)
