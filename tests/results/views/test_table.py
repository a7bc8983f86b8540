from dataclasses import replace

import pytest
from rich.console import Console
from rows import LINEAR, case, ceiling, failed, run_rows

from membound.results.stats import records, summarize
from membound.results.views.table import run_view
from membound.results.views.timed import notes
from membound.results.wording import amount, duration, rate, short


def text(view, width=80):
    console = Console(width=width, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def line_of(shown, start):
    (only,) = [line for line in shown.splitlines() if line.startswith(start)]
    return only


def test_a_run_shows_its_figures_with_units():
    shown = text(run_view(run_rows()))
    assert "run run-a, Test CPU, 2 threads" in shown
    assert f"{LINEAR}  100 MB, 1 GFLOP" in shown
    alpha = line_of(shown, "alpha:cpu  ").split()
    assert alpha == ["alpha:cpu", "10.15", "ms", "2%", "9.9", "90%", "25%", "1.00", "memory"]
    beta = line_of(shown, "beta:cpu+x 2").split()
    assert beta[-2:] == ["2.04", "overhead"]
    assert "GB/s: 1e9 bytes" in shown


def test_ceilings_stand_on_top_with_their_array_sizes():
    shown = text(run_view(run_rows(), ceilings=True))
    assert shown.index("ceiling") < shown.index(LINEAR)
    assert line_of(shown, "read").split() == [
        "read",
        "11.0",
        "GB/s",
        "alpha:cpu",
        "4",
        "streams,",
        "1.07",
        "GB,",
        "2",
        "threads",
    ]
    assert "400 GFLOP/s" in line_of(shown, "fma_f32")
    assert "2 µs" in line_of(shown, "launch")


def test_only_the_ceilings_that_shares_are_of_are_shown_by_default():
    shown = text(run_view(run_rows()))
    assert line_of(shown, "read").split(maxsplit=1)[1] == "11.0 GB/s through alpha:cpu, before the works"
    assert line_of(shown, "fma_f32").startswith("fma_f32")
    assert not [line for line in shown.splitlines() if line.startswith("launch")]
    turned = [
        ceiling("read", v, "bytes/s", config={"turns": 20, "lowest": v - 1e9, "highest": v + 2e9})
        for v in (30e9, 50e9, 40e9)
    ]
    shown = text(run_view([*turned, case()]))
    assert "40.0 GB/s (29.0 GB/s to 52.0 GB/s in 60 turns)" in line_of(shown, "read")


def test_only_the_best_backend_of_a_ceiling_is_shown_but_every_launch():
    rows = [
        ceiling("gemm_bf16", 1e12, "FLOP/s", backend="alpha:cpu"),
        ceiling("gemm_bf16", 2e12, "FLOP/s", backend="beta:cpu"),
        ceiling("launch", 1e-6, "s", backend="alpha:cpu"),
        ceiling("launch", 5e-6, "s", backend="beta:cpu"),
    ]
    shown = text(run_view([*rows, case()], ceilings=True))
    assert "2 TFLOP/s beta:cpu" in line_of(shown, "gemm_bf16")
    assert sum(line.startswith("launch") for line in shown.splitlines()) == 2


def test_ceilings_that_failed_are_told_and_those_that_cannot_be_are_not():
    rows = [failed("crashed", "SIGILL", kind="ceiling", backend="cpu", work="ceilings"), case()]
    rows.append(failed("unsupported", "no f16", kind="ceiling", backend="beta:cpu", work="gemm_f16"))
    shown = text(run_view(rows))
    assert "ceilings crashed: SIGILL" in shown
    assert "gemm_f16" not in shown


@pytest.mark.parametrize("width", [80, 100, 160])
def test_it_fits_the_width_and_is_plain(width):
    long = [
        case(
            "onnxruntimelike:cpu+quantised",
            "prefill:model=llama-3.2-1b,batch=1,tokens=512,weight=int4g128,kv=bf16,act=float,layers=16",
            samples=[1234.5],
            grade="contended",
            stored_bytes=400_000_000,
        ),
        failed("error", "a long message " * 20, backend="beta:cpu"),
    ]
    shown = text(run_view(run_rows() + long), width)
    assert max(map(len, shown.splitlines())) <= width
    assert "\x1b" not in shown


def test_a_wrong_result_never_has_a_number():
    rows = [
        case(samples=[0.123456], status="wrong", error=0.5, reason="error 0.5 exceeds 0.01"),
        case("b:cpu"),
    ]
    shown = text(run_view(rows))
    wrong = line_of(shown, "alpha:cpu wrong")
    assert wrong == "alpha:cpu wrong, so no time is given: error 0.5 exceeds 0.01"
    assert "123" not in shown


def test_failures_and_marks_are_told():
    rows = [
        case(samples=[0.01], grade="contended", stored_bytes=200_000_000),
        failed("crashed", "SIGSEGV"),
        ceiling("read", 5e9, "bytes/s"),
        failed("timeout", "silent for 60 s", backend="beta:cpu"),
    ]
    shown = " ".join(text(run_view(rows), 160).split())
    assert "crashed in 1 of 2 replicates, contended, above ceiling, streams 2× bytes" in shown
    assert "beta:cpu timeout: silent for 60 s" in shown


def test_unsupported_cases_are_listed_once_for_each_reason():
    works = [LINEAR.replace("m=1", f"m={m}") for m in (1, 2, 3)]
    rows = [
        failed("unsupported", "no bf16", backend="beta:cpu", work=w, replicate=r)
        for w in works
        for r in (0, 1)
    ]
    rows.append(failed("unavailable", "not installed; pip install it", backend="gamma:cpu"))
    shown = text(run_view([case(), *rows]))
    assert "beta:cpu unsupported: no bf16 (3 works, linear n=4096 k=4096 m=1 bf16 …)" in shown
    assert "gamma:cpu unavailable: not installed; pip install it" in shown


def test_a_read_ceiling_that_moved_is_told():
    rows = [case(), case("beta:cpu"), ceiling("read", 20e9, "bytes/s"), ceiling("read", 10e9, "bytes/s")]
    shown = " ".join(text(run_view(rows)).split())
    assert (
        "Read bandwidth moved between 10.0 GB/s and 20.0 GB/s: MBU is of the best, so up to 2.00 times too low."
        in shown
    )
    steady = text(run_view([*rows[:3], ceiling("read", 19e9, "bytes/s")]))
    assert "moved" not in steady


def test_disturbances_and_open_verdicts_are_summed_up():
    reasons = ["CPU pressure 7.1% > 5%", "stolen time 3.0% > 1%"]
    rows = [
        case(grade="contended", grade_reasons=reasons),
        case("beta:cpu", grade="invalid", grade_reasons=reasons[:1]),
        case("gamma:cpu"),
        ceiling("read", 11e9, "bytes/s"),
    ]
    shown = text(run_view(rows))
    assert "disturbed: 2 of 3 cases, by CPU pressure, stolen time" in shown
    assert "inconclusive: every replicate was disturbed (1)" in shown


def test_brackets_in_reasons_are_not_markup():
    assert "[red]" in text(run_view([failed("error", "[red] x")]))


def test_several_runs_follow_each_other():
    shown = text(run_view(run_rows("run-a") + [replace(r, run_id="run-b") for r in run_rows()]))
    assert shown.count("alpha:cpu  10.15 ms") == 2
    assert shown.index("run run-a") < shown.index("run run-b")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "–"), (2.5, "2.5 s"), (0.0012345, "1.234 ms"), (3.2e-6, "3.2 µs"), (4.2e-8, "42 ns")],
)
def test_duration(seconds, expected):
    assert duration(seconds) == expected


def test_amounts_and_rates_are_decimal():
    assert amount(33_554_432, "B") == "33.6 MB"
    assert amount(999, "B") == "999 B"
    assert rate(1.5e12, "FLOP/s") == "1.5 TFLOP/s"
    assert rate(2e11, "bytes/s") == "200.0 GB/s"
    assert rate(3e-6, "s") == "3 µs"


def test_no_rows_are_said_to_be_none():
    assert text(run_view([])) == "no rows: nothing was measured\n"


def test_short_specs():
    assert short("linear:n=8,k=32,m=1,weight=int8,act=int8") == "linear n=8 k=32 m=1 int8 act int8"
    assert short("step:model=tiny,batch=1,weight=f16,act=float") == "step tiny batch=1 f16"
    assert short("read") == "read"


@pytest.mark.parametrize(
    ("share", "note"), [(1.0, []), (1.04, []), (0.97, []), (1.13, ["streams 1.1× bytes"])]
)
def test_bytes_that_are_those_of_the_work_are_no_note(share, note):
    row = case(samples=[0.01])
    row.stored_bytes = int(share * row.bytes)
    (line,) = records(summarize([row]))
    assert [text for text in notes(line) if "streams" in text] == note


def test_threads_that_nobody_told_are_not_none_at_all():
    """Files of other tools do not say: "0 threads" stood there."""
    shown = text(run_view([case(threads=0)]))
    assert "Test CPU\n" in shown
    assert "threads" not in shown.partition("backend")[0]
