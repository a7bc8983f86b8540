"""Ctrl-C: what was measured is kept after a last check, a second one ends at once, nothing is left running."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from fake_workers import Workers
from small_runs import WORKS, cases, executed, planned

from membound.bench.protocol import messages as m
from membound.bench.protocol.process import Worker, WorkerDiedError

WORKER = """#!{python}
import sys
from membound.bench.protocol.messages import COMMANDS, Checked, Done, Hello, PROTOCOL, Phase, decode, encode

def say(answer, number):
    print(encode(answer, number), flush=True)

say(Hello("3", PROTOCOL), 0)
for line in sys.stdin:
    command, number = decode(line, COMMANDS)
    say(Phase(f"first of {{number}}"), number)
    say(Phase(f"second of {{number}}"), number)
    say(Checked(float(number), {{}}, {{}}), number + {extra})
"""


def speaker(folder: Path, extra: int = 0) -> str:
    path = folder / "python"
    path.write_text(WORKER.format(python=sys.executable, extra=extra))
    path.chmod(0o755)
    return str(path)


def interrupt(_: object) -> None:
    raise KeyboardInterrupt


def test_the_answer_to_a_command_that_was_broken_off_is_passed_by(tmp_path: Path) -> None:
    phases: list[str] = []
    with Worker(1, speaker(tmp_path)) as worker:
        worker.greet()
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                worker.ask(m.Check(0), 60, interrupt)
        answer = worker.ask(m.Check(0), 60, lambda phase: phases.append(phase.name))
        assert isinstance(answer, m.Checked)
        assert answer.error == 3.0
        assert phases == ["first of 3", "second of 3"]


def test_an_answer_to_a_command_that_was_never_sent_ends_the_worker(tmp_path: Path) -> None:
    with Worker(1, speaker(tmp_path, extra=1)) as worker:
        worker.greet()
        with pytest.raises(WorkerDiedError, match="Checked answers command 2, not 1"):
            worker.ask(m.Check(0), 60)


@pytest.mark.parametrize("at", [1, 4, 7, 8])
def test_ctrl_c_in_the_rounds_keeps_their_turns_after_a_last_check(
    tmp_path: Path, workers: Workers, at: int
) -> None:
    def acts(worker: Any, command: Any) -> None:
        if isinstance(command, m.TakeTurn) and len(workers.said(m.TakeTurn)) == at:
            raise KeyboardInterrupt

    workers.acts = acts
    rows, heard = executed(tmp_path, planned(works=WORKS[:1], ceilings=True))
    played = cases(rows)
    assert sum(len(r.turns) for r in played) == at - 1
    assert all(r.status == "ok" and r.replicate == 0 and r.error == 1e-7 for r in played)
    assert len(workers.said(m.Check)) == len(played) == min(2, at - 1)
    assert not [c for c in workers.said(m.TakeTurn) if c.hot], "nothing more is measured"
    assert heard.notes == [f"interrupted; the {len(played)} cases measured so far are kept"]
    assert {(r.work, r.replicate) for r in rows[-2:] if r.kind == "ceiling"} >= {("read", 0)}
    assert not workers.alive


def test_ctrl_c_while_rows_are_finished_loses_and_doubles_none(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> None:
        if isinstance(command, m.Check) and len(workers.said(m.Check)) == 2:
            raise KeyboardInterrupt

    workers.acts = acts
    rows, _ = executed(tmp_path, planned([f"numba:cpu+{x}" for x in "abc"], WORKS[:1]))
    assert sorted((r.backend, r.status, len(r.turns)) for r in rows) == [
        (f"numba:cpu+{x}", "ok", 4) for x in "abc"
    ]


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> None:
        if isinstance(command, m.Check) or len(workers.said(m.TakeTurn)) == 5:
            raise KeyboardInterrupt

    workers.acts = acts
    rows, heard = executed(tmp_path, planned(works=WORKS[:1]))
    assert rows == []
    assert heard.notes == ["interrupted; the 0 cases measured so far are kept"]
    assert not workers.alive


def test_ctrl_c_while_preparing_keeps_what_was_done_before(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> None:
        if isinstance(command, m.Prepare) and len(workers.said(m.Prepare)) == 4:
            raise KeyboardInterrupt

    workers.acts = acts
    rows, _ = executed(tmp_path, planned())
    assert [(r.status, r.replicate) for r in rows] == [("ok", 0)] * 2
    assert len({r.work for r in rows}) == 1
