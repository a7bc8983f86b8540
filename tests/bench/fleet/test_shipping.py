"""What nodes are sent: the package with its metadata, a wheel in its place, kernels for the same processor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from processes import comes_true

from membound.bench.fleet import shipping
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.shipping import check_wheel, shipment, take_kernels
from membound.version import __version__

NAME = f"membound-{__version__}"


def wheel(folder, tags="py3-none-any", name="membound", version=__version__, whole=True):
    path = folder / f"{name}-{version}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("membound/__init__.py", "sent = True\n")
        for entry in shipping.METADATA if whole else ():
            archive.writestr(
                f"{NAME}.dist-info/{entry}", "Metadata-Version: 2.1\nName: membound\nVersion: 1\n"
            )
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of compiled kernels with one file, as this machine would have it."""
    monkeypatch.setattr(shipping, "cache_folder", lambda: tmp_path / "cache/kernels/0123")
    folder = tmp_path / "cache/kernels/0123/membound.kernels.cpu.stream"
    folder.mkdir(parents=True)
    (folder / "read.nbi").write_bytes(b"machine code")
    (folder / "lock").touch()
    return tmp_path / "cache"


def test_what_is_sent_is_an_installation(cache, tmp_path):
    """A process that has nothing but the parts on its path finds membound and its backends."""
    with shipment(None) as parts:
        assert [part.name for part in parts] == ["membound", f"{NAME}.dist-info", "membound_compiled"]
        code = (
            "from importlib.metadata import entry_points\nimport membound.version as v\n"
            "print(v.__file__, len(entry_points(group='membound.backends')))"
        )
        done = subprocess.run(
            [
                sys.executable,
                "-IB",
                "-S",
                "-c",
                f"import sys; sys.path.insert(0, {str(parts[0].parent)!r})\n{code}",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        file, count = done.stdout.split()
        assert file == str(parts[0] / "version.py")
        assert int(count) >= 6
        assert not list(parts[0].rglob("__pycache__"))
    assert not parts[0].exists()


def test_a_membound_that_is_not_installed_is_one_line(monkeypatch):
    def nowhere(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(shipping, "distribution", nowhere)
    with (
        pytest.raises(FleetError, match="is not installed, so there are no backends to send: pip install it"),
        shipment(None),
    ):
        pass


def test_a_driver_that_is_killed_leaves_nothing_of_it(tmp_path):
    """By KILL, which leaves it no time to tidy up: Ray has packed the parts long before."""
    code = (
        "import time\nfrom membound.bench.fleet.shipping import shipment\n"
        "with shipment(None) as parts:\n print(parts[0], flush=True)\n time.sleep(60)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path), "MEMBOUND_CACHE_DIR": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as driver:
        assert driver.stdout is not None
        part = Path(driver.stdout.readline().strip())
        assert (part / "version.py").is_file()
        driver.kill()
    assert comes_true(lambda: [path.name for path in tmp_path.iterdir()] == ["cache"]), list(
        tmp_path.iterdir()
    )


def test_a_wheel_is_sent_in_its_place(cache, tmp_path):
    with shipment(wheel(tmp_path)) as parts:
        assert (parts[0] / "__init__.py").read_text() == "sent = True\n"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda folder: folder / "none.whl", "there is no such file"),
        (
            lambda folder: wheel(folder, "cp27-cp27m-win32"),
            r"is for cp27-cp27m-win32, and the nodes have Python 3\.\d+",
        ),
        (lambda folder: wheel(folder, name="other"), "is a wheel of other, not of membound"),
        (lambda folder: wheel(folder, version="9.9"), "is membound 9.9, and this is"),
        (lambda folder: wheel(folder).rename(folder / "odd.whl"), "Invalid wheel filename"),
    ],
)
def test_a_wheel_that_does_not_fit_is_one_line(tmp_path, made, message):
    with pytest.raises(FleetError, match=message):
        check_wheel(made(tmp_path))


def test_a_wheel_without_metadata_or_that_is_none_is_refused(tmp_path):
    with (
        pytest.raises(FleetError, match="holds no membound with its metadata"),
        shipment(wheel(tmp_path, whole=False)),
    ):
        pass
    broken = tmp_path / f"{NAME}-py3-none-any.whl"
    broken.write_bytes(b"no archive")
    with pytest.raises(FleetError, match="cannot be read as a wheel"), shipment(broken):
        pass


def arrived(cache, monkeypatch, tmp_path):
    """The same parts on the path of a node whose cache is empty."""
    with shipment(None) as parts:
        parts[-1].rename(tmp_path / "membound_compiled")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(shipping, "cache_folder", lambda: tmp_path / "node/kernels/0123")


def test_a_node_takes_the_kernels_of_its_own_processor_once(cache, monkeypatch, tmp_path):
    arrived(cache, monkeypatch, tmp_path)
    assert take_kernels() == 1
    assert (
        tmp_path / "node/kernels/0123/membound.kernels.cpu.stream/read.nbi"
    ).read_bytes() == b"machine code"
    assert take_kernels() == 0
    assert [path.name for path in (tmp_path / "node/kernels").iterdir()] == ["0123"]


def test_a_node_with_another_processor_compiles_by_itself(cache, monkeypatch, tmp_path):
    arrived(cache, monkeypatch, tmp_path)
    of = tmp_path / "membound_compiled/of.json"
    of.write_text(json.dumps(["another processor", *json.loads(of.read_text())[1:]]))
    assert take_kernels() == 0
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize("content", [b"", b"\xff", b'["another"', b"{}"])
def test_kernels_that_do_not_say_what_they_are_of_are_left_alone(cache, monkeypatch, tmp_path, content):
    arrived(cache, monkeypatch, tmp_path)
    (tmp_path / "membound_compiled/of.json").write_bytes(content)
    assert take_kernels() == 0


def test_kernels_of_other_sources_are_left_alone(cache, monkeypatch, tmp_path):
    arrived(cache, monkeypatch, tmp_path)
    monkeypatch.setattr(shipping, "cache_folder", lambda: tmp_path / "node/kernels/4567")
    assert take_kernels() == 0


def test_too_many_kernels_are_not_sent(cache, monkeypatch):
    monkeypatch.setattr(shipping, "MOST_KERNELS_BYTES", 5)
    with shipment(None) as parts:
        assert len(parts) == 2


@pytest.mark.parametrize("whole", [False, True])
def test_kernels_that_are_removed_while_they_are_sent_are_not_sent(cache, monkeypatch, whole):
    """A run beside this one takes a damaged one away, or the user the whole folder: both failed with FileNotFoundError."""
    goes = cache / "kernels/0123/membound.kernels.cpu.stream"
    (goes / "write.nbi").write_bytes(b"more")
    walk = os.walk

    def meanwhile(folder):
        for found in walk(folder):
            if found[0] == str(goes):
                (goes / "read.nbi").unlink(missing_ok=True)
            yield found

    assert shipping.size_of(cache / "kernels") == len(b"machine code" + b"more")
    monkeypatch.setattr(os, "walk", meanwhile)
    assert shipping.size_of(cache / "kernels") == len(b"more")
    (goes / "read.nbi").write_bytes(b"machine code")
    if whole:
        monkeypatch.setattr(shipping, "size_of", lambda folder: shutil.rmtree(folder) or 16)
    with shipment(None) as parts:
        sent = sorted(path.name for part in parts[2:] for path in part.rglob("*.nbi"))
    assert sent == ([] if whole else ["write.nbi"])
    assert len(parts) == (2 if whole else 3)
