"""The table that fills on a terminal: within its width, lines in order, failures shown, drawn by nobody but the harness."""

from __future__ import annotations

import random
import threading
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console
from rows import case, ceiling, failed

from membound.bench.run import live as module
from membound.bench.run.live import Live, _headings
from membound.bench.run.scope import Scope
from membound.kernels.work import parse
from membound.results.turns import StoredTurn
from membound.results.wording import short

NAMES = (
    *("numba:cpu", "numpy:cpu", "onnxruntime:cpu", "torch:cpu", "torch:cpu+compile"),
    *("vllm:cpu", "llamacpp:cpu", "torch:cpu#2", "onnxruntime:openvino:0"),
)
WORKS = tuple(
    parse(spec).spec
    for spec in (
        "linear:n=14336,k=4096,m=1,weight=bf16",
        "linear:n=14336,k=4096,m=16,weight=int4g32,act=int8",
        "attention:q_heads=32,kv_heads=8,head_dim=128,context=8192,kv=bf16",
        "step:model=llama-3.2-1b,context=1024,weight=int8,act=int8,kv=f32",
    )
)


def console(width: int = 80, height: int = 24) -> Console:
    return Console(file=StringIO(), width=width, height=height, force_terminal=True, color_system=None)


def shown(live: Live, width: int, height: int) -> list[str]:
    """The lines of the table at a size."""
    page = Console(file=StringIO(), width=width, force_terminal=False, no_color=True)
    page.print(live.view(width, height))
    return page.file.getvalue().splitlines()  # type: ignore[attr-defined]


def turn(time_s: float, read: float | None = 1e11, number: int = 0) -> StoredTurn:
    sides = {} if read is None else {"read": read}
    return StoredTurn(number, 1.0, time_s, 1, before=sides, after=sides)


def begun(backends: tuple[str, ...] = NAMES[:3], works: tuple[str, ...] = WORKS, **scope: object) -> Live:
    live = Live(console())
    live.start(Scope(len(works) * len(backends), works, backends, **scope))  # type: ignore[arg-type]
    return live


@pytest.mark.parametrize("count", [3, 5, 9])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20)])
def test_it_stays_within_the_terminal(width: int, height: int, count: int) -> None:
    """Whatever times come, from nanoseconds to minutes, and however long names and phases are."""
    works = tuple(f"linear:n={n},k=4096,m=1,weight=bf16,act=float" for n in range(1000, 1040))
    live = begun(NAMES[:count], works, replicates=3, limit_s=285.0)
    for work in works:
        for backend in NAMES[:count]:
            live.turn(backend, work, 0, turn(10 ** random.uniform(-8, 2.9), 10 ** random.uniform(9, 13)))
    live.cell(NAMES[0], works[-1], 2, "compiling a kernel with a name " * 5)
    lines = shown(live, width, height)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= height - 2
    wide = (width, count) == (80, 3)
    fitting = min(count, (width - module.NARROWEST_WORK) // 9)
    heads = _headings(NAMES[:fitting], 14 if wide else 8)
    assert lines[0].split()[-fitting:] == heads
    assert len(set(heads)) == fitting >= min(count, 4), "columns can be told apart"
    hidden = [line for line in lines if line.startswith("not shown: ")]
    assert [line.split(", ")[0] for line in hidden] == [f"not shown: {n}" for n in NAMES[fitting:count][:1]]
    assert len(lines) == 1 + (height - 5) + len(hidden) + 1, "no line is folded"


def test_times_stand_beside_shares_where_there_is_room() -> None:
    live = begun()
    spec = WORKS[0]
    size = parse(spec).traffic.total_bytes
    for time_s in (0.9e-3, 1e-3, 5e-3):
        live.turn(NAMES[0], spec, 0, turn(time_s, size / 0.5e-3))
    (line,) = (x for x in shown(live, 80, 24) if x.startswith(short(spec)[:20]))
    assert line.split()[-3:] == ["1", "ms", "50%"]
    narrow = [x for x in shown(live, 60, 24) if x.startswith("linear")]
    assert narrow[0].split()[-2:] == ["1", "ms"]
    live.turn(NAMES[1], spec, 0, turn(0.5e-3, None))
    assert "500 µs" in shown(live, 80, 24)[1], "without ceilings there is no share"


def test_lines_keep_the_order_of_the_plan() -> None:
    live = begun()
    orders = []
    for work in random.sample(WORKS, len(WORKS)):
        live.turn(NAMES[0], work, 0, turn(1e-3))
        orders.append([w for line in shown(live, 160, 24) for w in WORKS if line.startswith(short(w))])
    assert [len(order) for order in orders] == [1, 2, 3, 4]
    assert all(order == [w for w in WORKS if w in order] for order in orders)
    assert orders[-1] == list(WORKS)


def test_the_work_at_hand_is_in_sight_where_lines_are_too_many() -> None:
    works = tuple(f"linear:n={n},k=4096,m=1,weight=bf16,act=float" for n in range(1000, 1040))
    live = begun(works=works)
    for work in works:
        live.turn(NAMES[0], work, 0, turn(1e-3))
    for at in (0, 17, 39):
        live.cell(NAMES[1], works[at], 1, "preparing")
        lines = shown(live, 80, 20)
        assert any(line.startswith(f"linear n={1000 + at} ") for line in lines)
        numbers = [int(line.split()[1][2:]) for line in lines if line.startswith("linear n=")]
        assert numbers == list(range(numbers[0], numbers[0] + 15))


def test_who_failed_is_shown_whenever_it_failed() -> None:
    """In a later turn, while preparing, and where nobody could be timed."""
    live = begun(NAMES[:4])
    live.turn(NAMES[0], WORKS[0], 0, turn(1e-3))
    live.turn(NAMES[1], WORKS[0], 0, turn(0.5e-3))
    for backend, work, status in (
        (NAMES[1], WORKS[0], "crashed"),
        (NAMES[2], WORKS[0], "unsupported"),
        (NAMES[3], WORKS[0], "wrong"),
        (NAMES[0], WORKS[1], "oom"),
        (NAMES[1], WORKS[1], "unavailable"),
    ):
        live.done(failed(status, "why", backend=backend, work=work))
    first, second = (
        next(line for line in shown(live, 160, 24) if line.startswith(short(w))) for w in WORKS[:2]
    )
    assert first.removeprefix(short(WORKS[0])).split()[:2] == ["1", "ms"]
    assert first.split()[-3:] == ["crashed", "–", "wrong"]
    assert second.split()[-2:] == ["oom", "–"]


def test_the_fastest_of_those_that_did_not_fail_stands_out() -> None:
    live = begun()
    for backend, time_s in zip(NAMES, (1e-3, 2e-3, 3e-3), strict=False):
        live.turn(backend, WORKS[0], 0, turn(time_s))
    live.done(failed("wrong", backend=NAMES[0], work=WORKS[0]))
    styles = [live._cell(WORKS[0], b, NAMES[:3], wide=False).style for b in NAMES[:3]]
    assert styles == ["red", "bold", ""]


def test_nothing_is_drawn_by_a_thread() -> None:
    """What draws takes a core from what is timed."""
    before = set(threading.enumerate())
    page = console()
    with Live(page) as live:
        live.start(Scope(2, WORKS, NAMES[:3]))
        live.turn(NAMES[0], WORKS[0], 0, turn(1e-3))
        assert not live._screen.auto_refresh
        assert set(threading.enumerate()) == before


def test_turns_are_drawn_a_few_times_a_second_and_phases_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn = [100.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    live = begun()
    monkeypatch.setattr(live._screen, "update", lambda view, refresh: drawn.append(now[0]))
    for _ in range(100):
        now[0] += module.EVERY_S / 10
        live.turn(NAMES[0], WORKS[0], 0, turn(1e-3))
    assert 9 <= len(drawn) <= 11
    drawn.clear()
    live.phase(NAMES[0], "preparing")
    live.worked(WORKS[0], 0)
    assert len(drawn) == 2


def test_the_last_line_says_what_is_done_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    live = begun(replicates=3, limit_s=500.0)
    live.cell(NAMES[0], WORKS[0], 1, "preparing")
    assert shown(live, 120, 24)[-1] == f"0/12 cases · process 2 of 3 · numba:cpu {short(WORKS[0])}: preparing"
    for _ in range(3):
        live.done(case(NAMES[0], WORKS[0]))
        now[0] += 10
    assert shown(live, 120, 24)[-1].startswith("3/12 cases · process 2 of 3 · 2:15 left · ")
    now[0] = 100 + 490
    assert "0:10 left" in shown(live, 120, 24)[-1], "never beyond the limit"
    live.turn(NAMES[0], WORKS[0], 0, turn(1e-3, number=6))
    assert shown(live, 120, 24)[-1].endswith(f"{short(WORKS[0])}: round 7")


def test_failures_and_notes_scroll_above_it_and_it_is_wiped_in_the_end() -> None:
    page = console(120)
    with Live(page) as live:
        live.start(Scope(2, WORKS, NAMES[:3]))
        live.phase("ceilings", "read [x]")
        live.done(ceiling("read", 1e9, "bytes/s"))
        live.done(failed("error", "[red] y", work=WORKS[0]))
        live.done(failed("unsupported", "no int4", work=WORKS[1]))
        live.note("a [note]")
    drawn = page.file.getvalue()  # type: ignore[attr-defined]
    assert "ceilings: read [x]" in drawn
    assert f"alpha:cpu {short(WORKS[0])}: error: [red] y\n" in drawn
    assert "a [note]\n" in drawn
    assert "no int4" not in drawn
    assert drawn.endswith("\x1b[2K"), "the final table replaces it"


@pytest.mark.parametrize(
    ("backends", "width", "expected"),
    [
        (("numba:cpu", "torch:cpu", "torch:cpu+compile"), 14, ["numba", "torch", "torch+compile"]),
        (("numba:cpu", "torch:cpu", "torch:cpu+compile"), 8, ["numba", "torch", "torc…ile"]),
        (("torch:cpu", "torch:cpu#2"), 8, ["torch", "torch#2"]),
        (("torch:cuda:0", "torch:cuda", "numba:cuda+graph"), 8, ["torch", "torch", "numb…aph"]),
        (("numba:cpu", "numba:cuda"), 8, ["numb…cpu", "numb…uda"]),
        (("numba:cuda:0", "numba:cuda:1"), 14, ["numba:cuda:0", "numba:cuda:1"]),
    ],
)
def test_headings_name_what_differs(backends: tuple[str, ...], width: int, expected: list[str]) -> None:
    assert _headings(backends, width) == expected
