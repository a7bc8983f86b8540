"""`membound coverage`: every format is asked about, backends answer for themselves, and the page in docs is not stale."""

from __future__ import annotations

import json
import platform
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import fake_backends
import fake_vllm
import numpy as np
import pytest
from rich.console import Console

from membound.backends import registry
from membound.backends.api import Backend
from membound.backends.numba.gpu import NumbaCuda
from membound.backends.vllm_engine import installed as vllm_installed
from membound.backends.vllm_engine.backend import VLLMEngine
from membound.bench import cli
from membound.bench.planning import coverage as command
from membound.bench.planning.coverage import (
    SHAPES,
    VALUES,
    Answers,
    all_works,
    as_json,
    ask,
    boxes,
    coverage_markdown,
    coverage_view,
    gather,
    keys_of,
    reasons,
    title_of,
)
from membound.errors import BackendUnavailable
from membound.kernels.weights.formats import INTEGER_FORMATS
from membound.kernels.work import ACTS, FORMATS, KINDS, KV_FORMATS, Work, parse

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRIES = sorted(PROJECT["entry-points"]["membound.backends"])
PAGE = (ROOT / "docs/coverage.md").read_text()
SPECS = [work.spec for work in all_works()]
LINEAR = [spec for spec in SPECS if spec.startswith("linear:")]
RNG = np.random.default_rng()


# What is asked


def test_every_kind_in_every_format_is_asked_about_once() -> None:
    works = all_works()
    assert len(set(works)) == len(works)
    assert [parse(work.spec) for work in works] == works
    assert {work.kind for work in works} == set(KINDS)
    pairs = {(fmt, act) for fmt, act in product(FORMATS, ACTS) if act == "float" or fmt in INTEGER_FORMATS}
    for kind in ("linear", "experts", "step", "prefill"):
        assert {(w.weight, w.act) for w in works if w.kind == kind} == pairs  # type: ignore[union-attr]
    for kind in ("attention", "mla", "step", "prefill"):
        assert {w.kv for w in works if w.kind == kind} == set(KV_FORMATS)  # type: ignore[union-attr]
    each = len(pairs) * len(KV_FORMATS)
    assert len([w for w in works if w.kind == "step"]) == each * (2 * 2 * 3 + 2)
    assert len([w for w in works if w.kind == "prefill"]) == each * 4
    assert len([w for w in works if w.kind == "mla"]) == len(KV_FORMATS) * 2


def test_tables_of_models_say_what_these_hold() -> None:
    models = ["", ", experts", ", experts, latent attention", ", states"]
    assert [title_of(shape) for shape in SHAPES if shape.kind == "step"] == [f"step{m}" for m in models]
    assert [title_of(shape) for shape in SHAPES if shape.kind == "prefill"] == [f"prefill{m}" for m in models]


def test_boxes_hold_every_point_once_and_nothing_else() -> None:
    space = list(product("abc", "xy", "01", "klm"))
    for count in (0, 1, 7, 20, len(space)):
        chosen = [space[i] for i in RNG.permutation(len(space))[:count]]
        found = [point for box in boxes(chosen) for point in product(*box)]
        assert sorted(found) == sorted(chosen)
    assert boxes(space) == [(("a", "b", "c"), ("x", "y"), ("0", "1"), ("k", "l", "m"))]


# Who is asked, and how


class Odd(fake_backends.Ok):
    """Two devices of one kind, the first of them broken, and one that answers unopened."""

    unopened = ("tpu",)

    def open(self, device: str, threads: int) -> Any:
        if device.startswith("gpu:0"):
            raise BackendUnavailable("it is broken", "buy another")
        return super().open("cpu", threads)

    @classmethod
    def devices(cls) -> list[str]:
        return ["gpu:0", "gpu:1", "gpu:2+graph"]


class Nowhere(Odd):
    """No device at all, but for the one that answers unopened."""

    @classmethod
    def devices(cls) -> list[str]:
        raise BackendUnavailable("there is no driver", "install one")


class Mute(Nowhere):
    """Answers nothing without a package that is not here."""

    def supports(self, work: Work) -> str | None:
        raise BackendUnavailable("no package for that", "pip install it")


def asked(cls: type[Backend], monkeypatch: pytest.MonkeyPatch) -> list[Answers]:
    monkeypatch.setattr(registry, "load", lambda entry: cls)
    return list(ask("fake", 1, SPECS))


REFUSED = {spec: f"{spec.partition(':')[0]} is not faked" for spec in SPECS if spec not in LINEAR}


def test_each_kind_of_device_answers_once_and_unopened_ones_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(Odd, monkeypatch) == [
        Answers("fake:gpu", True, True, refused=REFUSED),
        Answers("fake:gpu+graph", True, True, refused=REFUSED),
        Answers("fake:tpu", False, True, "not among the devices that are here", refused=REFUSED),
    ]
    assert asked(Nowhere, monkeypatch) == [
        Answers("fake:tpu", False, True, "there is no driver", "install one", REFUSED)
    ]


def test_what_cannot_be_asked_has_no_answers_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(Mute, monkeypatch) == [
        Answers("fake:tpu", reason="no package for that", remedy="pip install it")
    ]
    monkeypatch.setattr(Nowhere, "unopened", ())
    assert asked(Nowhere, monkeypatch) == [Answers("fake", reason="there is no driver", remedy="install one")]


def test_backends_are_asked_in_workers_and_lost_ones_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_backends.install(tmp_path / "site", monkeypatch)
    found = {a.id: a for a in gather(["ok", "exits", "missing", "raises"], 1, {"raises": "/bin/false"})}
    assert list(found) == ["ok:cpu", "ok:cpu+twin", "ok:npu", "exits", "missing", "raises"]
    assert found["ok:cpu+twin"] == Answers("ok:cpu+twin", True, True, refused=REFUSED)
    assert (found["ok:npu"].asked, found["ok:npu"].remedy) == (False, "pip install another-machine")
    assert found["exits"].reason == "asking it failed: exit status 3: licence server not found"
    assert "No module named 'no_such_module'" in found["missing"].reason
    assert "/bin/false" in found["raises"].reason
    assert not any(found[name].asked for name in ("exits", "missing", "raises"))


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[type[Backend], str], Any]:
    """How to make a machine on which each device that answers unopened can be opened."""
    from membound.kernels.cuda.device import driver as gpu
    from membound.kernels.cuda.device.simulated import SimulatedGpu

    for name in vllm_installed.ENVIRONMENT:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(vllm_installed, "device_name", lambda: "a fake GPU")

    def simulate() -> None:
        monkeypatch.setattr(gpu, "open_gpu", lambda ordinal: SimulatedGpu())

    return {
        (NumbaCuda, "cuda"): simulate,
        (VLLMEngine, "cpu"): lambda: fake_vllm.install(monkeypatch, "cpu"),
        (VLLMEngine, "cuda"): lambda: fake_vllm.install(monkeypatch, "cuda"),
    }


def test_what_answers_unopened_says_the_same_when_opened(
    runtimes: dict[tuple[type[Backend], str], Any],
) -> None:
    declared = {(cls, device) for cls in map(registry.load, ENTRIES) for device in cls.unopened}
    assert declared == set(runtimes)
    for (cls, device), install in runtimes.items():
        before = [cls().supports(work) for work in all_works()]
        assert len(set(before)) > 3
        install()
        backend = cls()
        backend.open(device, 1)
        assert [backend.supports(work) for work in all_works()] == before
        backend.close()


# What is shown


def table_of(refused: dict[str, Sequence[str]]) -> list[Answers]:
    """Backends that refuse what contains one of their words."""
    return [
        Answers(name, True, True, refused={s: f"no {w}" for s in SPECS for w in words if w in s})
        for name, words in refused.items()
    ]


TABLE = [
    *table_of(
        {"alpha:cpu": ["mla", "kv=fp8"], "beta:cpu+longwinded": ["mla", "kv=fp8"], "gamma:cpu": ["kv="]}
    ),
    Answers("delta:npu", False, True, "no driver\nhere", "install one"),
    Answers("epsilon:npu", reason="not installed"),
]


def test_backends_that_say_the_same_share_a_line() -> None:
    assert reasons(TABLE) == [
        ["alpha:cpu, beta:cpu+longwinded", "attention, mla, step, prefill", "no kv=fp8"],
        ["alpha:cpu, beta:cpu+longwinded", "mla", "no mla"],
        ["gamma:cpu", "attention, mla, step, prefill, onnx", "no kv="],
    ]


def test_eighty_columns_show_every_name_and_format_whole() -> None:
    console = Console(width=80, file=StringIO())
    console.print(coverage_view(TABLE))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    for word in (*FORMATS, *KV_FORMATS, "random,", "prompt", "beta:cpu+longwinded", "alpha:cpu,"):
        assert re.search(rf"(?<![\w:+]){re.escape(word)}(?![\w:+])", text), word
    flat = " ".join(text.split())
    assert "none of it: gamma:cpu mla" in flat
    assert "Asked without the device: delta:npu (no driver here; install one)" in flat
    assert "Not here, and not asked: epsilon:npu (not installed)" in flat


def shown(page: str) -> dict[str, set[Work]]:
    """Markdown read back: every combination that a line stands for, as a work, by backend."""
    found: dict[str, set[Work]] = {}
    for shape in SHAPES:
        (section,) = re.findall(rf"^## `{title_of(shape)}`\n\n(.*?)^$", page, re.M | re.S)
        header, _, *lines = (
            [cell.strip() for cell in row.strip("|").split("|")] for row in section.splitlines()
        )
        assert tuple(header) == ("backend", *keys_of(shape))
        for names, *cells in lines:
            for name in names.split(", "):
                found.setdefault(name, set()).update(combinations(shape, cells))
    return found


def combinations(shape: Work, cells: Sequence[str]) -> Iterator[Work]:
    keys = keys_of(shape)
    for values in product(*(cell.split(", ") for cell in cells)):
        if not keys:
            yield shape
        elif values[0] != command.NONE:
            typed = {key: type(VALUES[key][0])(v) for key, v in zip(keys, values, strict=True)}
            yield replace(shape, **typed)


def accepted(answers: Answers) -> set[Work]:
    return {work for work in all_works() if work.spec not in answers.refused}


def test_markdown_read_back_is_what_was_answered() -> None:
    page = coverage_markdown(TABLE)
    assert shown(page) == {answers.id: accepted(answers) for answers in TABLE if answers.asked}
    assert "\nAsked without the device: delta:npu.\n" in page
    assert "\nNot here, and not asked: epsilon:npu.\n" in page
    assert "| gamma:cpu | attention, mla, step, prefill, onnx | no kv= |" in page


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command on made-up answers; returns (status, stdout, stderr)."""
    monkeypatch.setattr(command, "gather", lambda *_: TABLE)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["coverage", *arguments])
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_command_prints_text_json_or_markdown(call: Any) -> None:
    status, text, err = call()
    assert (status, err) == (0, "")
    assert text.startswith("linear ")
    status, out, err = call("--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(as_json(TABLE)))
    assert json.loads(out)["works"] == SPECS
    assert json.loads(out)["backends"][2]["refused"][SPECS[-1]] == "no kv="
    assert call("--markdown") == (0, coverage_markdown(TABLE), "")
    status, out, err = call("--json", "--markdown")
    assert (status, out) == (2, "")
    assert err == "membound: Invalid value: --json and --markdown exclude each other\n"


# The page in docs


@pytest.fixture(scope="module")
def here() -> dict[str, Answers]:
    """What this project's own backends say on this machine."""
    return {answers.id: answers for answers in gather(ENTRIES, 1, {})}


def test_the_page_has_every_backend_of_the_project() -> None:
    assert {name.partition(":")[0] for name in shown(PAGE)} == {e.partition(".")[0] for e in ENTRIES}


@pytest.mark.slow
@pytest.mark.parametrize("name", shown(PAGE))
def test_every_cell_of_the_page_is_what_the_backend_says(name: str, here: dict[str, Answers]) -> None:
    if f" on {platform.machine()}. " not in PAGE:
        pytest.skip("runtimes support other formats on other processors than that of docs/coverage.md")
    if name not in here or not here[name].asked:
        entries = [a for a in here.values() if a.id.partition(":")[0] == name.partition(":")[0]]
        pytest.skip(
            "; ".join(a.reason for a in entries if a.reason) or f"{name} is not among the devices here"
        )
    assert shown(PAGE)[name] == accepted(here[name]), "membound coverage --markdown > docs/coverage.md"
    told = {(spec.partition(":")[0], reason) for spec, reason in here[name].refused.items()}
    lines = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \|$", PAGE.partition("## Why not")[2], re.M)
    written = {
        (kind, reason)
        for names, kinds, reason in lines
        if name in names.split(", ")
        for kind in kinds.split(", ")
    }
    assert written == told


@pytest.mark.slow
def test_the_page_lacks_no_device_that_needs_no_hardware(here: dict[str, Answers]) -> None:
    """Accelerators that only some machines have are left out of the page."""
    everywhere = {
        a.id for a in here.values() if a.asked and (a.id.partition(":")[2].startswith("cpu") or not a.opened)
    }
    assert everywhere <= set(shown(PAGE))
