"""Compiled kernels: cached on disk under a hash of their sources, found again, watched while compiling."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from membound.kernels.cpu import compile as compile_module
from membound.kernels.cpu.compile import cache_folder, compiled_sources

PROGRAM = """
import numpy as np
from membound.kernels.cpu.compile import watch_compilation
from membound.kernels.generate import fill_f32
names = []
with watch_compilation(names.append):
    out = np.zeros(4, np.float32)
    fill_f32(out, 1, np.float32(1))
print(out.any(), names)
"""


def run(cache: Path) -> str:
    environment = os.environ | {"MEMBOUND_CACHE_DIR": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    assert run(tmp_path) == "True ['fill_f32']"
    assert run(tmp_path) == "True []"


def test_the_folder_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path))
    source = tmp_path / "kernel.py"
    monkeypatch.setattr(compile_module, "compiled_sources", lambda: [source])
    folders = set()
    for text in ("a = 1", "a = 2"):
        source.write_text(text)
        cache_folder.cache_clear()
        folders.add(cache_folder())
    cache_folder.cache_clear()
    assert len(folders) == 2
    assert all(folder.parent == tmp_path / "kernels" for folder in folders)


def test_every_file_that_a_compiled_one_imports_is_hashed_too() -> None:
    sources = compiled_sources()
    assert {"simd.py", "linear.py", "generate.py"} <= {path.name for path in sources}
    for source in sources:
        for module in re.findall(r"^from membound\.(\S+) import", source.read_text(), re.M):
            path = compile_module.KERNELS.parent / (module.replace(".", "/") + ".py")
            assert path in sources, f"{source.name} imports {path.name}, of which the cache knows nothing"
