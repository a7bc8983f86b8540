"""Plugins installed beside membound, and its command with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


def installed(plugin, folder):
    """Environment variables with a plugin, built from a copy and installed without network, on the path."""
    source = shutil.copytree(plugin, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    target = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command = [*pip, "--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert list(target.glob("membound_*.py"))
    path = os.pathsep.join(filter(None, (str(target), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


def membound(environment, folder, *arguments):
    command = [sys.executable, "-m", "membound", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
