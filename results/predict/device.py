"""A device of the catalogue: figures with their sources, what other sources say, and what is unknown.

>>> from membound.results.predict.catalogue import load_catalogue
>>> device = load_catalogue().find("a100")
>>> device.value("bandwidth_gb_per_s"), device.fields["bandwidth_gb_per_s"].first.trust
(2039.0, 'vendor')
"""

from __future__ import annotations

from dataclasses import dataclass

TRUST = ("vendor", "paper", "measured", "list", "unverified")
"""How far a source is to be believed, best first. `list` is a maintained list that cites vendors."""
FORMATS = ("f32", "tf32", "bf16", "f16", "fp8", "int8", "fp4")
PEAKS = {name: f"{name}_{'tops' if name == 'int8' else 'tflops'}" for name in FORMATS}
"""The field of each format's peak, in 10¹² operations a second."""
FALLBACKS = {
    "f32": ("f32",),
    "bf16": ("bf16", "f16"),
    "f16": ("f16", "bf16"),
    "fp8": ("fp8", "bf16", "f16"),
    "int8": ("int8", "bf16", "f16"),
    "fp4": ("fp4", "fp8", "bf16", "f16"),
}
"""The matrix units that can do an arithmetic, the fastest first: what lacks FP8 multiplies it in 16 bits."""
DISAGREE = 0.05
"""The share by which another source makes a figure a disputed one."""
PCIE_LANE_GB_PER_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
"""One lane, one direction, after the line's code (8b/10b, 128b/130b, FLIT). Source: PCI-SIG, base specification."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where figures come from. `url` and `date` may be ``unknown``."""

    key: str
    title: str
    url: str
    date: str
    trust: str

    @property
    def is_own(self) -> bool:
        """Whether it is a user's file, which has no title but its path."""
        return self.key == self.title


@dataclass(frozen=True, slots=True)
class Figure:
    """One value as its sources have it."""

    value: float | str
    sources: tuple[Source, ...]
    remark: str = ""

    @property
    def trust(self) -> str:
        """That of the best source; ``unverified`` without any."""
        return min((s.trust for s in self.sources), key=TRUST.index, default=TRUST[-1])


@dataclass(frozen=True, slots=True)
class Field:
    """A figure that is used, or None if it is unknown, and what other sources say."""

    first: Figure | None
    others: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """A device: its names, figures by field, formats that it lacks, and the runtimes that take it."""

    id: str
    name: str
    vendor: str
    kind: str
    aliases: tuple[str, ...]
    fields: dict[str, Field]
    lacks: tuple[str, ...]
    route: dict[str, str]
    chips: int
    note: str

    def value(self, field: str) -> float | None:
        """The number of a field; None if it is unknown."""
        found = self.fields.get(field)
        value = found.first.value if found and found.first else None
        return float(value) if isinstance(value, int | float) else None

    def text(self, field: str) -> str:
        """The words of a field; ``unknown`` if there are none."""
        found = self.fields.get(field)
        return str(found.first.value) if found and found.first else "unknown"

    def trust(self, field: str) -> str:
        """That of the value in use; ``unknown`` if there is none."""
        found = self.fields.get(field)
        return found.first.trust if found and found.first else "unknown"

    def dissent(self, field: str) -> list[float]:
        """What sources say that do not speak of something else and are further off than DISAGREE."""
        value, found = self.value(field), self.fields.get(field)
        if value is None or found is None:
            return []
        others = [one.value for one in found.others if not one.remark]
        return [one for one in others if isinstance(one, float) and abs(one - value) > DISAGREE * value]

    @property
    def bandwidth_bytes_per_s(self) -> float | None:
        """Of its memory, on paper."""
        value = self.value("bandwidth_gb_per_s")
        return None if value is None else value * 1e9

    def peak(self, arithmetic: str) -> tuple[str, float] | None:
        """(format, FLOP/s) of the unit that would do this arithmetic; None if no such peak is known."""
        for name in FALLBACKS[arithmetic]:
            value = self.value(PEAKS[name])
            if value is not None:
                return name, value * 1e12
        return None

    @property
    def ridge(self) -> float | None:
        """FLOPs a byte where 16-bit arithmetic and memory take equally long, on paper."""
        peak, bandwidth = self.peak("bf16"), self.bandwidth_bytes_per_s
        return peak[1] / bandwidth if peak and bandwidth else None

    @property
    def peer_bytes_per_s(self) -> float | None:
        """To its neighbours, one direction; through PCIe where no link of their own is known."""
        value = self.value("peer_gb_per_s")
        return self.host_bytes_per_s if value is None else value * 1e9 / 2

    @property
    def host_bytes_per_s(self) -> float | None:
        """To the host's memory over PCIe, one direction."""
        generation, _, lanes = self.text("pcie").partition(" x")
        if not lanes:
            return None
        return PCIE_LANE_GB_PER_S[int(generation)] * int(lanes) * 1e9
