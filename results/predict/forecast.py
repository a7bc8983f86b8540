"""Predictions for a device: time by each of the three models, its interval, the record behind it, and what is missing.

>>> forecast(demand, device, knowledge, Options()).seconds
0.0081...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

from membound.results.predict.capacity import COUNTS, MEMORY_SHARE, Capacity, capacity, fewest_devices
from membound.results.predict.catalogue import HardwareError
from membound.results.predict.demand import Demand, Measured, Offer
from membound.results.predict.device import PEAKS, TRUST, Device
from membound.results.predict.record import MODELS, Errors, Learnt, Record
from membound.results.predict.terms import Parts

FAR = 1.5
"""How many times beyond the largest or below the smallest measured value a prediction is an extrapolation."""
KNEE = 1.5
"""Where doubling the batch no longer multiplies tokens per second by this much, throughput starts to cost latency."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Measured rows, what the models learnt from all of them, and their record."""

    rows: tuple[Measured, ...]
    learn: Callable[[str], Learnt]
    record: Record
    past: Callable[[str, str], tuple[Errors | None, float]]
    """(record, half of the interval in ln(time)) of a group and a model."""

    @classmethod
    def of(cls, rows: Sequence[Measured]) -> Knowledge:
        """Learn from rows. `learn(device)` leaves that device's own rows out, so that no device predicts itself."""
        kept = tuple(rows)
        whole = Learnt.of(kept)
        seen = {row.device for row in kept}
        record = Record.of(kept)

        @cache
        def learn(device: str) -> Learnt:
            return Learnt.of([r for r in kept if r.device != device]) if device in seen else whole

        @cache
        def past(group: str, model: str) -> tuple[Errors | None, float]:
            return record.errors(group, model), record.half_width(group, model)[0]

        return cls(kept, learn, record, past)


@dataclass(frozen=True, slots=True)
class Options:
    """How a work is served: devices (None: the fewest that hold it), shares, and figures given by hand."""

    devices: int | None = None
    memory_share: float = MEMORY_SHARE
    offload: float = 0.0
    graphs: bool = True
    link_bytes_per_s: float | None = None
    host_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Timed:
    """What a model says: seconds with the ends of its interval, and its record. None: it lacks a figure of the device."""

    seconds: float | None
    low_s: float = 0.0
    high_s: float = 0.0
    errors: Errors | None = None
    half_width: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """A work on some devices of one kind. `host_s`: weights that come over the host's link. `notes` are for people."""

    device: Device
    demand: Demand
    group: str
    offer: Offer
    capacity: Capacity | None
    parts: Parts
    timed: dict[str, Timed]
    host_s: float
    notes: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float:
        """By the model of three terms, which needs no figure but the bandwidth; or the host's link, if that takes longer."""
        return max(self.parts.seconds, self.host_s)

    @property
    def tokens_per_s(self) -> float:
        """Of all sequences together; of a prompt, its tokens."""
        return self.demand.batch / self.seconds


def forecast(demand: Demand, device: Device, known: Knowledge, options: Options) -> Forecast:
    """Predict a work on a device. Raises HardwareError that names the figure that is missing, or that nothing fits."""
    room = room_of(demand, device, options)
    offer = offer_of(demand, device, options, room.devices if room else options.devices or 1)
    group = group_of(demand, offer)
    learnt = known.learn(device.id)
    host = _host_s(demand, device, offer, options)
    timed = {model: _timed(model, group, demand, offer, learnt, known, host) for model in MODELS}
    return Forecast(
        device=device,
        demand=demand,
        group=group,
        offer=offer,
        capacity=room,
        parts=learnt.terms.parts(demand, offer),
        timed=timed,
        host_s=host,
        notes=tuple(_notes(demand, device, offer, group, known, room)),
    )


def room_of(demand: Demand, device: Device, options: Options) -> Capacity | None:
    """Capacity on as many devices as asked, or the fewest; None if the memory is unknown. Raises HardwareError."""
    memory = device.value("memory_gb")
    if memory is None:
        return None
    share, offload = options.memory_share, options.offload
    count = options.devices or fewest_devices(demand, memory * 1e9, share, offload)
    need = demand.resident_bytes * (1 - offload) + demand.needed_bytes - demand.resident_bytes
    if count is None:
        raise HardwareError(
            f"{demand.work} needs {need / 1e9:.4g} GB and fits on no {COUNTS[-1]} {device.id} with {memory:g} GB each"
            "; take a smaller batch, context or format, or --offload"
        )
    found = capacity(demand, memory * 1e9, count, share, offload)
    if not found.fits:
        fewest = fewest_devices(demand, memory * 1e9, share, offload)
        raise HardwareError(
            f"{demand.work} needs {need / 1e9:.4g} GB and does not fit on {count} × {device.id}, of whose "
            f"{count * memory:g} GB an engine may use {found.usable_bytes / 1e9:.4g}; "
            + (f"{fewest} would hold it" if fewest else "no number of them that is tried would hold it")
        )
    return found


def offer_of(demand: Demand, device: Device, options: Options, devices: float) -> Offer:
    """What the device offers for this work. Raises HardwareError if its bandwidth is unknown."""
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None:
        others = device.fields.get("bandwidth_gb_per_s")
        said = " or ".join(f"{one.value:g}" for one in others.others) if others else ""
        raise HardwareError(
            f"the bandwidth of {device.id} is unknown" + (f" (sources say {said} GB/s)" if said else "")
            + f"; give it in a file for --hardware: [device.{device.id}] bandwidth_gb_per_s = …"
        )  # fmt: skip
    peak = device.peak(demand.arithmetic)
    return Offer(
        kind=device.kind,
        bandwidth_bytes_per_s=bandwidth,
        flops_per_s=peak[1] if peak else None,
        devices=devices,
        link_bytes_per_s=options.link_bytes_per_s or device.peer_bytes_per_s,
        graphs=options.graphs,
        served=demand.kind == "decode" and demand.batch > 1,
    )


def group_of(demand: Demand, offer: Offer) -> str:
    """The works whose record counts: single, parallel, served, prefill or operation."""
    if demand.kind != "decode":
        return demand.kind
    return "served" if demand.batch > 1 else "parallel" if offer.devices > 1 else "single"


def _host_s(demand: Demand, device: Device, offer: Offer, options: Options) -> float:
    if not options.offload:
        return 0.0
    link = options.host_bytes_per_s or device.host_bytes_per_s
    if link is None:
        raise HardwareError(f"the PCIe link of {device.id} is unknown; give it: --host-link GB/s")
    return options.offload * demand.weights_bytes / (offer.devices * link)


def _timed(
    model: str, group: str, demand: Demand, offer: Offer, learnt: Learnt, known: Knowledge, host_s: float
) -> Timed:
    """A model's time; weights from the host arrive while the device computes, so that the longer of both counts."""
    seconds = learnt.seconds(model, group, demand, offer)
    errors, width = known.past(group, model)
    if seconds is None:
        return Timed(None, errors=errors)
    seconds = max(seconds, host_s)
    return Timed(seconds, seconds * math.exp(-width), seconds * math.exp(width), errors, width)


def _notes(
    demand: Demand, device: Device, offer: Offer, group: str, known: Knowledge, room: Capacity | None
) -> list[str]:
    """What is missing, and where the prediction leaves what was measured."""
    notes = []
    if room is None:
        notes.append(f"the memory of {device.id} is unknown, so whether it fits was not checked")
    if offer.flops_per_s is None:
        notes.append(f"no {demand.arithmetic} peak of {device.id} is known, so arithmetic counts as free")
    notes += _doubts(device, demand)
    if offer.devices > 1 and offer.link_bytes_per_s is None:
        notes.append("the link between the devices is unknown: only the latency of its all-reduces counts")
    peers = [row for row in known.rows if row.group == group]
    if not peers:
        return [*notes, f"extrapolation: no {group} was measured; the interval is that of all decoding"]
    if device.kind not in {row.offer.kind for row in peers}:
        notes.append(f"extrapolation: no device of kind {device.kind} was measured in this group")
    for name, value, seen in (
        ("the number of devices is", offer.devices, [r.offer.devices for r in peers]),
        ("the batch is", demand.batch, [r.demand.batch for r in peers]),
        ("the context is", demand.context, [r.demand.context for r in peers]),
        ("the bandwidth is", offer.bandwidth_bytes_per_s, [r.offer.bandwidth_bytes_per_s for r in peers]),
        ("the bytes are", demand.bytes, [r.demand.bytes for r in peers]),
    ):
        if not min(seen) / FAR <= value <= max(seen) * FAR:
            notes.append(f"extrapolation: {name} far outside what was measured in this group")
    return notes


def _doubts(device: Device, demand: Demand) -> list[str]:
    """Figures of the catalogue that nobody vouches for, and a bandwidth on which its sources disagree."""
    peak = device.peak(demand.arithmetic)
    used = {"bandwidth": "bandwidth_gb_per_s", "memory": "memory_gb"}
    used |= {f"{peak[0]} peak": PEAKS[peak[0]]} if peak else {}
    rumoured = [what for what, field_ in used.items() if _is_rumour(device, field_)]
    found = (
        [f"unverified in the catalogue: the {' and the '.join(rumoured)} of {device.id}"] if rumoured else []
    )
    dissent = device.dissent("bandwidth_gb_per_s")
    if dissent:
        said = ", ".join(f"{one:g}" for one in dissent)
        found.append(f"on the bandwidth of {device.id} sources disagree: {said} GB/s by others")
    return found


def _is_rumour(device: Device, field_: str) -> bool:
    """Whether no source of the figure in use is trusted; a user's own file is the user's word."""
    first = device.fields[field_].first if field_ in device.fields else None
    return first is not None and first.trust == TRUST[-1] and not any(one.is_own for one in first.sources)


def sweep(
    make: Callable[[int], Demand], batches: Sequence[int], device: Device, known: Knowledge, options: Options
) -> list[Forecast]:
    """The throughput–latency curve: a forecast for each batch that fits, all on the same number of devices.

    Without a number of devices, the fewest that hold the smallest batch. Raises HardwareError as `forecast` does.
    """
    if options.devices is None:
        room = room_of(make(min(batches)), device, options)
        options = replace(options, devices=int(room.devices) if room else 1)
    found = []
    for batch in batches:
        try:
            found.append(forecast(make(batch), device, known, options))
        except HardwareError:
            if not found:
                raise
            break
    return found


def knee(curve: Sequence[Forecast]) -> Forecast | None:
    """The last point before doubling the batch multiplies throughput by less than KNEE; None if that never happens."""
    for near, far in pairwise(curve):
        doublings = math.log2(far.demand.batch / near.demand.batch)
        if far.tokens_per_s < near.tokens_per_s * KNEE**doublings:
            return near
    return None
