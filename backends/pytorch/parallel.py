"""A decode step that several processes share (`torch:cpu+tp2`), as the worker sees it: what it asks of `Ranks`, and what they exchanged.

>>> shared = Parallel(ranks=2, threads=1)
>>> shared.prepare(work, inputs)
>>> shared.launch(); shared.sync()
>>> shared.settings()["ranks"]["all_reduces"]
32
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import Limit
from membound.backends.pytorch.ranks import Fetch, Launch, Prepare, Ranks, Reduce
from membound.errors import BackendUnavailable
from membound.kernels.inputs import ModelInputs
from membound.kernels.split import Exchanges, exchanges, ring_bytes
from membound.kernels.steps import Step

NUMBER_BYTES = {"f32": 4, "bf16": 2, "f16": 2}
"""Of a summand: torch's products have the dtype of the weights."""
SMALL_BYTES, SMALL_TIMES = 4, 100
LARGE_BYTES, LARGE_TIMES = 8 << 20, 7
"""All-reduces that take latency alone, and that take bandwidth."""
MOST_LAUNCHES = 1000
"""Launches whose times are kept."""


def check_ranks(ranks: int, threads: int) -> None:
    """Raises BackendUnavailable where that many ranks cannot share the threads, or torch has no way for them to talk."""
    from torch import distributed

    if threads < ranks:
        raise BackendUnavailable(
            f"{ranks} ranks take a thread each, and there are {threads}", f"--threads {ranks}"
        )
    if threads % ranks:
        raise BackendUnavailable(f"{ranks} ranks do not divide {threads} threads")
    if not distributed.is_available() or not distributed.is_gloo_available():
        raise BackendUnavailable("this torch is built without gloo, by which ranks talk to each other")


class Parallel:
    """The ranks of one device, started when they are needed first."""

    def __init__(self, ranks: int, threads: int) -> None:
        self.ranks = Ranks(ranks, threads // ranks)
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
            inputs.cache(0)  # computed once, and kept where ranks find it
        folder = str(inputs.folder) if inputs.folder else ""
        stored = sum(int(part) for part in self.ranks.ask(Prepare(work.spec, inputs.seed, folder)))
        small, _ = self.ranks.ask(Reduce(SMALL_BYTES, SMALL_TIMES))[0]
        large, _ = self.ranks.ask(Reduce(LARGE_BYTES, LARGE_TIMES))[0]
        latency_s = median(small)
        self._link = {
            "latency_s": latency_s,
            "bytes_per_s": ring_bytes(self.ranks.count, LARGE_BYTES)
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

    def limits(self) -> Iterator[Limit]:
        """The link: large all-reduces between the same ranks."""
        given: list[float] = []

        def launch(_: int) -> None:
            given[:] = [found for _, found in self.ranks.ask(Reduce(LARGE_BYTES, 1))]

        config = {"variant": f"gloo, {self.ranks.count} ranks", "array_bytes": LARGE_BYTES, "arrays": 1}
        yield Limit(
            "all_reduce",
            ring_bytes(self.ranks.count, LARGE_BYTES),
            "bytes/s",
            config,
            launch,
            lambda: given == [float(self.ranks.count)] * self.ranks.count,
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
