"""Compiled kernels: cached on disk under a hash of their sources, found again, made again if damaged, watched while compiling."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import membound
from membound.kernels.cpu import compile as compile_module
from membound.kernels.cpu import kernel_cache
from membound.kernels.cpu.kernel_cache import cache_folder, compiled_sources

PROGRAM = """
import numpy as np
from membound.kernels.cpu.watching import watch_compilation
from membound.kernels.weights.draws import fill_f32
names = []
with watch_compilation(names.append):
    out = np.zeros(4, np.float32)
    fill_f32(out, 1, np.float32(1))
print(out.tobytes().hex(), *names)
"""

VARIANTS = """
import sys
import numpy as np
from membound.kernels.cpu.matmul.linear import linear_kernel
from membound.kernels.cpu.matmul.pack import aligned_bytes
from membound.kernels.cpu.matmul.recipe import choose

for m in map(int, sys.argv[1:]):
    n, k = 40, 24
    recipe = choose("f32", "float", m)
    arena, scratch = aligned_bytes(recipe.matrix_bytes(n, k)), aligned_bytes(recipe.scratch_bytes(k))
    weights = arena.view(np.float32)  # all ones: any packing of them is the same
    weights[:] = 1
    scratch[:] = 255  # NaN
    y = np.full(recipe.rows * recipe.padded_n(n), np.nan, np.float32)
    x = np.repeat(np.arange(1, m + 1, dtype=np.float32), k)
    linear_kernel("f32", "float", m)(arena, 0, n, k, x, scratch, y, 2)
    right = (y.reshape(recipe.rows, -1)[:m, :n] == k * np.arange(1, m + 1)[:, None]).all()
    print(m, bool(right))
"""


def run(cache: Path, program: str = PROGRAM, *arguments: str) -> str:
    environment = os.environ | {"MEMBOUND_CACHE_DIR": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


class Slow(compile_module.CacheFile):
    """Takes a while between reading the index and writing it."""

    def _load_index(self) -> Any:
        found = super()._load_index()
        time.sleep(0.05)
        return found


def test_variants_saved_at_once_keep_their_own_code(tmp_path: Path) -> None:
    """As from several processes: each saves through an object of its own."""
    keys = [f"variant {i}" for i in range(6)]
    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(lambda key: Slow(str(tmp_path), "kernel", 1).save(key, f"code of {key}"), keys))
    cache = compile_module.CacheFile(str(tmp_path), "kernel", 1)
    assert [cache.load(key) for key in keys] == [f"code of {key}" for key in keys]
    assert cache.load("another") is None


def test_kernels_take_turns_at_their_cache() -> None:
    kernel = compile_module.kernel()(lambda x: x)
    assert type(kernel._cache._cache_file) is compile_module.CacheFile


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache that one process has filled, and the numbers that its kernel computed."""
    cache = tmp_path_factory.mktemp("whole") / "cache"
    numbers, *compiled = run(cache).split()
    assert any(bytes.fromhex(numbers))
    assert compiled == ["fill_f32"]
    return cache, numbers


def test_a_second_process_compiles_nothing(whole: tuple[Path, str]) -> None:
    cache, numbers = whole
    assert run(cache) == numbers


def test_another_place_of_the_package_compiles_nothing_either(
    tmp_path: Path, whole: tuple[Path, str]
) -> None:
    """An installation, or a node that was sent the package, loads what a checkout with the same sources has compiled."""
    cache, numbers = whole
    copy = tmp_path / "elsewhere/membound"
    left_out = shutil.ignore_patterns("published", "__pycache__")
    shutil.copytree(Path(membound.__file__).parent, copy, ignore=left_out, copy_function=shutil.copyfile)
    first = f"import sys; sys.path.insert(0, {str(copy.parent)!r}); import membound; assert 'elsewhere' in membound.__file__\n"
    assert run(cache, first + PROGRAM) == numbers


def emptied(content: bytes) -> bytes:
    return b""


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    at = random.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]


def scrambled(content: bytes) -> bytes:
    return random.randbytes(len(content))


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("nbi", flipped),
        *(
            pytest.param(*damage, marks=pytest.mark.slow)
            for damage in (("nbi", emptied), ("nbc", flipped), ("nbc", halved), ("nbc", scrambled))
        ),
    ],
)
def test_damaged_files_are_noticed_and_made_again(
    tmp_path: Path, whole: tuple[Path, str], damage: Callable[[bytes], bytes], kind: str
) -> None:
    undamaged, numbers = whole
    shutil.copytree(undamaged, tmp_path / "cache")
    files = list((tmp_path / "cache").rglob(f"*.{kind}"))
    assert files
    for path in files:
        path.write_bytes(damage(path.read_bytes()))
    assert run(tmp_path / "cache").split() == [numbers, "fill_f32"], "it was compiled again"
    assert run(tmp_path / "cache") == numbers, "and kept"


@pytest.mark.slow
def test_cached_variants_and_new_ones_are_told_apart(tmp_path: Path) -> None:
    assert run(tmp_path, VARIANTS, "1") == "1 True"
    assert run(tmp_path, VARIANTS, "1", "3") == "1 True\n3 True"
    assert run(tmp_path, VARIANTS, "1", "3") == "1 True\n3 True"  # both from the cache


def test_the_folder_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path))
    source = tmp_path / "kernel.py"
    monkeypatch.setattr(kernel_cache, "compiled_sources", lambda: [source])
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
    assert {"dot_products.py", "linear.py", "draws.py"} <= {path.name for path in sources}
    for source in sources:
        # The other thing that kernels may import is membound.errors: classes, which are not compiled.
        for module in re.findall(r"^from membound\.(kernels\.\S+) import", source.read_text(), re.M):
            path = kernel_cache.KERNELS.parent / (module.replace(".", "/") + ".py")
            if path.with_suffix("").is_dir():  # `from package import module`: its files are hashed one by one
                continue
            assert path in sources, f"{source.name} imports {path.name}, of which the cache knows nothing"


def test_kernels_are_compiled_though_numba_was_told_not_to() -> None:
    """Before, there was "no backend to measure" with NUMBA_DISABLE_JIT=1 in the environment, and `duel` ended in a traceback."""
    code = (
        "import os\nfrom membound.kernels.cpu import compile\nprint(type(compile._thread_numbers).__name__)\n"
        "from membound.bench import cli\ntry:\n cli.main(['--version'])\nexcept SystemExit:\n"
        " print('NUMBA_DISABLE_JIT' in os.environ)"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kind, _, left = done.stdout.split("\n")[:3]
    assert (kind, left) == ("CPUDispatcher", "False")
