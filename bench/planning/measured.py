"""Published measurements as rows that predictions learn from: text of many forms, shapes and devices looked up.

>>> from membound.results.predict.catalogue import load_catalogue
>>> rows, refused = measured_rows(load_catalogue())
>>> sorted({row.group for row in rows})
['parallel', 'served', 'single']

A file of a user's has the columns of results/predict/measured.csv; `left_out` and `note` may be missing.
"""

from __future__ import annotations

import csv
import re
import tomllib
from pathlib import Path

from membound.bench.planning.demands import arithmetic_of, storage_of
from membound.errors import MemboundError
from membound.kernels.model import ModelError
from membound.kernels.models import MODELS
from membound.kernels.parts import Decoder
from membound.kernels.served import WEIGHT_BITS
from membound.kernels.shapes import ALIASES, SHAPES, shape_by_size, shape_of
from membound.kernels.work import SpecError
from membound.results.fields import short
from membound.results.predict import catalogue as catalogues
from membound.results.predict.catalogue import Catalogue, HardwareError
from membound.results.predict.demand import Demand, Measured, Offer

BUILT_IN = Path(catalogues.__file__).with_name("measured.csv")
ENGINES = tomllib.loads(BUILT_IN.with_name("engines.toml").read_text(encoding="utf-8"))
NEEDED = (
    "id", "model", "params_b", "weights", "batch_or_concurrency", "input_tokens", "output_tokens",
    "hardware", "n_devices", "engine", "value", "unit", "kind", "source", "date",
)  # fmt: skip
SHORT_PROMPT, CHAT_PROMPT, SHORT_OUTPUT = 16.0, 100.0, 128.0
"""Tokens of a prompt that is called short, or a chat's; and of an output that is not stated."""
ONE_DIE = re.compile(r"\bone (GCD|die|tile)\b", re.I)
"""A note that says so: the row is of one of the dies that software sees as devices of their own."""
FORMATS = (
    ("q4_k_m", "q4_k_m"), ("q4_0", "q4_0"), ("q8_0", "q8_0"), ("q4", "q4_k_m"), ("int4", "int4g32"),
    ("mxfp4", "mxfp4"), ("fp4", "nvfp4"), ("fp8", "fp8"), ("w8a8", "int8"), ("int8", "int8"),
    ("bf16", "bf16"), ("f16", "f16"), ("fp16", "f16"), ("f32", "f32"),
)  # fmt: skip
"""What a column of weights may say, and the format that it means."""


MOST = {"n_devices": 1e6, "batch_or_concurrency": 1e6, "params_b": 1e5, "value": 1e15}
"""What no measurement has more of, by column."""
MOST_TOKENS, MOST_FILE_GB = 1e9, 1e6


class MeasuredError(MemboundError, ValueError):
    """A file of measurements is malformed; the message names the line."""


def measured_rows(
    catalogue: Catalogue, path: Path = BUILT_IN
) -> tuple[list[Measured], list[tuple[str, str]]]:
    """(rows that can be used, (id, reason) of those that cannot). Raises MeasuredError, OSError."""
    lines = _lines(path)
    rows, refused = [], []
    for line in lines:
        try:
            rows.append(_row(line, catalogue))
        except (HardwareError, MeasuredError, ModelError, SpecError) as error:
            refused.append((line["id"] or "?", str(error)))
    if not rows:
        raise MeasuredError(
            f"{path} has no row that can be used; the first: {refused[0][1] if refused else 'none'}"
        )
    return rows, refused


def _lines(path: Path) -> list[dict[str, str]]:
    """The lines by column; what a line lacks is empty. Raises MeasuredError, OSError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise MeasuredError(f"{path} lacks the columns {', '.join(missing)}")
            return list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise MeasuredError(f"{path} is no CSV in UTF-8: {error}") from None


def _row(line: dict[str, str], catalogue: Catalogue) -> Measured:
    if line.get("left_out"):
        raise MeasuredError(line["left_out"])
    device = catalogue.find(line["hardware"])
    bandwidth = device.bandwidth_bytes_per_s
    if bandwidth is None:
        raise HardwareError(f"the bandwidth of {device.id} is unknown")
    engine, devices = line["engine"].casefold(), _number(line, "n_devices")
    if ONE_DIE.search(line.get("note") or ""):
        devices /= device.chips
    batch = _number(line, "batch_or_concurrency")
    demand = _demand(line, batch)
    group = "single" if devices <= 1 and batch == 1 else "parallel" if batch == 1 else "served"
    peak = device.peak(demand.arithmetic)
    offer = Offer(
        kind=device.kind,
        bandwidth_bytes_per_s=bandwidth,
        flops_per_s=peak[1] if peak else None,
        devices=devices,
        link_bytes_per_s=device.peer_bytes_per_s,
        graphs=any(name in engine for name in ENGINES["graphs"]) or line["date"] >= ENGINES["graphs_since"],
        served=any(name in engine for name in ENGINES["served"]),
    )
    label = f"{line['model']} {line['weights']}, {line['engine']}"
    seconds = _seconds(line, demand, batch)
    return Measured(line["id"], device.id, group, demand, offer, seconds, line["source"], label)


def _demand(line: dict[str, str], batch: float) -> Demand:
    shape, weight = _shape(line), _format(line["weights"])
    prompt = _tokens(line["input_tokens"], SHORT_PROMPT)
    output = _tokens(line["output_tokens"], SHORT_OUTPUT)
    context = prompt + output / 2
    cache = 2.0 * shape.cached_numbers(round(context))
    file_gb = re.search(r"\(([0-9]{1,9}(?:\.[0-9]{1,9})?) GB\)", line["weights"])
    if file_gb and not 0 < float(file_gb[1]) <= MOST_FILE_GB:
        raise MeasuredError(f"weights {short(line['weights'])} are a file of no size that a model has")
    streamed = shape.streamed_weights(max(1, round(batch))) * WEIGHT_BITS[weight] / 8
    together = "throughput" in line.get("metric", "") and batch > 1
    return Demand(
        work=f"step:model={shape.name},batch={batch:g},weight={weight}",
        kind="decode",
        storage=storage_of(weight),
        arithmetic=arithmetic_of(weight, "float"),
        mixture=shape.experts,
        weights_bytes=float(file_gb[1]) * 1e9 if file_gb and not shape.experts else streamed,
        cache_bytes=batch * cache,
        flops=batch * (2 * shape.token_weights + shape.attention_flops(round(context))),
        layers=len(shape.layers),
        hidden=shape.hidden,
        batch=batch,
        resident_bytes=shape.stored_weights * WEIGHT_BITS[weight] / 8,
        token_cache_bytes=cache / (context + 1),
        context=context,
        prompt_flops=2 * batch * shape.token_weights * prompt / output if together else 0.0,
    )


def _seconds(line: dict[str, str], demand: Demand, batch: float) -> float:
    """Seconds of a step from what was published: a rate of one sequence or of all, a time, or bytes a second."""
    value, unit = _number(line, "value"), line["unit"]
    if unit == "ms":
        return value / 1e3
    if unit == "GB/s":
        return demand.weights_bytes / (value * 1e9)
    if unit in ("tok/s", "tok/s total"):
        return batch / value
    raise MeasuredError(f"unit {unit!r} is not one of tok/s, tok/s total, ms, GB/s")


def _shape(line: dict[str, str]) -> Decoder:
    """The shape of a model as people write its name, ``DeepSeek-R1-671B``; else one of its size. Raises SpecError."""
    name = "-".join(line["model"].casefold().split())
    for known in sorted((*ALIASES, *SHAPES, *MODELS), key=len, reverse=True):
        if name.startswith(known):
            return shape_of(known)
    try:
        size = float(line["params_b"])
    except ValueError:
        return shape_of(name)
    if not 0 < size <= MOST["params_b"]:
        raise MeasuredError(f"params_b {size:g} must be above 0 and at most {MOST['params_b']:g}")
    return shape_by_size(f"{line['model']} (by its size)", size * 1e9)


def _format(text: str) -> str:
    for mark, name in FORMATS:
        if mark in text.casefold():
            return name
    raise MeasuredError(f"weights {text!r} are in no known format")


def _number(line: dict[str, str], name: str) -> float:
    try:
        value = float(line[name])
    except ValueError:
        raise MeasuredError(f"{name} {short(line[name])} is not a number") from None
    if not 0 < value <= MOST[name]:
        raise MeasuredError(f"{name} {value:g} must be above 0 and at most {MOST[name]:g}")
    return value


def _tokens(text: str, otherwise: float) -> float:
    """A count, the middle of a range, or what is usual. ``chat prompts`` are short ones."""
    if text.startswith("chat"):
        return CHAT_PROMPT
    numbers = [float(one) for one in re.findall(r"\d+(?:\.\d+)?", text)]
    if max(numbers, default=0.0) > MOST_TOKENS:
        raise MeasuredError(f"{short(text)} is no number of tokens")
    return sum(numbers) / len(numbers) if numbers else otherwise
