"""Machine code that is carried or cached: found again, and refused where it is not what it should be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from membound.kernels.cpu.kernel_cache import CacheRefused
from membound.kernels.cuda.compile import Kernel, cuda
from membound.kernels.cuda.device import cubins


def fill(target, count):
    if cuda.grid(1) < count:
        target[cuda.grid(1)] = np.float32(1)


FILL = Kernel("fill", fill, ("f32*", "i32"), 128)
OTHER = Kernel("other", fill, ("f32*", "i32"), 64)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """A compiler that counts; caches of its own. Returns the names compiled."""
    names: list[str] = []

    def compile_cubin(kernel: Kernel, target: str) -> bytes:
        names.append(kernel.name)
        return f"{kernel.name} for {target}, {len(names)}".encode()

    monkeypatch.setattr(cubins, "compile_cubin", compile_cubin)
    monkeypatch.setattr(cubins, "cache_folder", lambda: tmp_path / "cache/kernels/hash")
    monkeypatch.delenv(cubins.VARIABLE, raising=False)
    cubins.read.cache_clear()
    return names


def test_a_kernel_is_compiled_once_for_each_target(compiled):
    assert cubins.find(FILL, "9.0a") == b"fill for 9.0a, 1"
    assert cubins.find(FILL, "8.0") == b"fill for 8.0, 2"
    assert cubins.find(FILL, "9.0a") == b"fill for 9.0a, 1"
    assert compiled == ["fill", "fill"]


@pytest.mark.parametrize("harm", [lambda code: b"", lambda code: code[:-1], lambda code: b"F" + code[1:]])
def test_a_damaged_file_of_the_cache_is_compiled_again(compiled, tmp_path, harm):
    cubins.find(FILL, "9.0a")
    (path,) = (tmp_path / "cache/cubins").glob("*/fill.cubin")
    path.write_bytes(harm(path.read_bytes()))
    assert cubins.find(FILL, "9.0a") == cubins.find(FILL, "9.0a") == b"fill for 9.0a, 2"


def test_a_cache_that_others_may_write_is_refused(compiled, tmp_path):
    cubins.find(FILL, "9.0a")
    assert (tmp_path / "cache/cubins").stat().st_mode & 0o777 == 0o700
    (tmp_path / "cache/cubins").chmod(0o777)
    with pytest.raises(CacheRefused, match=f"may write to the cache folder {tmp_path / 'cache/cubins'},"):
        cubins.find(FILL, "9.0a")


def test_other_sources_or_another_compiler_mean_other_code(compiled, monkeypatch):
    cubins.find(FILL, "9.0a")
    monkeypatch.setattr(cubins, "source_hash", lambda: "changed")
    assert cubins.find(FILL, "9.0a") == b"fill for 9.0a, 2"
    monkeypatch.setattr(cubins, "compiler_versions", lambda: {"numba-cuda": "99"})
    assert cubins.find(FILL, "9.0a") == b"fill for 9.0a, 3"


def test_the_hash_is_that_of_the_sources_and_their_names(monkeypatch, tmp_path):
    monkeypatch.setattr(cubins, "SOURCES", tmp_path)
    hashes = set()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "")):
        (tmp_path / name).write_text(text)
        cubins.source_hash.cache_clear()
        hashes.add(cubins.source_hash())
    cubins.source_hash.cache_clear()
    assert len(hashes) == 3


def test_carried_code_is_used_before_any_other(compiled, monkeypatch, tmp_path):
    paths = cubins.write([FILL], "9.0a", tmp_path / "carried")
    assert [path.name for path in paths] == ["manifest.json", "fill.cubin"]
    monkeypatch.setenv(cubins.VARIABLE, str(tmp_path / "carried"))
    assert cubins.find(FILL, "9.0a") == b"fill for 9.0a, 1"
    assert compiled == ["fill"]
    assert cubins.find(OTHER, "9.0a") == b"other for 9.0a, 2"


def test_the_manifest_says_what_the_code_is_of(compiled, tmp_path):
    cubins.write([OTHER, FILL], "8.6", tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["target"] == "8.6"
    assert manifest["sources"] == cubins.source_hash()
    assert manifest["compiler"]["numba-cuda"]
    assert list(manifest["kernels"]) == ["fill", "other"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "holds no carried CUDA code"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "holds no carried CUDA code"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "holds no carried CUDA code"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "holds no carried CUDA code"),
        (lambda folder: change(folder, kernels=["fill"]), "holds no carried CUDA code"),
        (lambda folder: (folder / "fill.cubin").unlink(), "fill.cubin"),
        (lambda folder: (folder / "fill.cubin").write_bytes(b"fill"), "damaged"),
        (lambda folder: change(folder, sources="0" * 16), "other sources"),
        (lambda folder: change(folder, target="8.0"), "built for compute capability 8.0, this is 9.0a"),
    ],
    ids=["missing", "torn", "wrong", "deep", "list", "without", "damaged", "stale", "target"],
)
def test_code_that_is_not_of_this_checkout_is_refused(compiled, monkeypatch, tmp_path, harm, match):
    cubins.write([FILL], "9.0a", tmp_path)
    harm(tmp_path)
    monkeypatch.setenv(cubins.VARIABLE, str(tmp_path))
    with pytest.raises(cubins.CubinError, match=match) as caught:
        cubins.find(FILL, "9.0a")
    assert "membound cuda-build" in str(caught.value)


def test_carried_code_that_others_may_replace_is_refused(compiled, monkeypatch, anywhere):
    cubins.write([FILL], "9.0a", anywhere / "carried")
    monkeypatch.setenv(cubins.VARIABLE, str(anywhere / "carried"))
    (anywhere / "carried").chmod(0o777)
    with pytest.raises(
        cubins.CubinError, match=f"others may write to {anywhere / 'carried'}, and MEMBOUND_CUBINS"
    ):
        cubins.find(FILL, "9.0a")
    (anywhere / "carried").chmod(0o755)
    assert cubins.find(FILL, "9.0a") == b"fill for 9.0a, 1"


def change(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.cuda_compile
def test_real_code_is_written_and_found(monkeypatch, tmp_path):
    cubins.write([FILL], "9.0a", tmp_path)
    monkeypatch.setenv(cubins.VARIABLE, str(tmp_path))
    cubins.read.cache_clear()
    code = cubins.find(FILL, "9.0a")
    assert code[:4] == b"\x7fELF"
    assert b"\0.text.fill\0" in code
