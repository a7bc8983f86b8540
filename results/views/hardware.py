"""Devices for people: a table, one device with all its sources, and how two compare.

>>> from membound.results.predict.catalogue import load_catalogue
>>> catalogue = load_catalogue()
>>> ratio_line(catalogue.find("ascend_910"), catalogue.find("a100"))
'Ascend 910 (2019) is 82 % of an A100 SXM4 80GB in f16*, 60 % in bandwidth* and 40 % in memory*'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from membound.results.predict.condition import number_of, trust_of
from membound.results.predict.device import FORMATS, PEAKS, TRUST, Device, Field, Figure, Source
from membound.results.views.columns import columns, wrapped

SHOWN = {
    "bandwidth_gb_per_s": "GB/s",
    "memory_gb": "GB",
    "f16_tflops": "f16 TF",
    "fp8_tflops": "fp8 TF",
    "int8_tops": "int8 T",
    "tdp_w": "W",
}
LEGEND = (
    "GB/s: memory bandwidth. TF: dense TFLOP/s on paper. ridge: FLOPs a byte where 16-bit arithmetic and memory take "
    "equally long. ?: unknown. *: unverified. ~: sources disagree by more than 5 %. "
    "route: the first that would run it. membound hardware NAME shows every source."
)
SPACED = re.compile(r"[^\w?]")
MOST_COMPARED = 4
"""Devices up to which each pair gets a line."""


def table_lines(devices: Sequence[Device]) -> list[str]:
    """A line for each device."""
    header = ["device", *SHOWN.values(), "ridge", "route"]
    lines = [
        [
            device.id,
            *(short_value(device, field) for field in SHOWN),
            "?" if device.ridge is None else f"{device.ridge:.0f}",
            SPACED.split(next(iter(device.route.values()), "unknown"))[0],
        ]
        for device in devices
    ]
    return [*columns(header, lines, "<" + ">" * (len(header) - 2) + "<"), "", *wrapped(LEGEND)]


def short_value(device: Device, field: str) -> str:
    """A figure with its marks; ``–`` for a format that the device lacks."""
    if field in PEAKS.values() and next(f for f in FORMATS if PEAKS[f] == field) in device.lacks:
        return "–"
    found = device.fields.get(field)
    value = device.value(field)
    if found is None or value is None:
        return "?~" if found and found.others else "?"
    marks = "*" * (device.trust(field) == TRUST[-1]) + "~" * bool(device.dissent(field))
    return f"{value:.6g}{marks}"


def device_lines(device: Device) -> list[str]:
    """One device: each figure with its sources, what others say, links and routes."""
    lines = [f"{device.name} ({device.id}), {device.vendor}, {device.kind}"]
    lines += [f"also: {', '.join(device.aliases)}"] if device.aliases else []
    lines += [""]
    for field in (
        *dict.fromkeys(("year", *SHOWN, *PEAKS.values())),
        "llc_mb",
        "link",
        "pcie",
        "peer_gb_per_s",
    ):
        lines += _field_lines(device, field)
    ridge = "unknown" if device.ridge is None else f"{device.ridge:.0f} FLOPs a byte in 16 bits"
    lines += [f"ridge: {ridge}"]
    host = device.host_bytes_per_s
    lines += [f"host link: {host / 1e9:.3g} GB/s each way"] if host else []
    routes = "; ".join(f"{runtime} {value}" for runtime, value in device.route.items()) or "unknown"
    lines += wrapped(f"route here (as documented, not run): {routes}", "  ")
    lines += wrapped(device.note) if device.note else []
    used = dict.fromkeys(s for f in device.fields.values() for one in _figures(f) for s in one.sources)
    lines += ["", "sources", *(text for source in used for text in wrapped(_cited(source), "  "))]
    return lines


def _figures(field: Field) -> Iterable[Figure]:
    return (*((field.first,) if field.first else ()), *field.others)


def _field_lines(device: Device, field: str) -> list[str]:
    form = next((f for f in FORMATS if PEAKS[f] == field), "")
    found = device.fields.get(field)
    if form in device.lacks:
        others = f"; others: {', '.join(map(_said, found.others))}" if found and found.others else ""
        return wrapped(f"{field}: the matrix unit has no {form}{others}", "  ")
    if found is None:
        return [] if field in ("pcie", "peer_gb_per_s", "llc_mb") else [f"{field}: unknown"]
    said = [_said(one) for one in found.others]
    first = _said(found.first) if found.first else "unknown"
    text = f"{field}: {first}" + (f"; others: {', '.join(said)}" if said else "")
    return wrapped(text, "  ")


def _said(figure: Figure) -> str:
    value = figure.value if isinstance(figure.value, str) else f"{figure.value:.8g}"
    keys = " ".join(source.key for source in figure.sources)
    remark = f", {figure.remark}" if figure.remark else ""
    return f"{value} ({figure.trust}: {keys}{remark})"


def _cited(source: Source) -> str:
    return f"{source.key}: {source.title}, {source.url}, {source.date}, {source.trust}"


def ratio_lines(devices: Sequence[Device]) -> list[str]:
    """How each pair compares, arithmetic against bandwidth."""
    return [text for a, b in combinations(devices, 2) for text in wrapped(ratio_line(a, b), "  ")]


def ratio_line(a: Device, b: Device) -> str:
    """One sentence for a pair; ``*`` marks shares of which a figure is unverified."""
    shares = []
    for name, label in (("f16", "f16"), ("fp8", "fp8"), ("bandwidth", "bandwidth"), ("memory", "memory")):
        one, other = number_of(a, name), number_of(b, name)
        if one is not None and other is not None:
            mark = "*" * (TRUST[-1] in (trust_of(a, name), trust_of(b, name)))
            shares.append(f"{one / other:.0%}".replace("%", " %") + f" in {label}{mark}")
        elif name in ("f16", "bandwidth"):
            missing = " and ".join(d.id for d, v in ((a, one), (b, other)) if v is None)
            shares.append(f"unknown in {label} ({missing})")
    text = f"{a.name} is {shares[0]}"
    text = (
        text.replace(" %", f" % of {_article(b.name)}", 1)
        if "%" in text
        else f"{text}, of {_article(b.name)}"
    )
    return ", ".join([text, *shares[1:-1]]) + (f" and {shares[-1]}" if len(shares) > 1 else "")


def _article(name: str) -> str:
    return f"{'an' if (name[:1] in 'AEFHILMNORSX' and name[1:2].isdigit()) or name[:1] in 'AEIO' else 'a'} {name}"


def as_json(device: Device) -> dict[str, Any]:
    """A device with every figure and source."""
    return {
        "id": device.id,
        "name": device.name,
        "vendor": device.vendor,
        "kind": device.kind,
        "aliases": list(device.aliases),
        "chips_per_package": device.chips,
        "lacks": list(device.lacks),
        "route": device.route,
        "note": device.note,
        "ridge_flops_per_byte": device.ridge,
        "fields": {
            name: {
                "value": field.first.value if field.first else None,
                "trust": field.first.trust if field.first else "unknown",
                "sources": [_source_json(s) for s in field.first.sources] if field.first else [],
                "others": [
                    {"value": o.value, "trust": o.trust, "remark": o.remark,
                     "sources": [_source_json(s) for s in o.sources]}
                    for o in field.others
                ],
            }
            for name, field in device.fields.items()
        },
    }  # fmt: skip


def _source_json(source: Source) -> dict[str, str]:
    return {
        "key": source.key,
        "title": source.title,
        "url": source.url,
        "date": source.date,
        "trust": source.trust,
    }
