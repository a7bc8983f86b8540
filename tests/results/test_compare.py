from dataclasses import replace
from math import floor

import pytest
from rows import LINEAR, MACHINE, case, failed, run_rows

from membound.results.compare import COLUMNS, CompareError, compare_backends, compare_by, compare_runs
from membound.results.compared_groups import groups_of
from membound.results.stats import records
from membound.results.wording import ratio_words


def test_ratio_is_b_over_a_with_an_interval_that_excludes_one():
    table = compare_runs(run_rows("run-a"), run_rows("run-b", scale=2.0)).table
    (first, *_rest) = records(table[table.work == LINEAR])
    assert first["time_ratio"] == pytest.approx(2.0)
    low, high = first["time_ratio_ci"]
    assert 1.9 < low <= 2.0 <= high < 2.1
    assert first["differs"] is True
    assert (first["run_a"], first["run_b"], first["backend_a"]) == ("run-a", "run-b", "alpha:cpu")
    assert list(table.columns) == list(COLUMNS)


def test_equal_runs_do_not_differ():
    table = records(compare_runs(run_rows("run-a"), run_rows("run-b")).table)
    assert [x["differs"] for x in table if x["work"] == LINEAR] == [False, False]


def test_one_process_gives_a_ratio_without_an_interval():
    a, b = [case(samples=[1.0])], [case(samples=[1.5], run_id="run-b")]
    (only,) = records(compare_runs(a, b).table)
    assert (only["time_ratio"], only["time_ratio_ci"], only["differs"]) == (1.5, None, None)


def test_backends_of_one_run_are_compared_on_the_same_work():
    (only,) = records(compare_backends(run_rows()[:-1], "alpha:cpu", "beta:cpu+x").table)
    assert only["time_ratio"] == pytest.approx(2.05 / 1.005, rel=1e-3)
    assert (only["backend_a"], only["backend_b"], only["differs"]) == ("alpha:cpu", "beta:cpu+x", True)


def test_a_side_without_a_time_says_why():
    a = [case(), case(status="wrong", reason="error 0.5")]
    (only,) = records(compare_runs(a, [case(run_id="run-b")]).table)
    assert only["time_ratio"] is None
    assert only["time_a_s"] is None
    assert only["note"] == "A: wrong (error 0.5)"


def test_other_machines_are_refused_unless_forced():
    other = [replace(r, machine=MACHINE | {"cpu": "Other CPU"}) for r in run_rows("run-b")]
    with pytest.raises(CompareError, match=r"cpu: 'Test CPU' against 'Other CPU'.*--force"):
        compare_runs(run_rows(), other)
    assert len(compare_runs(run_rows(), other, force=True).table) == 3


def test_an_unknown_machine_is_not_taken_for_the_same():
    with pytest.raises(CompareError, match="fingerprint"):
        compare_runs(run_rows(), [replace(r, machine={}) for r in run_rows("run-b")])


def test_memory_may_differ_by_what_the_kernel_keeps():
    near = [replace(r, machine=MACHINE | {"memory_bytes": (8 << 30) - 4096}) for r in run_rows("run-b")]
    assert len(compare_runs(run_rows(), near).table) == 3


def test_only_like_work_is_compared():
    with pytest.raises(CompareError, match="share no work"):
        compare_runs([case()], [case(work=LINEAR.replace("m=1", "m=2"))])
    with pytest.raises(CompareError, match="share no work"):
        compare_runs([case()], [case(threads=1)])
    with pytest.raises(CompareError, match="share no work"):
        compare_backends([case(), case("beta:cpu", LINEAR.replace("float", "int8"))], "alpha:cpu", "beta:cpu")


def test_an_unknown_backend_is_named_with_those_there_are():
    with pytest.raises(CompareError, match=r"no backend 'gamma'; it has: alpha:cpu, beta:cpu\+x"):
        compare_backends(run_rows(), "alpha:cpu", "gamma")


def test_a_failure_on_both_sides_is_told_for_both():
    (only,) = records(compare_runs([failed("oom")], [failed("timeout", "60 s", run_id="run-b")]).table)
    assert only["note"] == "A: oom; B: timeout (60 s)"


def test_runs_on_unlike_accelerators_are_refused_unless_forced():
    def on(device, run_id):
        return case("alpha:cuda:0", device=device, accelerator={"pci": "x"}, run_id=run_id)

    same = compare_runs([on("GPU A", "a")], [on("GPU A", "b")]).table
    assert len(same) == 1
    with pytest.raises(
        CompareError, match=r"alpha:cuda:0 ran on different devices \('GPU A' against 'GPU B'\)"
    ):
        compare_runs([on("GPU A", "a")], [on("GPU B", "b")])
    assert len(compare_runs([on("GPU A", "a")], [on("GPU B", "b")], force=True).table) == 1


def test_a_folder_that_was_moved_is_compared_with_itself():
    def at(path, content="0123456789ab", run_id="run-a"):
        work = f"step:model={path},batch=1,context=16,weight=f32,kv=f32,act=float,content={content}"
        return case(work=work, run_id=run_id)

    (line,) = records(compare_runs([at("here")], [at('"over, there"', run_id="run-b")]).table)
    assert (line["work"], line["time_ratio"]) == (at("here").work, 1.0)
    with pytest.raises(CompareError, match="share no work"):
        compare_runs([at("here")], [at("here", content="ba9876543210", run_id="run-b")])


# Words, groups, and what has no partner


def test_the_words_say_by_how_much_at_least():
    (slower, _) = records(compare_runs(run_rows("run-a"), run_rows("run-b", scale=2.0)).table)[:2]
    low, _ = slower["time_ratio_ci"]
    assert slower["words"] == f"slower by at least {floor(100 * (low - 1))} %" == "slower by at least 95 %"
    (faster, _) = records(compare_runs(run_rows("run-a"), run_rows("run-b", scale=0.5)).table)[:2]
    assert faster["words"] == "faster by at least 48 %"
    (same, _) = records(compare_runs(run_rows("run-a"), run_rows("run-b")).table)[:2]
    assert same["words"] == "same within 2.3 %"


@pytest.mark.parametrize(
    ("ci", "words"),
    [
        (None, "cannot tell: too few processes"),
        ((0.5, 0.899), "faster by at least 10 %"),
        ((0.5, 0.9999), "faster by at least 0.01 %"),
        ((1.0789, 1.2), "slower by at least 7.8 %"),
        ((3.0, 5.0), "slower by at least 200 %"),
        ((0.97, 1.049), "same within 4.9 %"),
        ((0.95, 1.0), "same within 5 %"),
        ((1.0, 1.0), "same within 0 %"),
        ((0.9, 1.051), "cannot tell: from 10 % faster to 5.1 % slower"),
    ],
)
def test_words_are_rounded_so_that_they_stay_true(ci, words):
    assert ratio_words(ci) == words


def several(run_id, scales):
    """A run with three processes of each of these works, each so many times as slow."""
    return [
        case(
            work=LINEAR.replace("m=1", f"m={m}"),
            samples=[scale * (1 + noise)],
            run_id=run_id,
            replicate=replicate,
        )
        for m, scale in scales.items()
        for replicate, noise in enumerate((-0.01, 0.0, 0.01))
    ]


def test_a_geometric_mean_is_that_of_the_ratios_and_its_interval_no_narrower_than_theirs():
    found = compare_runs(several("run-a", {1: 1.0, 2: 1.0}), several("run-b", {1: 2.0, 2: 0.5}))
    (group,) = records(found.groups)
    assert group["time_ratio"] == pytest.approx(1.0)
    assert (group["pairs"], group["faster"], group["slower"], group["open"]) == (2, 1, 1, 0)
    widths = [high / low for low, high in (x["time_ratio_ci"] for x in records(found.table))]
    low, high = group["time_ratio_ci"]
    assert high / low == pytest.approx((widths[0] * widths[1]) ** 0.5)


def test_errors_of_pairs_that_took_turns_add_in_squares():
    lines = [
        {
            "work": f"linear:n={n}",
            "run_a": "r",
            "run_b": "r",
            "backend_a": "a",
            "backend_b": "b",
            "paired": True,
        }
        | {"time_ratio": 1.1, "time_ratio_ci": (1.1 / 1.04, 1.1 * 1.04), "words": "slower by at least 5.7 %"}
        for n in range(4)
    ]
    (group,) = records(groups_of(lines))
    assert group["time_ratio_ci"] == pytest.approx([1.1 / 1.04**0.5, 1.1 * 1.04**0.5])
    assert (group["a"], group["b"], group["group"]) == ("a", "b", "linear")


def test_kinds_of_work_have_groups_and_all_together_one():
    a = [*several("run-a", {1: 1.0}), case(work="attention:context=8", samples=[1.0])]
    b = [*several("run-b", {1: 1.0}), case(work="attention:context=8", samples=[1.0], run_id="run-b")]
    groups = records(compare_runs(a, b).groups)
    assert [(x["group"], x["pairs"]) for x in groups] == [("linear", 1), ("all", 2), ("attention", 1)]
    assert [x["time_ratio_ci"] is None for x in groups] == [False, True, True]


def test_what_has_no_partner_says_in_which_field_it_differs():
    a = [case(), case(work="attention:context=8")]
    b = [case(run_id="run-b"), case(run_id="run-b", work=LINEAR.replace("bf16", "int8"))]
    b.append(case(run_id="run-b", work="attention:context=8", threads=1))
    found = records(compare_runs(a, b).without_partner)
    assert [(x["side"], x["why"]) for x in found] == [
        ("A", "threads: 2 against 1"),
        ("B", "weight: int8 against bf16"),
        ("B", "threads: 1 against 2"),
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"work": LINEAR.replace("m=1", "m=2")}, "m: 1 against 2"),
        ({"threads": 1}, "threads: 2 against 1"),
        ({"backend": "beta:cpu"}, "backend: alpha:cpu against beta:cpu"),
        ({"work": LINEAR + ",page=16"}, "page: not given against 16"),
    ],
)
def test_runs_without_a_common_case_are_refused_with_the_field_that_differs(change, why):
    with pytest.raises(CompareError, match=f"share no work.*nearest: {why}$"):
        compare_runs([case()], [case(run_id="run-b", **change)])


def test_several_runs_are_compared_with_the_first():
    runs = [several(f"run-{i}", {1: 1.0 + i}) for i in range(3)]
    lines = records(compare_runs(*runs).table)
    assert [(x["run_a"], x["run_b"]) for x in lines] == [("run-0", "run-1"), ("run-0", "run-2")]
    assert [x["time_ratio"] for x in lines] == pytest.approx([2.0, 3.0])


@pytest.mark.parametrize(
    ("by", "sides"),
    [
        ("backend", [("alpha:cpu", "beta:cpu"), ("alpha:cpu", "alpha:gpu")]),
        ("device", [("alpha:cpu", "alpha:gpu")]),
        ("run", []),
    ],
)
def test_everything_can_be_compared_by_a_field(by, sides):
    rows = [case(), case("beta:cpu"), case("alpha:gpu", device="Test GPU")]
    if not sides:
        with pytest.raises(CompareError, match="there is only one run to compare: run-a"):
            compare_by(rows, by)
        return
    lines = records(compare_by(rows, by).table)
    assert [(x["backend_a"], x["backend_b"]) for x in lines] == sides


def test_devices_are_compared_backend_by_backend():
    def on(device, number):
        return [
            case(f"{backend}:{number}{variant}", device=device, samples=[time])
            for backend, variant, time in (("torch", "", 1.0), ("torch", "+compile", 2.0), ("own", "", 3.0))
        ]

    rows = [*on("GPU A", "cuda:0"), *on("GPU B", "cuda:1")[:2], case("other:cuda:1", device="GPU B")]
    found = compare_by(rows, "device")
    assert [(x["backend_a"], x["backend_b"], x["time_ratio"]) for x in records(found.table)] == [
        ("torch:cuda:0", "torch:cuda:1", 1.0),
        ("torch:cuda:0+compile", "torch:cuda:1+compile", 1.0),
    ]
    assert [(x["side"], x["backend"], x["why"]) for x in records(found.without_partner)] == [
        ("A", "own:cuda:0", "backend: own against torch"),
        ("B", "other:cuda:1", "backend: other against torch"),
    ]


def test_devices_with_one_backend_each_are_compared_whichever_that_is():
    (only,) = records(
        compare_by([case("own:cpu"), case("torch:cuda:0", device="GPU", samples=[0.5])], "device").table
    )
    assert (only["backend_a"], only["backend_b"]) == ("own:cpu", "torch:cuda:0")


def test_cards_of_one_name_are_one_device():
    cards = [case(f"torch:cuda:{n}", device="GPU", samples=[1.0 + n], replicate=n) for n in range(3)]
    (only,) = records(compare_by([case("torch:cpu"), *cards], "device").table)
    assert (only["replicates_b"], only["time_b_s"]) == (3, 2.0)


def test_files_of_other_tools_that_name_no_machine_are_compared_with_a_doubt():
    a, b = ([case(run_id=run, machine={}, config={"format": "guidellm"})] for run in ("a", "b"))
    assert "cannot be told" in compare_runs(a, b).doubt
    with pytest.raises(CompareError, match="fingerprint"):
        compare_runs(a, [case(run_id="b")])
