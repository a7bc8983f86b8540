"""Results of ``vllm bench serve``, ``latency`` and ``throughput``: one JSON object each.

>>> rows = serve_rows(Source("vllm-bench-serve", document))

With ``--save-detailed`` the file holds every request; failed ones are in its lists with a time of 0 and are left out.
The files name no device, no version and no dtype, so the rows have none.
"""

from __future__ import annotations

from typing import Any

from membound.results.exchange.document import Document
from membound.results.exchange.measurement import Source, number_of, time_of
from membound.results.exchange.moment import moment_of
from membound.results.exchange.request_metrics import Load
from membound.results.row import Row, RowError

TOOL = "vllm-bench"
STATISTICS = {"mean": "mean", "median": "p50", "std": "std"}
NAMES = {
    "ttft": "time_to_first_token",
    "tpot": "time_per_output_token",
    "itl": "inter_token_latency",
    "e2el": "request_latency",
}


def is_serve(document: Document) -> bool:
    """Whether it is a file of ``bench serve``."""
    return document.has("request_throughput", "total_token_throughput", "mean_ttft_ms", "completed")


def is_latency(document: Document) -> bool:
    """Whether it is a file of ``bench latency``."""
    return document.has("avg_latency", "latencies", "percentiles")


def is_throughput(document: Document) -> bool:
    """Whether it is a file of ``bench throughput``."""
    return document.has("elapsed_time", "num_requests", "requests_per_second", "tokens_per_second")


def serve_rows(source: Source) -> list[Row]:
    """A row for each latency and throughput."""
    found = source.document.content
    raw = samples_of(found)
    source.started_at = moment_of(found.get("date"))
    completed, failed = found["completed"], found.get("failed") or 0
    if found.get("num_prompts") not in (None, completed + failed):
        source.contradiction(
            f"{found['num_prompts']} requests were asked for, {completed} completed and {failed} failed"
        )
    return load_rows_of(source, found, raw, NAMES, TOOL, failed)


def load_rows_of(
    source: Source,
    found: dict[str, Any],
    raw: dict[str, list[float]],
    names: dict[str, str],
    tool: str,
    failed: int,
) -> list[Row]:
    """A row for each of `names` and for the throughputs; the files of other tools that go back to this one have the same keys."""
    completed = found["completed"]
    duration_s = time_of(found["duration"], "duration")
    tokens_in, tokens_out = (
        number_of(found.get("total_input_tokens")),
        number_of(found.get("total_output_tokens")),
    )
    load = Load(
        source,
        tool,
        model=found.get("model_id"),
        input_tokens=tokens_in / completed if tokens_in is not None and completed else None,
        output_tokens=tokens_out / completed if tokens_out is not None and completed else None,
        concurrency=found.get("max_concurrency"),
        rate=found.get("request_rate"),
        failed=failed,
        config={"endpoint": str(found.get("backend") or "")},
    )
    _check_totals(source, found, raw, duration_s, tokens_out)
    rows = []
    for short, metric in names.items():
        median, half = f"median_{short}_ms", f"p50_{short}_ms"
        source.expect(median, found.get(median), number_of(found.get(half)), half)
        reported = reported_ms(found, short)
        if reported or raw.get(short):
            rows.append(load.latency(metric, raw.get(short, ()), reported))
    return [*rows, *load.rates(duration_s, completed, tokens_out)]


def _check_totals(
    source: Source,
    found: dict[str, Any],
    raw: dict[str, list[float]],
    duration_s: float,
    tokens_out: float | None,
) -> None:
    """Totals and rates against the requests and the duration."""
    if raw.get("output_lens") and tokens_out is not None:
        source.expect("total_output_tokens", tokens_out, sum(raw["output_lens"]), "the sum over requests")
    if duration_s:
        source.expect(
            "request_throughput",
            found["request_throughput"],
            found["completed"] / duration_s,
            "completed over duration",
        )
        if tokens_out is not None:
            source.expect(
                "output_throughput",
                found.get("output_throughput"),
                tokens_out / duration_s,
                "tokens over duration",
            )


def reported_ms(found: dict[str, Any], short: str) -> dict[str, float]:
    """The statistics of a latency whose keys end in its name and ``_ms``, in seconds."""
    end, told = f"_{short}_ms", {}
    for key, value in found.items():
        name = STATISTICS.get(key.removesuffix(end), key.removesuffix(end))
        if (
            key.endswith(end)
            and value is not None
            and (name in STATISTICS.values() or number_of(name[1:]) is not None)
        ):
            told[name] = time_of(value, key) * 1e-3
    return told


def samples_of(found: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of every request that did not fail, by the short name of the latency; empty without ``--save-detailed``."""
    lists = {key: found.get(key) for key in ("ttfts", "itls", "output_lens", "errors", "latencies")}
    if not all(isinstance(lists[key], list) for key in ("ttfts", "itls", "output_lens", "errors")):
        return {}
    if len({len(values) for values in lists.values() if isinstance(values, list)}) > 1:
        raise RowError("its lists of requests differ in length")
    raw: dict[str, list[float]] = {"ttft": [], "tpot": [], "itl": [], "e2el": [], "output_lens": []}
    latencies = lists["latencies"] or [None] * len(lists["ttfts"] or ())
    for first, gaps, count, error, whole in zip(
        lists["ttfts"] or (),
        lists["itls"] or (),
        lists["output_lens"] or (),
        lists["errors"] or (),
        latencies,
        strict=True,
    ):
        if error:
            continue
        first_s, gaps_s = (
            time_of(first, "a time to first token"),
            [time_of(g, "a gap between tokens") for g in gaps],
        )
        whole_s = first_s + sum(gaps_s) if whole is None else time_of(whole, "a latency")
        raw["ttft"].append(first_s)
        raw["itl"] += gaps_s
        raw["e2el"].append(whole_s)
        raw["output_lens"].append(time_of(count, "a count of tokens"))
        if count > 1:
            raw["tpot"].append((whole_s - first_s) / (count - 1))
    return raw


def latency_rows(source: Source) -> list[Row]:
    """The time of each batch from its start to its end. What a batch was, the file does not say."""
    found = source.document.content
    samples = [time_of(value, "a latency") for value in found["latencies"]]
    reported = {"mean": time_of(found["avg_latency"], "avg_latency")}
    for name, value in found["percentiles"].items():
        reported[f"p{float(name):g}"] = time_of(value, f"percentile {name}")
    return [Load(source, TOOL, model=found.get("model_id")).latency("batch_latency", samples, reported)]


def throughput_rows(source: Source) -> list[Row]:
    """The time a request and a token took, of all together. Its tokens are those of prompts and outputs."""
    found = source.document.content
    elapsed_s = time_of(found["elapsed_time"], "elapsed_time")
    requests, tokens = (
        time_of(found["num_requests"], "num_requests"),
        number_of(found.get("total_num_tokens")),
    )
    if elapsed_s:
        source.expect(
            "requests_per_second", found["requests_per_second"], requests / elapsed_s, "requests over time"
        )
        if tokens is not None:
            source.expect(
                "tokens_per_second", found["tokens_per_second"], tokens / elapsed_s, "tokens over time"
            )
    load = Load(source, TOOL, model=found.get("model_id"), rate="inf", config={"total_tokens": tokens})
    return list(load.rates(elapsed_s, requests))
