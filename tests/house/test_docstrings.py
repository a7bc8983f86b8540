"""Examples in docstrings name what is there and call it with arguments that it takes. None of them is run."""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import importlib
import inspect
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sources import parsed

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "backends", "bench", "results", "src/membound")


def examples(folder: str) -> list[tuple[str, str]]:
    """(file, source) of each docstring that has examples, all its lines together."""
    paths = sorted({path.resolve() for path in (ROOT / folder).rglob("*.py")})
    return [(path.relative_to(ROOT).as_posix(), shown) for path in paths for shown in parsed(path).examples]


@dataclass(frozen=True)
class Some:
    """Any instance of a class: what a variable holds in an example that is not run."""

    kind: Any = object


def names_of(file: str, tree: ast.Module) -> dict[str, Any]:
    """What an example may use: builtins, its module and all that it imports anywhere, and what the example defines."""
    module = f"membound/{file.removeprefix('src/membound/').removesuffix('.py')}".replace("/", ".")
    names = vars(builtins) | vars(importlib.import_module(module))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    own = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in (*parsed((ROOT / file).resolve()).imports, *own):
        if node in own or used & {(alias.asname or alias.name).partition(".")[0] for alias in node.names}:
            with contextlib.suppress(ImportError):  # of an optional runtime
                exec(ast.unparse(node), names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] = Some()
        elif isinstance(node, ast.FunctionDef):
            names[node.name] = Some()
        elif isinstance(node, ast.arg):
            names[node.arg] = Some(object if node.annotation is None else value(node.annotation, names))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = value(node.value, names)
        elif isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            entered = value(node.context_expr, names)
            names[node.optional_vars.id] = entered if hasattr(entered.kind, "__enter__") else Some()
    return names


def value(node: ast.AST, names: dict[str, Any]) -> Any:
    """What an expression names; of a call, some instance of the class that it is annotated with."""
    if isinstance(node, ast.Name):
        return names.get(node.id, Some())
    if isinstance(node, ast.Attribute):
        owner = value(node.value, names)
        return member(owner.kind, node.attr) if isinstance(owner, Some) else getattr(owner, node.attr)
    if isinstance(node, ast.Call):
        called = value(node.func, names)
        return Some(called) if inspect.isclass(called) else Some(annotated(getattr(called, "func", called)))
    return Some()


def annotated(function: Any) -> Any:
    """The class of membound's that a function returns; object where it says nothing of the kind."""
    with contextlib.suppress(NameError, TypeError):  # a name for type checkers alone
        kind = typing.get_type_hints(function).get("return")
        if inspect.isclass(kind) and kind.__module__.startswith("membound"):
            return kind
    return object


def member(kind: Any, name: str) -> Any:
    """A method of some instance, without its `self`, or some value of a field. Fails where there is neither."""
    found = getattr(kind, name, None)
    if inspect.isfunction(found):
        static = isinstance(inspect.getattr_static(kind, name), staticmethod)
        return found if static else functools.partial(found, Some(kind))
    if kind is not object and found is None and name not in vars(kind).get("__annotations__", {}):
        assert f"self.{name} = " in inspect.getsource(kind), f"{kind.__name__} has no {name}"
    return found if inspect.ismethod(found) else Some()


def check(file: str, source: str) -> None:
    """Fails where an example of that file names what is not there, or calls it with what it does not take."""
    tree = ast.parse(source)
    names = names_of(file, tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            value(node, names)
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                assert node.func.id in names, f"nothing is named {node.func.id}: import it in the example"
            called = value(node.func, names)
            if not isinstance(called, Some) and not any(isinstance(one, ast.Starred) for one in node.args):
                with contextlib.suppress(ValueError):  # what is written in C may have no signature
                    inspect.signature(called).bind(*node.args, **{str(one.arg): one for one in node.keywords})


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_example_calls_what_is_there_with_what_it_takes(folder):
    wrong = {}
    for file, source in examples(folder):
        try:
            check(file, source)
        except (AssertionError, AttributeError, TypeError) as error:
            wrong[file] = repr(error)
    assert wrong == {}


def test_examples_are_found():
    assert len({file for folder in FOLDERS for file, _ in examples(folder)}) > 60


@pytest.mark.parametrize(
    "wrong",
    [
        "parse()",
        "parse('linear:n=8,k=8', sead=1)",
        "nowhere(1)",
        "traffic = Traffic(8); traffic.nowhere",
        "from membound.kernels.seeded import make_inputs\nmake_inputs(work)",
        "with parse('x') as work: [parse(w, 2) for w in works]",
        "from membound.backends import registry\nregistry.nowhere()",
        "from membound.backends.registry import create\ncreate('x').open('cpu', 2, 3)",
        "from membound.bench.planning.inventory import Inventory\nInventory.gather(threads=2)",
    ],
)
def test_a_wrong_example_is_found(wrong):
    with pytest.raises((AssertionError, AttributeError, TypeError)):
        check("kernels/work.py", wrong)
    check(
        "kernels/work.py",
        "[parse(spec).flops for spec in specs]; traffic = Traffic(8); traffic.total_bytes",
    )
