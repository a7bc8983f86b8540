"""The tree of errors in `membound.errors` is that of the classes, and each is what the command catches."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from sources import parsed

import membound
from membound import errors

ROOT = Path(__file__).parents[2]


def drawn() -> dict[str, str]:
    """Names in the tree to the module that the line names, or ''."""
    lines = re.findall(r"^    [├└]── (\w+) +(.*)$", errors.__doc__ or "", re.M)
    return {name: m[1] if (m := re.match(r"([\w.]+\.\w+): ", text)) else "" for name, text in lines}


def defined() -> dict[str, str]:
    """Direct children of MemboundError in the sources, with their modules."""
    found = {}
    for path in [
        *(ROOT / "src/membound").glob("*.py"),
        *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py")),
    ]:
        for kind, bases in parsed(path).classes:
            if "MemboundError" in bases:
                name = path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".")
                found[kind] = "" if name.startswith("src.") else name
    return found


FOLDERS = ("kernels", "backends", "results", "bench")


def test_the_tree_is_that_of_the_classes():
    assert drawn() == defined()
    assert list(drawn()) == sorted(drawn())


def test_every_error_of_the_tree_can_be_caught_by_its_root():
    for name, module in drawn().items():
        home = importlib.import_module(f"membound.{module}") if module else errors
        assert issubclass(getattr(home, name), membound.MemboundError)


def test_errors_keep_the_builtin_bases_that_callers_catch():
    assert issubclass(membound.SpecError, ValueError)
    assert issubclass(membound.RowError, ValueError)
    assert issubclass(membound.CompareError, ValueError)
    assert issubclass(membound.StoreError, OSError)
