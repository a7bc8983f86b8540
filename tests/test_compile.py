"""Compiled kernels: cached on disk under a hash of their sources, found again, watched while compiling."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from membound.kernels.cpu import compile as compile_module
from membound.kernels.cpu.compile import cache_folder

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
    monkeypatch.setattr(compile_module, "KERNELS", tmp_path)
    source = tmp_path / "kernel.py"
    folders = set()
    for text in ("a = 1", "a = 2"):
        source.write_text(text)
        cache_folder.cache_clear()
        folders.add(cache_folder())
    cache_folder.cache_clear()
    assert len(folders) == 2
    assert all(folder.parent == tmp_path / "kernels" for folder in folders)
