"""What rules about the sources ask of a Python file, read and parsed once however many rules ask.

>>> [handler.lineno for handler in parsed(path).handlers]
"""

from __future__ import annotations

import ast
import doctest
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Import = ast.Import | ast.ImportFrom
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


@dataclass(frozen=True)
class Parsed:
    """Nodes of a few kinds, from anywhere in a file; the whole of all trees would take 150 MB and slow every collection."""

    imports: tuple[Import, ...]
    imports_at_top: tuple[Import, ...]
    handlers: tuple[ast.ExceptHandler, ...]
    asserted: tuple[int, ...]
    """Lines with an assert, or with a name that is false under `python -O`."""
    classes: tuple[tuple[str, tuple[str, ...]], ...]
    """Names, with those of their bases that are plain names."""
    words: tuple[tuple[int, str], ...]
    """Names and strings with their lines; docstrings, which show examples, left out."""
    examples: tuple[str, ...]
    """Of each docstring that has examples, all their lines together."""


@cache
def parsed(path: Path) -> Parsed:
    """Of a file that does not change any more."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    found = _by_kind(tree)
    strings = [node for node in found[ast.Constant] if isinstance(node.value, str)]
    debugged = [node for node in found[ast.Name] if node.id == "__debug__"]
    return Parsed(
        (*found[ast.Import], *found[ast.ImportFrom]),
        tuple(node for node in tree.body if isinstance(node, Import)),
        tuple(found[ast.ExceptHandler]),
        tuple(node.lineno for node in (*found[ast.Assert], *debugged)),
        tuple(
            (node.name, tuple(b.id for b in node.bases if isinstance(b, ast.Name)))
            for node in found[ast.ClassDef]
        ),
        (
            *((node.lineno, node.value) for node in strings),
            *((node.lineno, node.id) for node in found[ast.Name]),
            *((node.lineno, node.name) for node in found[ast.alias]),
        ),
        tuple(_examples(tree)) if ">>>" in text else (),
    )


def _by_kind(tree: ast.AST) -> dict[type, list[Any]]:
    """The nodes of those kinds, strings that stand alone left out. `ast.walk` takes three times as long."""
    kinds = (ast.Name, ast.Constant, ast.alias, *Import.__args__, ast.ExceptHandler, ast.Assert, ast.ClassDef)
    found: dict[type, list[Any]] = {kind: [] for kind in kinds}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if (kind := type(node)) in found:
            found[kind].append(node)
        elif kind is ast.Expr and type(node.value) is ast.Constant:
            continue
        for name in node._fields:
            value = getattr(node, name, None)
            if type(value) is list:
                waiting += [one for one in value if isinstance(one, ast.AST)]
            elif isinstance(value, ast.AST):
                waiting.append(value)
    return found


def _examples(tree: ast.Module) -> Iterator[str]:
    parser = doctest.DocTestParser()
    waiting: deque[ast.AST] = deque([tree])
    while waiting:
        node = waiting.popleft()
        if isinstance(node, DOCUMENTED) and ">>>" in (text := ast.get_docstring(node) or ""):
            shown = "".join(one.source for one in parser.get_examples(text))
            yield from [shown] * bool(shown)
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, name, ())
