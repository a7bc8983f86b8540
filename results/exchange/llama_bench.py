"""Results of llama.cpp's ``llama-bench`` as CSV, JSON, JSON lines or SQL: a row a test, by the names of its columns.

>>> rows = rows_of(Source("llama-bench", document))

Columns came and went (``use_mmap`` became ``load_mode``), so they are taken by name and none but those below is needed.
A test of generation (``tg128``) is timed for each token, a step of decoding; its bytes are those of the weights, which the
file gives. The cache is not counted: the file does not say how many layers and heads fill it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import TOLERANCE, Source, custom, number_of, time_of
from membound.results.exchange.moment import moment_of
from membound.results.exchange.sql_rows import rows_of_sql
from membound.results.row import Row, RowError

NEEDED = ("build_commit", "model_type", "n_prompt", "n_gen", "avg_ns", "stddev_ns", "avg_ts")
OUTCOMES = ("test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts")
OF_THE_WORK = ("n_prompt", "n_gen", "n_depth", "model_type", "model_size", "model_n_params", "n_threads")
OF_THE_MACHINE = ("build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename")
TABLE = "llama_bench"
STEADY = 0.1
"""Spread of times, over their mean, up to which the mean of rates is about the rate of the mean."""


def recognises(document: Document) -> bool:
    """Whether it is one of the four kinds of file."""
    return bool(document.records(*NEEDED) or document.table(*NEEDED) or _sql(document))


def _sql(document: Document) -> list[dict[str, Any]]:
    return rows_of_sql(document, TABLE)


def rows_of(source: Source) -> list[Row]:
    """A row for each test. What a sweep varied, beyond the prompt and the like, is part of the work."""
    document = source.document
    found = document.records(*NEEDED) or document.table(*NEEDED) or _sql(document)
    missing = [name for name in NEEDED if name not in found[0]]
    if missing:
        raise RowError(f"its columns lack {', '.join(missing)}")
    fixed = (*OUTCOMES, *OF_THE_WORK, *OF_THE_MACHINE)
    varied = [k for k in found[0] if k not in fixed and len({str(one.get(k)) for one in found}) > 1]
    return [_test(source, one, varied) for one in found]


def _test(source: Source, one: Mapping[str, Any], varied: list[str]) -> Row:
    prompt, generated = _count(one, "n_prompt"), _count(one, "n_gen")
    tokens = prompt + generated
    if not tokens:
        raise RowError("a test without a token")
    decodes = not prompt
    each = generated if decodes else 1
    name = f"tg{generated}" if decodes else f"pp{prompt}" if not generated else f"pp{prompt}+tg{generated}"
    samples = [time_of(ns, "samples_ns") * 1e-9 / each for ns in _list(one.get("samples_ns"))]
    mean_s, deviation_s = (time_of(one[key], key) * 1e-9 / each for key in ("avg_ns", "stddev_ns"))
    row = source.case(
        f"llama.cpp:{_device(one)}",
        custom(
            name,
            kind="llama",
            test=name,
            model=one["model_type"],
            depth=_count(one, "n_depth") or None,
            **{key: one.get(key) for key in varied},
        ),
        samples,
        {"mean": mean_s, "std": deviation_s},
        note=f"each of {generated} tokens" if decodes else "",
        config={key: value for key, value in one.items() if key not in OUTCOMES and value not in ("", None)},
        threads=_count(one, "n_threads"),
        device=str(one.get("gpu_info") or one.get("cpu_info") or "").strip(),
        machine={"cpu": str(one["cpu_info"])} if one.get("cpu_info") else {},
        versions={"llama.cpp": str(one["build_commit"])},
        **_size(one, prompt, decodes),
    )
    row.started_at = moment_of(one.get("test_time"))
    if doubt := _rate_doubt(one, tokens):
        row.config["contradictions"] = [*row.config.get("contradictions", []), doubt]
    return row


def _rate_doubt(one: Mapping[str, Any], tokens: int) -> str:
    """A rate that its times cannot have. It is the mean of the samples' rates, never below the rate of their mean time.

    How far above is known from the samples, or where times hardly spread: one fast sample among slow ones takes it anywhere.
    """
    mean_ns, spread_ns = time_of(one["avg_ns"], "avg_ns"), time_of(one["stddev_ns"], "stddev_ns")
    samples = [time_of(ns, "samples_ns") for ns in _list(one.get("samples_ns"))]
    told = number_of(one["avg_ts"])
    if not mean_ns or told is None:
        return ""
    computed = lowest = highest = tokens / mean_ns * 1e9
    if samples and all(samples):
        highest = sum(tokens / ns * 1e9 for ns in samples) / len(samples)
    elif spread_ns > STEADY * mean_ns:
        highest = told
    else:
        highest *= 1 + spread_ns / mean_ns
    if lowest * (1 - 2 * TOLERANCE) <= told <= highest * (1 + 2 * TOLERANCE):
        return ""
    return f"avg_ts is {told:.6g}, but the tokens over avg_ns are {computed:.6g}"


def _size(one: Mapping[str, Any], prompt: int, decodes: bool) -> dict[str, Any]:
    """Bytes and FLOPs of a step or of a prompt; of a mixed test, and without the model's size, they stay 0."""
    weights, parameters = _count(one, "model_size"), _count(one, "model_n_params")
    if (_count(one, "n_gen") and prompt) or not weights:
        return {}
    passes, tokens = 1, 1
    if not decodes:
        batch = _count(one, "n_ubatch") or _count(one, "n_batch")
        if not batch:
            return {"flops": 2 * parameters * prompt}
        passes, tokens = -(-prompt // batch), prompt
    return {
        "bytes": passes * weights,
        "traffic": {"weights_bytes": passes * weights},
        "flops": 2 * parameters * tokens,
    }


def _device(one: Mapping[str, Any]) -> str:
    """What computed: `backends` names the libraries that were loaded, `n_gpu_layers` whether one was used."""
    names = str(one.get("backends") or one.get("backend") or "")
    layers = number_of(one.get("n_gpu_layers"))
    if not names:
        return "unknown"
    others = [n for n in names.replace("+", ",").split(",") if n.strip() not in ("CPU", "BLAS", "")]
    return others[0].strip().lower() if others and layers else "cpu"


def _count(one: Mapping[str, Any], key: str) -> int:
    number = number_of(one.get(key) or 0)
    if number is None or number < 0 or number != int(number):
        raise RowError(f"{key}={one.get(key)!r} is not a whole number from 0")
    return int(number)


def _list(value: Any) -> list[Any]:
    """Samples: a list in JSON; text with one in older CSV files."""
    if isinstance(value, str) and value.startswith("["):
        value = json.loads(value)
    return value if isinstance(value, list) else []
