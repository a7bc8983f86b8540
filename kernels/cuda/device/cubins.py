"""Where machine code comes from: carried along, kept from an earlier run, or compiled now.

>>> code = find(kernel, "9.0a")

A folder of carried code is written by `write` on any machine with the compiler, and named by $MEMBOUND_CUBINS
on one without: a cubin for each kernel, and manifest.json, which says from which sources and for what target
it was compiled. Code of other sources is refused rather than run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from membound.kernels.cpu.kernel_cache import cache_folder, open_to_others, private_folder
from membound.kernels.cuda.compile import CompileError, Kernel, compile_cubin

SOURCES = Path(__file__).resolve().parent.parent
VARIABLE = "MEMBOUND_CUBINS"
MANIFEST = "manifest.json"
COMPILER = ("numba-cuda", "numba", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvrtc")
"""What decides the machine code besides the sources."""
DIGEST_BYTES = 32
"""Of the SHA-256 at the end of each file of the cache."""


class CubinError(CompileError):
    """Carried machine code is missing, damaged, for another GPU or of other sources."""


@cache
def source_hash() -> str:
    """Names the sources of all CUDA kernels."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def compiler_versions() -> dict[str, str]:
    """Versions of the installed COMPILER; "" for what is not there."""
    return {name: _version(name) for name in COMPILER}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def find(kernel: Kernel, target: str) -> bytes:
    """Machine code of `kernel`: from $MEMBOUND_CUBINS, from the cache, or compiled and cached.

    Raises CubinError if the carried code is not of these sources, CompileError if nothing can be compiled.
    """
    folder = os.environ.get(VARIABLE)
    if folder and (found := open_to_others(Path(folder) / MANIFEST)) is not None:
        raise CubinError(
            f"others may write to {found}, and {VARIABLE} names code: `chmod go-w` it, or unset {VARIABLE}"
        )
    if folder and (carried := read(Path(folder), target).get(kernel.name)):
        return carried
    key = json.dumps([source_hash(), target, compiler_versions()], sort_keys=True)
    kept = (
        private_folder(cache_folder().parents[1] / "cubins")
        / hashlib.sha256(key.encode()).hexdigest()[:16]
        / f"{kernel.name}.cubin"
    )
    if (code := _kept(kept)) is not None:
        return code
    code = compile_cubin(kernel, target)
    _replace(kept, code + hashlib.sha256(code).digest())
    return code


def _kept(path: Path) -> bytes | None:
    """Cached code; None if there is none, or if it does not go with the hash at its end."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    code, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def write(kernels: Iterable[Kernel], target: str, folder: Path) -> list[Path]:
    """Compile kernels into `folder` with a manifest; the paths of all files. Raises CompileError, OSError."""
    codes = {kernel.name: compile_cubin(kernel, target) for kernel in kernels}
    folder.mkdir(parents=True, exist_ok=True)
    for name, code in codes.items():
        _replace(folder / f"{name}.cubin", code)
    manifest = {
        "sources": source_hash(),
        "target": target,
        "compiler": compiler_versions(),
        "kernels": {name: hashlib.sha256(code).hexdigest() for name, code in sorted(codes.items())},
    }
    _replace(folder / MANIFEST, json.dumps(manifest, indent=2).encode())
    return [folder / MANIFEST, *(folder / f"{name}.cubin" for name in sorted(codes))]


@cache
def read(folder: Path, target: str) -> dict[str, bytes]:
    """The carried code in a folder by the kernels' names. Raises CubinError."""
    again = f"build it anew with membound cuda-build, or unset {VARIABLE}"
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sources, built_for, kernels = (manifest[key] for key in ("sources", "target", "kernels"))
        codes = {name: (folder / f"{name}.cubin").read_bytes() for name, _ in kernels.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CubinError(
            f"{folder} holds no carried CUDA code ({type(error).__name__}: {error}): {again}"
        ) from None
    if sources != source_hash():
        raise CubinError(f"{folder} was built from other sources of the kernels: {again}")
    if built_for != target:
        raise CubinError(f"{folder} was built for compute capability {built_for}, this is {target}: {again}")
    damaged = [name for name, code in codes.items() if hashlib.sha256(code).hexdigest() != kernels[name]]
    if damaged:
        raise CubinError(f"{folder / damaged[0]}.cubin is damaged: {again}")
    return codes


def _replace(path: Path, content: bytes) -> None:
    """Write a whole file or none, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
