"""What goes to every node by Ray's runtime environment: membound itself, and compiled kernels for nodes with the same processor.

>>> with shipment(wheel=None) as parts:
...     ray.init(runtime_env={"py_modules": [str(part) for part in parts]})

Each part is a folder that Ray packs, sends once to a node, and puts on the path of Python there. A package and its
metadata side by side are what an installation is: backends are found by their entry points. Nothing is installed on a
node, and nothing is fetched from an index.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import membound
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.protocol import guardian
from membound.kernels.cpu.kernel_cache import cache_folder, private_folder
from membound.version import __version__

METADATA = ("METADATA", "entry_points.txt")
COMPILED = "membound_compiled"
"""The folder of compiled kernels, beside a file that says of which processor and Python they are."""
OF = "of.json"
MOST_KERNELS_BYTES = 64 << 20
"""The head node sends parts to all others, out of its memory; those that get none compile by themselves. 25 MB are usual."""


@contextmanager
def shipment(wheel: Path | None) -> Iterator[list[Path]]:
    """The parts, in a folder that goes at the end. Raises FleetError for a wheel that is none of membound."""
    with tempfile.TemporaryDirectory(dir=guardian.scratch_folder()) as folder:
        root = Path(folder)
        parts = _of_wheel(wheel, root) if wheel else _of_this(root)
        if compiled := _compiled(root):
            parts.append(compiled)
        yield parts


def _of_this(root: Path) -> list[Path]:
    """The running package and its metadata, which name the backends. Raises FleetError where it is not installed."""
    package, info = root / "membound", root / f"membound-{__version__}.dist-info"
    source = Path(membound.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "published"))
    info.mkdir()
    try:
        here = distribution("membound")
    except PackageNotFoundError:
        raise FleetError(
            f"membound runs from {source} and is not installed, so there are no backends to send: pip install it, or give --wheel"
        ) from None
    for name in METADATA:
        (info / name).write_text(here.read_text(name) or "", encoding="utf-8")
    return [package, info]


def _of_wheel(wheel: Path, root: Path) -> list[Path]:
    """A wheel, unpacked. Raises FleetError."""
    check_wheel(wheel)
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root)
    except (OSError, zipfile.BadZipFile) as error:
        raise FleetError(f"{wheel} cannot be read as a wheel: {error}") from None
    parts = [root / "membound", *root.glob("membound-*.dist-info")]
    if len(parts) != 2 or not all((parts[1] / name).is_file() for name in METADATA):
        raise FleetError(f"{wheel} holds no membound with its metadata; build one with `python -m build`")
    return parts


def check_wheel(wheel: Path) -> None:
    """Raises FleetError if a file is no wheel of this membound for this Python, which is that of the cluster: Ray sees to it."""
    from packaging.tags import sys_tags
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    if not wheel.is_file():
        raise FleetError(f"--wheel {wheel}: there is no such file")
    try:
        name, version, _, tags = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise FleetError(f"--wheel {wheel}: {error}") from None
    if name != "membound":
        raise FleetError(f"--wheel {wheel} is a wheel of {name}, not of membound")
    if not tags & set(sys_tags()):
        python = ".".join(map(str, sys.version_info[:2]))
        fitting = ", ".join(sorted(map(str, tags)))
        raise FleetError(
            f"--wheel {wheel} is for {fitting}, and the nodes have Python {python}: build it for that"
        )
    if str(version) != __version__:
        raise FleetError(
            f"--wheel {wheel} is membound {version}, and this is {__version__}: use one of the same version"
        )


def _compiled(root: Path) -> Path | None:
    """The compiled kernels of this machine, or None where there are none or too many."""
    source = cache_folder()
    if not source.is_dir() or not 0 < size_of(source) <= MOST_KERNELS_BYTES:
        return None
    part = root / COMPILED
    _copy_kernels(source, part / source.name)
    if not part.is_dir():
        return None
    (part / OF).write_text(json.dumps(_processor()), encoding="utf-8")
    return part


def _copy_kernels(source: Path, target: Path) -> None:
    """Copy what is there. Runs beside this one put kernels there and remove damaged ones; a user may remove them all."""
    for where, _, names in os.walk(source):
        folder = target / Path(where).relative_to(source)
        folder.mkdir(parents=True)
        for name in names:
            if name != "lock":
                with suppress(FileNotFoundError):
                    shutil.copyfile(Path(where) / name, folder / name)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; one that is removed meanwhile has none."""
    size = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += (Path(where) / name).stat().st_size
    return size


def _processor() -> list[object]:
    """What compiled kernels depend on, besides their sources and the compiler's version, by which their folder is named."""
    here = fingerprint()
    return [here["cpu"], here["cpu_model"], here["isa"], list(sys.version_info[:2])]


def _of(part: Path) -> Any:
    """What kernels that came along were compiled for; None if that cannot be read."""
    try:
        return json.loads((part / OF).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def take_kernels() -> int:
    """On a node: put the kernels that came along where membound looks for them, and say how many files that were.

    None if they are of another processor, Python or compiler, or if the node has its own already.
    """
    found = next(
        (Path(place) / COMPILED for place in sys.path if (Path(place) / COMPILED / OF).is_file()), None
    )
    if found is None or _of(found) != _processor():
        return 0
    target = cache_folder()
    if target.exists() or not (found / target.name).is_dir():
        return 0
    private_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        copy = Path(folder) / target.name
        shutil.copytree(found / target.name, copy)
        copy.chmod(0o700)
        try:
            copy.rename(target)
        except OSError:  # another suite on this machine was quicker
            return 0
    return sum(len(names) for _, _, names in os.walk(target))
