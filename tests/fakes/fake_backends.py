"""Backends that do right, wrong or harm, registered as a distribution of their own would register them.

>>> install(tmp_path, monkeypatch)          # for this process and for the workers it spawns
>>> execute(make_plan(["ok:cpu", "segv:cpu"], ["linear:n=8,k=32"], ...), ...)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.backends import registry
from membound.backends.api import Accelerator, Backend, Device, Limit, Tokens
from membound.errors import BackendUnavailable
from membound.kernels import prompt, reference
from membound.kernels.inputs import Inputs, ModelInputs
from membound.kernels.weights import generate
from membound.kernels.work import Work

if TYPE_CHECKING:
    import pytest  # workers import this module too, and do without


class Ok(Backend):
    """The reference itself, so that it is right by definition; prints to disturb the protocol."""

    def open(self, device: str, threads: int) -> Device:
        if device not in ("cpu", "cpu+twin"):
            raise BackendUnavailable(f"no device {device!r}", "pip install another-machine")
        return Device("whatever", "a fake processor", threads, {"fake": "1.2"})

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu", "cpu+twin", "npu"]

    def supports(self, work: Work) -> str | None:
        return None if work.kind == "linear" else f"{work.kind} is not faked"

    def prepare(self, work: Work, inputs: Inputs) -> None:
        print('{"event": "end"}', flush=True)
        os.write(1, b"a C library's noise\n")
        self.outputs = [reference.compute(inputs, s).astype(np.float32) for s in range(inputs.slots)]

    def launch(self, slot: int) -> None:
        self.slot = slot

    def sync(self) -> None:
        pass

    def output(self) -> npt.NDArray[np.float32]:
        return self.outputs[self.slot]


class Draws(Ok):
    """Notes in $FAKE_DRAWS which weights its process draws while it prepares."""

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu", "cpu+twin", "cpu+third"]

    def open(self, device: str, threads: int) -> Device:
        return super().open("cpu", threads)

    def prepare(self, work: Work, inputs: Inputs) -> None:
        real = generate._draw_weight

        def drawn(fmt: str, n: int, k: int, stream: int, gain: int) -> Any:
            with open(os.environ["FAKE_DRAWS"], "a", encoding="utf-8") as file:
                file.write(f"{stream}\n")
            return real(fmt, n, k, stream, gain)

        generate._draw_weight = drawn
        try:
            super().prepare(work, inputs)
        finally:
            generate._draw_weight = real


class DiesOnce(Ok):
    """Killed in the middle of what it writes for others, the first time."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        killed, pwrite = Path(os.environ["FAKE_DRAWS"] + "-killed"), os.pwrite

        def write(file: int, data: Any, start: int) -> int:
            if len(data) > 100_000 and not killed.exists():
                pwrite(file, data[:50_000], start)
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return pwrite(file, data, start)

        os.pwrite = write
        super().prepare(work, inputs)


class Wrong(Ok):
    """Off by a little more than any rounding."""

    def output(self) -> npt.NDArray[np.float32]:
        return super().output() * np.float32(1.1)


class LaterWrong(Ok):
    """Right at first, wrong once it is timed, as a race or a reused buffer would be."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        super().prepare(work, inputs)
        self.launches = 0

    def launch(self, slot: int) -> None:
        super().launch(slot)
        self.launches += 1
        if self.launches == 5:
            self.outputs = [-y for y in self.outputs]


class NotFinite(Ok):
    """One value of the output is not a number."""

    def output(self) -> npt.NDArray[np.float32]:
        y = super().output().copy()
        y.flat[-1] = np.nan
        return y


class Crash(Ok):
    """Dies of a segmentation fault on m = 13, after a last word."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        if getattr(work, "m", 0) == 13:
            print("about to touch address zero", file=sys.stderr, flush=True)
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
        super().prepare(work, inputs)


class Killed(Ok):
    """Killed from outside, as by the kernel when memory runs out; a forked child holds the pipe."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        if getattr(work, "m", 0) == 13:
            if os.fork() == 0:
                signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)
        super().prepare(work, inputs)


class Exits(Ok):
    """A library that calls exit in open."""

    def open(self, device: str, threads: int) -> Device:
        print("licence server not found", file=sys.stderr, flush=True)
        os._exit(3)


class Hang(Ok):
    """Hangs on m = 13 with a process of its own, whose id goes to $FAKE_CHILD."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        if getattr(work, "m", 0) == 13:
            pause = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
            child = subprocess.Popen(pause)
            Path(os.environ["FAKE_CHILD"]).write_text(f"{child.pid} {os.getpid()}", encoding="utf-8")
            signal.pause()
        super().prepare(work, inputs)


class OutOfMemory(Ok):
    """Asks for more than any machine has, on m = 13."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        if getattr(work, "m", 0) == 13:
            self.hoard: Any = np.empty(1 << 60, np.uint8)
        super().prepare(work, inputs)


class Raises(Ok):
    """Raises a class of its own, with a long message."""

    class RuntimeTroubleError(Exception):
        pass

    def prepare(self, work: Work, inputs: Inputs) -> None:
        raise self.RuntimeTroubleError("kernel not registered\nstack:\n  0 libfake.so")


class Gpu(Ok):
    """An accelerator with a clock of its own on which a launch takes 1 ms, and a read ceiling that is far too low."""

    def open(self, device: str, threads: int) -> Device:
        self.now_s, self.plain = 0.0, "+" not in device
        link = "read" if self.plain else "host_to_device_pinned"
        facts = Accelerator(1_000_000, 3000, 4, "1.0", "0000:01:00.0")
        return Device("whatever", "a fake GPU", threads, {}, facts, link)

    @classmethod
    def devices(cls) -> list[str]:
        return ["gpu:0", "gpu:0+offload"]

    def supports(self, work: Work) -> str | None:
        return None if getattr(work, "m", 0) < 100 else "products this large are not faked"

    def launch(self, slot: int) -> None:
        super().launch(slot)
        self.now_s += 1e-3

    def mark(self) -> object:
        return self.now_s

    def elapsed_s(self, start: Any, end: Any) -> float:
        return float(end - start)

    def limits(self, quick: bool) -> Iterator[Limit]:
        def launch(number: int) -> None:
            self.now_s += 1.0

        for name in ("read", "host_to_device_pinned") if self.plain else ():
            yield Limit(name, 1.0, "bytes/s", {"variant": "fake"}, launch, lambda: True)


class FastGpu(Gpu):
    """Reads the same device's memory twice as fast."""

    def limits(self, quick: bool) -> Iterator[Limit]:
        for limit in super().limits(quick):
            yield replace(limit, amount=2.0)


class Engine(Ok):
    """Chooses tokens and goes on from them, exactly."""

    def supports(self, work: Work) -> str | None:
        return None if getattr(work, "cache", "") == "prompt" else "only steps behind a prompt"

    def prepare(self, work: Work, inputs: Inputs) -> None:
        assert isinstance(inputs, ModelInputs)
        self.inputs = inputs
        self.chosen = np.zeros((inputs.work.batch, 0), np.int64)

    def launch(self, slot: int) -> None:
        fed = np.concatenate([self.chosen, np.zeros((len(self.chosen), 1), np.int64)], axis=1)
        best = prompt.scores(self.inputs, fed)[:, -1:].argmax(-1)
        self.chosen = np.concatenate([self.chosen, best], axis=1)

    def output(self) -> Tokens:  # type: ignore[override]
        return Tokens(self.chosen)

    def settings(self) -> dict[str, Any]:
        return {"steps": self.chosen.shape[1]}


class LateEngine(Engine):
    """Right at first; then one sequence gets a token that is none of the likely ones."""

    def launch(self, slot: int) -> None:
        super().launch(slot)
        if self.chosen.shape[1] == 3:
            self.chosen[-1, -1] = (self.chosen[-1, -1] + 1) % self.inputs.model.vocab


class MuteEngine(Engine):
    """Gives one sequence too few."""

    def output(self) -> Tokens:  # type: ignore[override]
        return Tokens(self.chosen[:-1])


CLASSES = {
    "engine": Engine,
    "lateengine": LateEngine,
    "muteengine": MuteEngine,
    "ok": Ok,
    "draws": Draws,
    "diesonce": DiesOnce,
    "gpu": Gpu,
    "fastgpu": FastGpu,
    "wrong": Wrong,
    "laterwrong": LaterWrong,
    "notfinite": NotFinite,
    "segv": Crash,
    "killed": Killed,
    "exits": Exits,
    "hang": Hang,
    "oom": OutOfMemory,
    "raises": Raises,
}


CACHE = "FAKE_CACHE_BYTES"


def shrink_the_cache(size: int) -> None:
    """Have input sets rotate past a cache of that size, and bytes counted that nobody reads: this machine's takes
    gigabytes to pass, and reading them a kernel to compile."""
    from membound.bench.ceilings import rotating
    from membound.bench.measure import cold_memory

    for module in (rotating, cold_memory):
        module.last_level_cache_bytes = lambda: size  # type: ignore[attr-defined]
    rotating.BYTES_PER_THREAD = size
    cold_memory._reader = lambda threads: lambda: size


if CACHE in os.environ:  # in a worker: tests import this module before they install it
    shrink_the_cache(int(os.environ[CACHE]))


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a distribution with entry points in `folder` and put it on the path of this process and of workers."""
    info = folder / "fake_backends-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-backends\nVersion: 0\n")
    lines = [f"{name} = fake_backends:{cls.__name__}" for name, cls in CLASSES.items()]
    missing = "missing = no_such_module:Backend"
    (info / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *lines, missing]))
    monkeypatch.syspath_prepend(str(folder))
    before = os.environ.get("PYTHONPATH")
    paths = filter(None, (str(folder), str(Path(__file__).parent), before))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv(CACHE, str(1 << 20))
    monkeypatch.setattr(registry, "_entry_points", cache(registry._entry_points.__wrapped__))
