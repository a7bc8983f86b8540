"""Engines of strangers: modules that fail when they are imported, and descriptions that describe nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from membound.backends import serving
from membound.backends.serving import MetricNames, ServedEngine, served_engine, served_engines
from membound.errors import BackendUnavailable

MODULES = {
    "raising": "raise RuntimeError('no licence')",
    "exiting": "raise SystemExit(5)",
    "broken": "def",
    "bare": "ENGINE = 'me'",
    "mistaken": "from membound.backends.serving import *; ENGINE = ServedEngine('x', 5, '', MetricNames('x', {}), ())",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "strange_engines-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-engines\nVersion: 0\n")
    lines = [f"{name} = strange_{name}_engine:ENGINE" for name in MODULES]
    (info / "entry_points.txt").write_text("\n".join([f"[{serving.GROUP}]", *lines]))
    for name, text in MODULES.items():
        (tmp_path / f"strange_{name}_engine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    serving._entry_points.cache_clear()
    yield
    serving._entry_points.cache_clear()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raising", "cannot be imported: RuntimeError: no licence"),
        ("exiting", "cannot be imported: SystemExit: 5"),
        ("broken", "cannot be imported: SyntaxError: "),
        ("bare", "is not a ServedEngine"),
        ("mistaken", "cannot be imported: ValueError: ServedEngine: program=5 is of another type"),
    ],
)
def test_one_that_cannot_be_had_says_why_and_the_others_are_there(
    installed: None, name: str, words: str
) -> None:
    with pytest.raises(BackendUnavailable, match=words):
        served_engine(name)
    assert [one.name for one in served_engines()] == ["llamacpp", "vllm"]


METRICS = MetricNames("x:", {})


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (MetricNames, {"means": {}, "prefix": ""}),
        (MetricNames, {"prefix": "x:", "means": {"itl": ("sum",)}}),
        (MetricNames, {"prefix": "x:", "means": [1]}),
        (MetricNames, {"prefix": "x:", "means": {}, "counts": {"steps": 5}}),
        (MetricNames, {"prefix": "x:", "means": {}, "settings": ()}),
        (MetricNames, {"prefix": "x:", "means": {}, "settings": ("gauge", "label")}),
        (ServedEngine, {"name": None}),
        (ServedEngine, {"program": "a\0b"}),
        (ServedEngine, {"metrics": {}}),
        (ServedEngine, {"formats": "f32"}),
        (ServedEngine, {"variables": {"A": 1}}),
        (ServedEngine, {"unset": ["A"]}),
    ],
)
def test_a_description_of_another_type_is_refused(kind: type[Any], told: dict[str, Any]) -> None:
    right = {"name": "x", "program": "x", "environment": "x", "metrics": METRICS, "formats": ("f32",)}
    with pytest.raises(ValueError, match=f"{kind.__name__}: {[*told][-1]}=.* is of another type"):
        kind(**(right | told if kind is ServedEngine else told))
