"""Accelerators in a run of real workers: their own clock, the ceilings of their device, the link that weights stream over."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fake_backends
import pytest
from small_runs import cases, executed, planned

from membound.bench.run import execute
from membound.kernels.work import parse
from membound.results.row import Row
from membound.results.stats import records, summarize
from membound.results.views.timed import notes

WORK = parse("linear:n=16,k=32,m=2,weight=f32").spec
LINK = "host_to_device_pinned"


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_backends.install(tmp_path / "site", monkeypatch)
    return tmp_path


def run(folder: Path, *backends: str) -> tuple[list[Row], dict[str, Any]]:
    """The rows of one replicate, and the summary's line of each backend."""
    plan = planned([*backends], [WORK], ceilings=True, replicates=1, reference_dir=folder / "reference")
    rows, _ = executed(folder, plan)
    assert [(r.status, r.reason) for r in cases(rows)] == [("ok", "")] * len(backends)
    return rows, {line["backend"]: line for line in records(summarize(rows))}


def test_two_backends_share_the_ceilings_of_their_device_through_the_faster_reader(fakes: Path) -> None:
    rows, lines = run(fakes, "gpu:gpu:0", "fastgpu:gpu:0")
    own = {(r.backend, r.work): r.value for r in rows if r.kind == "ceiling" and "turns" not in r.config}
    assert own["gpu:gpu:0", "read"] == 1.0
    assert own["fastgpu:gpu:0", "read"] == 2.0
    (closing,) = (r for r in rows if "turns" in r.config)
    assert (closing.backend, closing.work, closing.value, closing.unit) == (
        "fastgpu:gpu:0",
        "read",
        2.0,
        "bytes/s",
    )
    assert closing.config["variant"] == "fake"
    for row in cases(rows):
        assert all(t.before == t.after == {"read": 2.0} for t in row.turns)
        assert [t.device_s for t in row.turns] == pytest.approx([1e-3] * 4)
        assert row.device_samples_s == pytest.approx([1e-3])
        assert row.timed_launches >= 1
        size = parse(WORK).footprint_bytes
        assert row.slots == -(-4 * 3000 // size) + 1, "four times its own cache, not the processor's"
        assert row.accelerator["cache_bytes"] == 3000
    assert {line["read_ceiling_bytes_per_s"] for line in lines.values()} == {2.0}
    assert not any(note.startswith("of ") for line in lines.values() for note in notes(line))


def test_a_case_that_streams_over_a_link_is_held_against_it(fakes: Path) -> None:
    rows, lines = run(fakes, "gpu:gpu:0", "gpu:gpu:0+offload")
    assert {(r.backend, r.work) for r in rows if "turns" in r.config} == {
        ("gpu:gpu:0", w) for w in ("read", LINK)
    }
    (offload,) = (r for r in cases(rows) if r.backend == "gpu:gpu:0+offload")
    assert offload.memory_ceiling == LINK
    assert [t.ceiling(LINK) for t in offload.turns] == [1.0] * 4
    assert lines["gpu:gpu:0+offload"]["memory_ceiling"] == LINK
    assert lines["gpu:gpu:0+offload"]["above_ceiling"] is True
    said = set(notes(lines["gpu:gpu:0+offload"]))
    assert f"of {LINK}" in said
    assert any(re.fullmatch(r"device (1 ms|1000 µs) \(\d+%\)", note) for note in said), said


class Asked(Exception):
    """For the limits of the processor."""


def test_the_processor_is_measured_only_where_a_backend_runs_on_it(
    fakes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*about: object) -> list[Row]:
        raise Asked

    monkeypatch.setattr(execute, "machine_ceilings", asked)
    (fakes / "both").mkdir()
    with pytest.raises(Asked):
        run(fakes / "both", "gpu:gpu:0", "ok:cpu")
    run(fakes, "gpu:gpu:0")
