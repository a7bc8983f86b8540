"""No vector operation is left untested: test_simd_*.py call each of them, on every instruction set."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

from membound.kernels.cpu.simd import features

HERE = Path(__file__).parent
TILES = "amx"
"""Needs a processor with matrix tiles: test_linear.py and test_tile_peak.py run its operations where there is one."""


def operations() -> set[str]:
    """The intrinsics that the folder defines."""
    found = set()
    for path in Path(features.__file__).parent.glob("*.py"):
        module = import_module(f"membound.kernels.cpu.simd.{path.stem}")
        if path.stem != TILES:
            found |= {name for name, value in vars(module).items() if type(value).__name__ == "_Intrinsic"}
    return found


def test_every_operation_is_tested() -> None:
    trees = [ast.parse(path.read_text()) for path in sorted(HERE.glob("test_simd_*.py"))]
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {"load", "fma", "store"} <= operations()
    assert sorted(operations() - used) == []
