"""Backends that lie about themselves, forge answers, or make trouble at one place; on m = 13, and right on any other work.

>>> install(tmp_path, monkeypatch)          # these and those of fake_backends, for this process and for workers
>>> station.open(Open("liar:cpu+stored_negative", ...))
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import count
from math import inf, nan
from pathlib import Path
from typing import Any

import fake_backends
import numpy as np
import numpy.typing as npt
import pytest

from membound.backends import registry
from membound.backends.api import Accelerator, Device, Limit
from membound.errors import BackendUnavailable
from membound.kernels.inputs import Inputs
from membound.kernels.work import Work


class Dtype:
    """An object of a runtime, which prints as it is called there."""

    def __str__(self) -> str:
        return "torch.bfloat16"


ITSELF: dict[str, Any] = {}
ITSELF["again"] = ITSELF

LIES: dict[str, tuple[str, Any]] = {
    "stored_negative": ("stored_bytes", -5),
    "stored_float": ("stored_bytes", 1.5),
    "stored_huge": ("stored_bytes", 10**40),
    "stored_text": ("stored_bytes", "many"),
    "stored_true": ("stored_bytes", True),
    "exchanged_negative": ("exchanged_bytes", -1),
    "exchanged_numpy": ("exchanged_bytes", np.int64(77)),
    "helpers_text": ("helpers", "all of them"),
    "helpers_names": ("helpers", ["init"]),
    "helpers_strangers": ("helpers", [1]),
    "helpers_itself": ("helpers", [os.getpid()]),
    "stored_numpy": ("stored_bytes", np.int64(12345)),
    "stored_unsigned": ("stored_bytes", np.uint8(255)),
    "settings_numpy": (
        "settings",
        {"f": np.float32(0.5), "i": np.int64(7), "b": np.bool_(True), "a": np.arange(3), "s": np.str_("x")},
    ),
    "settings_nan": (
        "settings",
        {"threshold": nan, "limits": [np.float64(-inf), 1.0], "deep": {"x": np.nan}},
    ),
    "settings_objects": ("settings", {"dtype": Dtype(), 5: Path("/a"), "set": {3}, "none": None, "c": 1j}),
    "settings_surrogate": ("settings", {"file \udcff": "name \udcff"}),
    "settings_named_as_ours": ("settings", {"working_set_bytes": -1, "threads": "auto", "work": 5}),
    "settings_list": ("settings", [1, 2]),
    "settings_none": ("settings", None),
    "settings_itself": ("settings", ITSELF),
    "settings_long": ("settings", {"text": "x" * (5 << 20)}),
    "time_zero": ("elapsed_s", 0.0),
    "time_negative": ("elapsed_s", -1e-3),
    "time_nan": ("elapsed_s", nan),
    "time_infinite": ("elapsed_s", inf),
    "time_none": ("elapsed_s", None),
    "time_text": ("elapsed_s", "1 ms"),
    "time_tiny": ("elapsed_s", 1e-300),
    "time_numpy": ("elapsed_s", np.float32(0.25)),
    "output_complex": ("output", None),
    "output_huge": ("output", None),
}
"""What is asked, and what it answers."""


class Liar(fake_backends.Ok):
    """Answers what `LIES` has under the variant's name; its device has a clock that advances 1 ms a launch."""

    def open(self, device: str, threads: int) -> Device:
        self.lie, self.now_s, self.m = device.partition("+")[2], 0.0, 0
        return replace(DEVICES.get(self.lie, DEVICES[""]), threads=threads)

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu", *(f"cpu+{lie}" for lie in DEVICES if lie)]

    def prepare(self, work: Work, inputs: Inputs) -> None:
        super().prepare(work, inputs)
        self.m = getattr(work, "m", 0)

    def launch(self, slot: int) -> None:
        super().launch(slot)
        self.now_s += 1e-3

    def mark(self) -> object | None:
        return self.now_s if self.lie.startswith("time") else None

    def elapsed_s(self, start: Any, end: Any) -> float:
        return self._lie("elapsed_s", float(end - start))  # type: ignore[no-any-return]

    def stored_bytes(self) -> int | None:
        return self._lie("stored_bytes", None)  # type: ignore[no-any-return]

    def exchanged_bytes(self) -> int:
        return self._lie("exchanged_bytes", 0)  # type: ignore[no-any-return]

    def helpers(self) -> Any:
        return self._lie("helpers", ())

    def settings(self) -> dict[str, Any]:
        return self._lie("settings", {"honest": True})  # type: ignore[no-any-return]

    def output(self) -> npt.NDArray[np.float32]:
        y = super().output()
        if self.m != 13:
            return y
        return {"output_complex": y + np.complex64(1j), "output_huge": np.full_like(y, 3e38)}.get(self.lie, y)

    def _lie(self, asked: str, honest: Any) -> Any:
        about, told = LIES.get(self.lie, ("", None))
        return told if about == asked and self.m == 13 else honest


HONEST = Device("whatever", "a fake processor", 1, {"fake": "1.2"})
DEVICES: dict[str, Device] = {
    "": HONEST,
    "name_none": replace(HONEST, name=None),  # type: ignore[arg-type]
    "name_surrogate": replace(HONEST, name="a \udcff processor"),
    "versions_number": replace(HONEST, versions={"fake": 5, 6: None}),  # type: ignore[dict-item]
    "versions_list": replace(HONEST, versions=["fake"]),  # type: ignore[arg-type]
    "ceiling_none": replace(HONEST, memory_ceiling=None),  # type: ignore[arg-type]
    "memory_numpy": replace(HONEST, accelerator=Accelerator(np.int64(10**6), np.uint32(3000), np.int8(4))),  # type: ignore[arg-type]
    "memory_negative": replace(HONEST, accelerator=Accelerator(-1)),
    "memory_float": replace(HONEST, accelerator=Accelerator(1.5)),  # type: ignore[arg-type]
}
"""What `Liar` opens, by the variant's name."""


class Gauge(fake_backends.Gpu):
    """An accelerator whose limits are bad in every way, between two that are good."""

    def limits(self, quick: bool) -> Iterator[Limit]:
        def launch(number: int) -> None:
            self.now_s += 1.0

        def raises() -> bool:
            raise ValueError("cannot be compared")

        good = Limit(
            "read", 2e9, "bytes/s", {"variant": "first", "array_bytes": np.int64(512)}, launch, lambda: True
        )
        yield good
        for name, amount in (("nan", nan), ("negative", -1.0), ("zero", 0), ("huge", 1e40), ("text", "1 GB")):
            yield replace(good, name=name, amount=amount)  # type: ignore[arg-type]
        yield replace(good, name="numpy", amount=np.float32(4e9))
        yield replace(good, name="described", config={"array_bytes": "1 GB"})
        yield replace(good, name="undescribed", config=None)  # type: ignore[arg-type]
        yield replace(good, name="unchecked", check=raises)
        yield replace(good, name="wrong", check=lambda: False)
        yield replace(good, name="read", amount=inf)
        yield replace(good, name="last")
        raise RuntimeError("CUDA out of memory")


class Forger(fake_backends.Ok):
    """Writes lines that look like answers wherever it can: to descriptor 1, and to every pipe that it finds."""

    def prepare(self, work: Work, inputs: Inputs) -> None:
        super().prepare(work, inputs)
        lines = "".join(f'{{"message":"Done","number":{number}}}\n' for number in range(10)).encode()
        os.write(1, lines)
        if getattr(work, "m", 0) == 13:
            for pipe in _pipes():
                os.write(pipe, lines)


def _pipes() -> list[int]:
    """Descriptors of pipes that can be written to; those of standard error aside."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            is_pipe = os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
            writable = fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        except OSError:
            continue
        if is_pipe and writable and int(name) > 2:
            found.append(int(name))
    return found


def _die() -> None:
    print("about to die", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise RuntimeError("trouble")


TROUBLES: dict[str, Callable[[], Any]] = {
    "raise": _raise,
    "unavailable": lambda: (_ for _ in ()).throw(BackendUnavailable("lost the device", "plug it in")),
    "exit": lambda: sys.exit(5),
    "die": _die,
    "hang": signal.pause,
}


class Troubled(fake_backends.Ok):
    """Makes the trouble of its variant's name (``cpu+raise.turn``) at that place.

    Places: open, supports, prepare, launch (the first), turn (the first launch that is timed), output (before the first
    turn), check (after the last), settings, close.
    """

    def open(self, device: str, threads: int) -> Device:
        self.what, _, self.where = device.partition("+")[2].partition(".")
        self.launched = self.shown = self.m = 0
        if self.where == "open":
            TROUBLES[self.what]()
        return HONEST

    def supports(self, work: Work) -> str | None:
        self.m = getattr(work, "m", 0)
        self._at("supports")
        return super().supports(work)

    def prepare(self, work: Work, inputs: Inputs) -> None:
        self._at("prepare")
        super().prepare(work, inputs)

    def launch(self, slot: int) -> None:
        self.launched += 1
        if self.launched in (1, 5):  # one is checked, three are for fitting the burst
            self._at("launch" if self.launched == 1 else "turn")
        super().launch(slot)

    def output(self) -> npt.NDArray[np.float32]:
        self.shown += 1
        self._at("output" if self.shown == 1 else "check")
        return super().output()

    def settings(self) -> dict[str, Any]:
        self._at("settings")
        return {}

    def close(self) -> None:
        self._at("close")

    def _at(self, where: str) -> None:
        if self.where == where and self.m == 13:
            TROUBLES[self.what]()


class Unclosing(fake_backends.Ok):
    """Cannot be closed, ever; otherwise right."""

    def close(self) -> None:
        raise RuntimeError("cannot be closed")


ODD: dict[str, tuple[str, Any]] = {
    "supports_five": ("supports", 5),
    "supports_false": ("supports", False),
    "supports_bytes": ("supports", b"no"),
    "open_none": ("open", None),
    "open_class": ("open", Device),
    "accelerator_dict": ("open", replace(HONEST, accelerator={"memory_bytes": 5})),  # type: ignore[arg-type]
}
"""What is asked, and what it answers, which is of no kind that the contract knows."""


class Odd(fake_backends.Ok):
    """Answers what `ODD` has under the variant's name."""

    def open(self, device: str, threads: int) -> Device:
        self.asked, self.told = ODD.get(device.partition("+")[2], ("", None))
        return self.told if self.asked == "open" else HONEST  # type: ignore[no-any-return]

    def supports(self, work: Work) -> str | None:
        return self.told if self.asked == "supports" else super().supports(work)  # type: ignore[no-any-return]

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu", *(f"cpu+{name}" for name in ODD)]


class Endless(fake_backends.Ok):
    """Lists devices without end."""

    @classmethod
    def devices(cls) -> Any:
        return (f"cpu+{number}" for number in count())


class Deviceless(fake_backends.Ok):
    """Lists no devices that have a name."""

    @classmethod
    def devices(cls) -> Any:
        return [None]


CLASSES = {
    "unclosing": Unclosing,
    "odd": Odd,
    "endless": Endless,
    "deviceless": Deviceless,
    "liar": Liar,
    "gauge": Gauge,
    "forger": Forger,
    "troubled": Troubled,
}


SMALL, CACHE = "FAKE_CACHE", 1 << 16


def _shrink() -> None:
    """Give this process, a worker, a small cache: what it reads to push others' operands out is little then."""
    from membound.bench.ceilings import rotating
    from membound.bench.measure import cold_memory

    for module in (cold_memory, rotating):
        module.last_level_cache_bytes = lambda: CACHE  # type: ignore[attr-defined]
    rotating.BYTES_PER_THREAD = CACHE


if os.environ.get(SMALL):
    _shrink()


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `fake_backends.install`, with these besides; workers that load one of these have a small cache."""
    fake_backends.install(folder, monkeypatch)
    monkeypatch.setenv(SMALL, "1")
    info = folder / "hostile_backends-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-backends\nVersion: 0\n")
    lines = [f"{name} = hostile_backends:{cls.__name__}" for name, cls in CLASSES.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *lines]))
    monkeypatch.setattr(registry, "_entry_points", cache(registry._entry_points.__wrapped__))
