"""A point that was played, as a row: every request, the window, what the client was like, and whether it counts.

>>> row = point_row(load, facts, schedule, played, run_id="…", command="membound load …", cut_short=False)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from membound.bench.machine.fingerprint import HARNESS_PACKAGES, fingerprint, package_versions
from membound.bench.serving.answer import read_answer
from membound.bench.serving.client import Played
from membound.bench.serving.client_limits import client_facts, client_reasons
from membound.bench.serving.drawing import Schedule
from membound.bench.serving.engine import Engine
from membound.bench.serving.load import Load, LoadPoint, work_of
from membound.bench.serving.probe import Facts
from membound.bench.serving.self_check import added_reasons
from membound.bench.serving.truth import truth_of
from membound.results.row import Row
from membound.results.serving.point import point_of
from membound.results.serving.request import Request
from membound.results.serving.window import Window

SHORTEST_WINDOW_S = 0.001
CLIENT_PACKAGES = (*HARNESS_PACKAGES, "httptools", "uvloop")


@dataclass(frozen=True, slots=True)
class Serving:
    """What is known of a server that was started here: its engine, its facts, how it ended if it did."""

    engine: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    death: str = ""


UNTOLD = Serving()


def point_row(
    load: Load,
    facts: Facts,
    schedule: Schedule,
    played: Played,
    run_id: str,
    command: str,
    cut_short: bool,
    measured: dict[str, Any] | None = None,
    server: Serving = UNTOLD,
) -> Row:
    """`cut_short`: it was ended by Ctrl-C, and its window ends there. `measured`: what the client adds on this machine."""
    secret = load.endpoint.key
    requests = [read_answer(raw, played.started_ns, raw.asked_tokens, secret) for raw in played.answers]
    end_s = load.total_s
    if cut_short:
        end_s = max(min(end_s, played.wall_s), load.warm_s + SHORTEST_WINDOW_S)
    window = Window(load.warm_s, end_s)
    client = client_facts(played, requests, window)
    reasons = client_reasons(client)
    failure = _failure(window.of(requests))
    truth = truth_of(load.served, played, window, secret)
    status, reason = _outcome(failure, server.death, truth.wrong)
    if measured is not None:
        client["null_server"] = measured
        reasons += [] if failure else added_reasons(measured, point_of(requests, window))
    return Row(
        run_id=run_id,
        kind="serving",
        backend=server.engine or "url",
        work=work_of(load, facts.model, schedule.point),
        status=status,
        reason=reason,
        seed=load.seed,
        threads=threads if isinstance(threads := server.facts.get("threads"), int) else 0,
        error=truth.error,
        tolerance=truth.tolerance,
        device=load.endpoint.url,
        requests=requests,
        config={
            schedule.point.kind: schedule.point.value,
            "warm_s": window.warm_s,
            "end_s": window.end_s,
            "slo": load.slo,
            "model": facts.model,
            "dropped": facts.fields.dropped,
            "client": client,
            "dispersion": schedule.dispersion,
            "truth": truth.as_config(),
        },
        grade="invalid" if reasons else "clean",
        grade_reasons=reasons,
        machine=fingerprint(),
        versions=package_versions(CLIENT_PACKAGES) | dict(server.facts.get("versions", {})),
        command=command,
    )


def absent_row(
    load: Load,
    engine: Engine,
    point: LoadPoint,
    run_id: str,
    command: str,
    replicate: int,
    status: str,
    reason: str,
) -> Row:
    """A point that was not played, because its engine's server did not start or had ended."""
    return Row(
        run_id=run_id,
        kind="serving",
        backend=engine.name,
        work=work_of(load, engine.served.name, point),
        status=status,
        reason=reason,
        replicate=replicate,
        seed=load.seed,
        config={
            point.kind: point.value,
            "warm_s": load.warm_s,
            "end_s": load.total_s,
            "slo": load.slo,
            "model": engine.served.name,
        },
        machine=fingerprint(),
        versions=package_versions(CLIENT_PACKAGES),
        command=command,
    )


def _outcome(failure: str, death: str, wrong: str) -> tuple[str, str]:
    """Status and reason: a server that is gone explains what failed; one that is wrong has no speed."""
    if death:
        return "crashed", f"the server ended: {death}"
    if failure:
        return "error", failure
    return ("wrong", wrong) if wrong else ("ok", "")


def _failure(counted: list[Request]) -> str:
    """Why a window has no figures, or ''."""
    if any(one.ok for one in counted):
        return ""
    first = next(iter(counted), None)
    return (
        f"no whole answer: {first.outcome}: {first.reason}" if first else "no request was due in the window"
    )
