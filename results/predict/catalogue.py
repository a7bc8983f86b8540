"""The catalogue of devices: hardware.toml beside this file, and a user's own file in the same form.

>>> catalogue = load_catalogue()
>>> catalogue.find("H100").id
'h100_sxm'

A user's file may give plain numbers: ``[device.mine]`` with ``bandwidth_gb_per_s = 900`` and ``memory_gb = 48``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from membound.errors import MemboundError
from membound.results.fields import LARGEST, short
from membound.results.predict.device import PEAKS, TRUST, Device, Field, Figure, Source

BUILT_IN = Path(__file__).with_name("hardware.toml")
RANGES = {
    "year": (1990, 2100, "a year"),
    "bandwidth_gb_per_s": (5, 3e7, "GB/s"),
    "memory_gb": (0.1, 2e4, "GB"),
    "tdp_w": (1, 1e5, "W"),
    "llc_mb": (0.1, 1e5, "MB"),
    "peer_gb_per_s": (0.1, 1e5, "GB/s"),
    **dict.fromkeys(PEAKS.values(), (0.01, 500000.0, "TFLOP/s")),
}
"""The numbers a device can have: (least, most, unit). What lies outside was written in another unit."""
SLIPS = {
    "GB/s": ((1e9, "as bytes a second"),),
    "GB": ((1e9, "as bytes"), (1e6, "in kilobytes")),
    "TFLOP/s": ((1e12, "as single operations"), (1e9, "in GFLOP/s")),
}
"""Other units that a number may have been written in, and what they are divided by."""
WORDS = ("link", "pcie")
SHORTEST_START = 3
"""Letters of a name that is the start of others."""
FASTEST_DRAM_GB_PER_S = 1e5
"""Twelve times the fastest on sale in 2026. What lies above it is SRAM, of whose sizes the next two figures tell."""
SMALL_GB, FASTEST_READ_S = 4.0, 1e-5
"""Memory up to this size may be SRAM; a larger one that is, a whole wafer's, is read in less than this."""
MOST_CHIPS = 1024
PLAIN = ("name", "vendor", "kind", "aliases", "lacks", "route", "chips_per_package", "note")


class HardwareError(MemboundError, ValueError):
    """A device is unknown, lacks a figure that is needed, or a file of devices is malformed."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Devices by id, and the sources of their figures."""

    devices: dict[str, Device]
    sources: dict[str, Source]

    def find(self, name: str) -> Device:
        """A device by id, name, alias, or the start of one, whatever the case.

        Raises HardwareError with the nearest names, or with all that begin so.
        """
        exact = self._called(name)
        if exact:
            return exact[0]
        made = [d.id for d in self.of_vendor(name)]
        if made:
            raise HardwareError(f"{name!r} is a vendor; its devices: {', '.join(made)}")
        family = self.of_family(name)
        if len(family) == 1:
            return family[0]
        if family:
            raise HardwareError(f"{name!r} is several devices, name one: {', '.join(d.id for d in family)}")
        wanted = _plain(name)
        spelt = {_plain(one): one for d in self.devices.values() for one in (d.id, d.name, *d.aliases)}
        close = difflib.get_close_matches(wanted, spelt, 4, 0.5) + [
            n for n in spelt if wanted and wanted in n
        ]
        shown = dict.fromkeys(spelt[one] for one in close[:4])
        near = ", ".join(shown) or "none; `membound hardware` lists all"
        raise HardwareError(f"unknown device {name!r}; nearest: {near}")

    def all_of(self, name: str) -> list[Device]:
        """The device of that name, or all of a vendor or of a family. Raises HardwareError as `find` does."""
        return self._called(name) or self.of_vendor(name) or self.of_family(name) or [self.find(name)]

    def _called(self, name: str) -> list[Device]:
        """The device that is called just so; none if there is none."""
        wanted = _plain(name)
        return [
            d for d in self.devices.values() if wanted in {_plain(one) for one in (d.id, d.name, *d.aliases)}
        ]

    def of_vendor(self, name: str) -> list[Device]:
        """All devices of a vendor, by a word of its name; none if it is not one."""
        wanted = _plain(name)
        return [
            d
            for d in self.devices.values()
            if wanted in {_plain(one) for one in (d.vendor, *d.vendor.split())}
        ]

    def of_family(self, name: str) -> list[Device]:
        """All devices of which a name, also with the vendor before it, begins so: ``EPYC``, ``Hygon DCU``, ``TPU v5``."""
        wanted = _plain(name)
        if len(wanted) < SHORTEST_START:
            return []
        return [
            d
            for d in self.devices.values()
            if any(
                _plain(one).startswith(wanted) for one in (d.id, d.name, f"{d.vendor} {d.name}", *d.aliases)
            )
        ]


def load_catalogue(own: Path | None = None) -> Catalogue:
    """The built-in devices, and before them those of a user's file, whose figures replace built-in ones of the same id.

    Raises HardwareError, OSError.
    """
    built_in = _built_in()
    if own is None:
        return Catalogue(dict(built_in.devices), dict(built_in.sources))
    extra = _read(own, built_in.sources)
    merged = {key: _over(built_in.devices.get(key), device) for key, device in extra.devices.items()}
    for key, device in merged.items():
        _check_bandwidth(f"{own}: device {key}", device)
    return Catalogue(merged | {k: d for k, d in built_in.devices.items() if k not in merged}, extra.sources)


@cache
def _built_in() -> Catalogue:
    return _read(BUILT_IN)


def _over(known: Device | None, own: Device) -> Device:
    """A built-in device with a user's figures, or the user's device as it is."""
    if known is None:
        return own
    return replace(
        known,
        kind=known.kind if own.kind == "unknown" else own.kind,
        fields=known.fields | own.fields,
        lacks=own.lacks or known.lacks,
        note=own.note or known.note,
    )


@cache
def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _read(path: Path, sources: dict[str, Source] | None = None) -> Catalogue:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except ValueError as error:  # of the text, its encoding, or a number of 5000 digits
        raise HardwareError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise HardwareError(f"{path} is nested too deeply") from None
    listed = table.get("source", {})
    devices = table.get("device")
    if not isinstance(devices, dict) or not devices or not isinstance(listed, dict):
        raise HardwareError(f"{path} has no device; write a section such as [device.my_card]")
    own = Source(str(path), str(path), "unknown", "unknown", "unverified")
    known = (sources or {}) | {key: _source(path, key, line) for key, line in listed.items()}
    made = {key: _device(path, key, line, known, own) for key, line in devices.items()}
    return Catalogue(made, known | {own.key: own})


def _source(path: Path, key: str, line: Any) -> Source:
    wanted = ("title", "url", "date", "trust")
    if not isinstance(line, dict) or set(line) != set(wanted) or line["trust"] not in TRUST:
        raise HardwareError(
            f"{path}: source {key} needs title, url, date, and trust, one of {', '.join(TRUST)}"
        )
    return Source(key, *(str(line[name]) for name in wanted))


def _device(path: Path, key: str, line: Any, sources: dict[str, Source], own: Source) -> Device:
    where = f"{path}: device {key}"
    if not isinstance(line, dict):
        raise HardwareError(f"{where} is not a section; write [device.{key}]")
    for name in line:
        if name not in (*PLAIN, *WORDS, *RANGES):
            near = difflib.get_close_matches(name, (*RANGES, *WORDS, *PLAIN), 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join((*RANGES, *WORDS))}"
            raise HardwareError(f"{where}: unknown field {name}{hint}")
    fields = {
        name: Field(*_figures(f"{where}: {name}", name, line[name], sources, own))
        for name in (*RANGES, *WORDS)
        if name in line
    }
    return Device(
        id=key,
        name=_text(where, "name", line.get("name", key)),
        vendor=_text(where, "vendor", line.get("vendor", "unknown")),
        kind=_text(where, "kind", line.get("kind", "unknown")),
        aliases=_texts(where, "aliases", line.get("aliases", [])),
        fields=fields,
        lacks=_texts(where, "lacks", line.get("lacks", [])),
        route=_route(where, line.get("route", {})),
        chips=_chips(where, line.get("chips_per_package", 1)),
        note=_text(where, "note", line.get("note", "")),
    )


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise HardwareError(f"{where}: {name} = {short(value)} is not text")
    return " ".join(value.split("\n"))


def _texts(where: str, name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise HardwareError(f"{where}: {name} = {short(value)} is not a list of texts")
    return tuple(_text(where, f"an entry of {name}", one) for one in value)


def _route(where: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise HardwareError(f"{where}: route = {short(value)} is not a table of texts")
    return {key: _text(where, f"route.{key}", one) for key, one in value.items()}


def _chips(where: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MOST_CHIPS:
        raise HardwareError(
            f"{where}: chips_per_package = {short(value)} is not a whole number from 1 to {MOST_CHIPS}"
        )
    return value


def _figures(where: str, name: str, found: Any, sources: dict[str, Source], own: Source) -> Iterator[Any]:
    """The figure in use or None, then the tuple of the others. Raises HardwareError."""
    entries = found if isinstance(found, list) else [[found]]
    figures = [_figure(where, name, entry, sources, own) for entry in entries]
    if not figures:
        raise HardwareError(f"{where} is an empty list; leave the field out if it is unknown")
    yield figures[0]
    yield tuple(one for one in figures[1:] if one is not None)


def _figure(where: str, name: str, entry: Any, sources: dict[str, Source], own: Source) -> Figure | None:
    if not isinstance(entry, list) or not 1 <= len(entry) <= 3:
        raise HardwareError(f'{where}: {short(entry)} is not [value, "sources", "remark"]')
    value, keys, remark = (*entry, "", "")[:3]
    if value == "unknown":
        return None
    if name in WORDS:
        value = _words(where, name, value)
    else:
        _check_number(where, name, value)
    missing = [key for key in str(keys).split() if key not in sources]
    if missing:
        raise HardwareError(f"{where}: no source is called {', '.join(missing)}")
    named = tuple(sources[key] for key in str(keys).split()) or (own,)
    return Figure(value if isinstance(value, str) else float(value), named, str(remark))


def _words(where: str, name: str, value: Any) -> str:
    generation, _, lanes = str(value).partition(" x")
    whole = lanes.isascii() and lanes.isdecimal() and 1 <= len(lanes) <= 2
    if name == "pcie" and not (generation in "123456" and len(generation) == 1 and whole):
        raise HardwareError(f'{where} = {short(value)} is no generation and lanes, such as "5 x16"')
    return str(value)


def _check_bandwidth(where: str, device: Device) -> None:
    """Raises HardwareError on MB/s, which lie within what SRAM has in GB/s: memory of that size would be a wafer's."""
    rate, size = device.value("bandwidth_gb_per_s"), device.value("memory_gb")
    if rate is None or rate <= FASTEST_DRAM_GB_PER_S:
        return
    if size is not None and (size <= SMALL_GB or size / rate <= FASTEST_READ_S):
        return
    of = "a memory whose size is unknown" if size is None else f"{size:g} GB"
    raise HardwareError(
        f"{where}: bandwidth_gb_per_s = {rate:g} is no figure in GB/s of {of}; written in MB/s? Then it is {rate / 1e3:g}"
    )


def _check_number(where: str, name: str, value: Any) -> None:
    low, high, unit = RANGES[name]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise HardwareError(f"{where} = {short(value)} is not a number of {unit}")
    if abs(value) > LARGEST:
        raise HardwareError(f"{where} = {short(value)} is no figure in {unit} ({low:g} to {high:g})")
    if low <= value <= high:
        return
    text = f"{where} = {value:g} is no figure in {unit} ({low:g} to {high:g})"
    for factor, other in (*SLIPS.get(unit, ()), (1e3, "in thousandths"), (1e-3, "in thousands")):
        if low <= value / factor <= high:
            raise HardwareError(f"{text}; written {other}? Then it is {value / factor:g}")
    raise HardwareError(text)
