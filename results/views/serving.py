"""Points of load as a table, for terminals of 80 columns.

>>> from membound.results.views.console import PlainConsole
>>> PlainConsole().print(serving_view(rows))

A block a point: what was asked and reached, then each latency with its percentiles. What failed, what was not seen and
what does not hold stands below, in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.row import Row
from membound.results.serving.compare import compare_engines, engines_in_turn
from membound.results.serving.engine_step import how_to_measure
from membound.results.serving.point import PERCENTILES, Distribution, Point
from membound.results.serving.roofline import PARTS, frontier, knee_of, roofline_of
from membound.results.serving.search import GOODPUT, searched
from membound.results.serving.table import point_of_row
from membound.results.stats import records
from membound.results.views.load_comparison import compare_points_view
from membound.results.wording import amount, duration, percent

WORDS = {
    "ttft": "first token, from due",
    "ttft_sent": "first token, from sending",
    "tpot": "time a token after the first",
    "itl": "between two tokens, as seen",
    "e2e": "whole answer, from due",
}
MOSTLY_SEEN = 0.9


def serving_view(rows: Sequence[Row]) -> RenderableType:
    """The points among these rows, in their order; the engine's own steps are looked for among the same rows.

    Engines that took turns in one run are compared with the first of them.
    """
    parts: list[RenderableType] = []
    steps = [row for row in rows if row.kind == "case"]
    several = engines_in_turn(rows)
    for row in rows:
        if row.kind == "serving":
            name = f"{row.backend}, process {row.replicate + 1}: {row.work}" if several else row.work
            parts += [Text(name, style="bold"), *_block(row, steps), Text()]
    parts += frontier_lines(rows)
    for other in several[1:]:
        compared = records(compare_engines(rows, several[0], other))
        parts += [compare_points_view(compared), Text()] if compared else []
    parts += [Text(line, style="bold") for line in search_lines(rows)]
    tail = parts[-1] if parts else None
    return Group(*(parts[:-1] if isinstance(tail, Text) and not tail.plain else parts))


def frontier_lines(rows: Sequence[Row]) -> list[RenderableType]:
    """Throughput of the device against the speed of one user, a point a line, and where the batch begins to cost; [] for one point."""
    found = frontier(rows)
    if len(found) < 2:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("point", "tokens/s of the device", "of one user", "MBU", "frontier"):
        table.add_column(name, justify="left" if name in ("point", "frontier") else "right")
    several = len({row.backend for row, *_ in found}) > 1
    for row, device, user, best in found:
        roofline = roofline_of(row)
        share = percent(roofline.mbu) if roofline is not None and roofline.mbu is not None else "–"
        name = f"{row.backend}, {_point_name(row)}" if several else _point_name(row)
        table.add_row(name, f"{device:.3g}", f"{user:.3g}", share, "yes" if best else "")
    return [table, *map(Text, knee_lines(rows)), Text()]


def _point_name(row: Row) -> str:
    return next(
        (f"{kind} {row.config[kind]:g}" for kind in ("rate", "users", "trace") if kind in row.config),
        row.work,
    )


def knee_lines(rows: Sequence[Row]) -> Iterator[str]:
    """From which batch on a token takes longer, as measured and as the ceilings have it."""
    engines = dict.fromkeys((row.run_id, row.backend) for row in rows if row.kind == "serving")
    for engine in engines:
        bend = knee_of([row for row in rows if (row.run_id, row.backend) == engine])
        if bend is not None:
            predicted = "not known" if bend.predicted is None else _batch(bend.predicted)
            of = f"{engine[1]}: " if len(engines) > 1 else ""
            yield f"{of}a token takes longer from batch {_batch(bend.measured)} on; by the step's bytes and FLOPs: {predicted}"


def _batch(value: float) -> str:
    return "beyond these" if value == float("inf") else f"{value:.3g}"


def roofline_lines(row: Row, steps: Sequence[Row] = ()) -> Iterator[str]:
    """Bytes a token, the share of the bandwidth, and what a token's time is made of, as far as it was measured."""
    found = roofline_of(row, steps)
    if found is None:
        return
    decoding = found.decoding
    context = "unknown" if decoding.context is None else f"{decoding.context:.0f} tokens"
    told = f"{decoding.batch:.3g} sequences decoded at once, context {context}"
    if found.bytes_per_token is not None:
        told += f", {amount(found.bytes_per_token, 'B')} a token"
    share = "unknown" if found.mbu is None or found.read_bytes_per_s is None else percent(found.mbu)
    of = "" if found.read_bytes_per_s is None else f" of {amount(found.read_bytes_per_s, 'B/s')}"
    yield f"{told}; MBU {share}{of}{' (the weights fit the cache: this is not of memory)' if found.cached else ''}"
    if found.bytes_per_token is not None:
        parts = [
            f"{duration(found.split[name], 3) if found.split[name] is not None else 'unknown'} {PARTS[name]}"
            for name in PARTS
        ]
        yield f"of {duration(decoding.itl_s, 3)} a token: {'; '.join(parts)}"
    if found.step is not None:
        yield (
            f"the engine's step alone: {duration(found.step.seconds, 3)} ({found.step.work}, run {found.step.run_id})"
        )
    elif command := how_to_measure(row, decoding):
        yield f"the engine's step alone is not measured: --steps does, or {command}"


def search_lines(rows: Sequence[Row]) -> Iterator[str]:
    """What each search among the rows came to."""
    for run in dict.fromkeys(row.run_id for row in rows):
        found = searched([row for row in rows if row.run_id == run])
        if found is None:
            continue
        missed = "" if found.failed is None else f"; {found.failed:.3g}/s does not keep it"
        if found.rate is None:
            yield f"no rate was found that keeps {found.slo} twice{missed}"
        else:
            yield f"highest rate that keeps {found.slo} for {GOODPUT:.0%} of the requests: {found.rate:.3g}/s{missed}"
        if found.client_limited:
            yield "the client was the limit there: the server may keep more"


def _block(row: Row, steps: Sequence[Row]) -> Iterator[RenderableType]:
    try:
        point = point_of_row(row)
    except ValueError as error:
        yield Text(f"{row.status}: {row.reason or error}")
        return
    yield Text(rates(point))
    if row.status != "ok":
        yield Text(f"{row.status}: {row.reason}")
        yield from map(Text, _engine(row))
        return
    yield _latencies(point)
    for line in point_notes(row, point, steps):
        yield Text(line)


def rates(point: Point) -> str:
    """What was asked and reached, in a line."""
    return (
        f"{point.due_per_s:.3g} due/s, {point.ok_per_s:.3g} answered/s, "
        f"{amount(point.output_tokens_per_s, 'tokens/s')} in {point.seconds:.3g} s"
    )


def _latencies(point: Point) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("latency")
    table.add_column("count", justify="right")
    for percentile in PERCENTILES:
        table.add_column("median" if percentile == 50 else f"{percentile} %", justify="right")
    table.add_column("± median", justify="right")
    for name, words in WORDS.items():
        one = point.latency[name]
        if one.count:
            cells = [duration(one.at.get(percentile), 3) for percentile in PERCENTILES]
            table.add_row(words, str(one.count), *cells, half_width(one))
    return table


def half_width(one: Distribution) -> str:
    """Half of the interval of the median, as a share of it."""
    if 50 not in one.ci:
        return "–"
    low, high = one.ci[50]
    return percent((high - low) / 2 / one.at[50])


def point_notes(row: Row, point: Point, steps: Sequence[Row] = ()) -> Iterator[str]:
    """What a reader of these figures must know, a line each."""
    failed = {name: count for name, count in point.outcomes.items() if name != "ok"}
    if failed:
        told = ", ".join(f"{count} {name}" for name, count in sorted(failed.items()))
        example = next(one for one in row.requests if not one.ok and one.outcome in failed)
        yield f"of {point.due} requests {told} (such as: {example.reason}); latencies are of the others"
    if point.goodput_share is not None and point.goodput_per_s is not None:
        yield f"goodput under {row.config['slo']}: {point.goodput_per_s:.3g}/s, {point.goodput_share:.1%} of what was due"
    if point.seen_itl_share is not None and point.seen_itl_share < MOSTLY_SEEN:
        yield (
            f"{1 - point.seen_itl_share:.0%} of the tokens came several at once: gaps between tokens are of the rest; "
            "the time a token holds"
        )
    if point.growth is not None and not point.growth.steady:
        yield (
            f"not steady: answers took {point.growth.ratio:.2g} times as long at the end of the window as at its beginning; "
            "the server does not keep this load"
        )
    yield from _server(row)
    yield from roofline_lines(row, steps)
    yield from _engine(row)
    for reason in row.grade_reasons:
        yield f"{row.grade}: {reason}"


def _engine(row: Row) -> Iterator[str]:
    """What the server was set to, and whether its answers are the model's."""
    facts = {name: value for name, value in row.config.get("engine", {}).items() if value != "unknown"}
    facts.pop("versions", None)
    if facts:
        yield f"set to: {', '.join(f'{name} {_word(value)}' for name, value in facts.items())}"
    truth = row.config.get("truth", {})
    if row.error is not None and row.status == "ok":
        yield f"answers are the model's: {truth.get('tokens')} tokens of {truth.get('requests')} requests compared with float64"


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _server(row: Row) -> Iterator[str]:
    """What the server said of itself, beside what the client saw."""
    told = row.config.get("server")
    if not isinstance(told, dict) or not told:
        return
    own, seen = told.get("mean_itl_s"), told.get("client_mean_itl_s")
    if own and seen:
        yield (
            f"the server's own mean between tokens: {duration(own, 3)}; the client's, warm-up and drain included: "
            f"{duration(seen, 3)} ({seen / own:.3f} times)"
        )
    parts = [
        f"{duration(told['mean_queue_s'], 2)} in its queue" if told.get("mean_queue_s") is not None else "",
        f"{told['tokens_per_step']:.3g} tokens a step" if told.get("tokens_per_step") is not None else "",
        f"{told['preemptions']:.0f} preemptions" if told.get("preemptions") else "",
    ]
    if any(parts):
        yield f"by the server: {', '.join(part for part in parts if part)}"
