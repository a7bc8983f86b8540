"""Writes every lock: the SHA-256 of each file of a package beside the pin of its version.

    pip install -r bench/environments/uv.txt && python .ci/lock.py

Versions come from constraints.txt, and those of separate environments and of uv from their locks themselves: change them
there first. Hashes are those that the package index lists, for all platforms and Pythons, so that several builds of one
version are allowed; torch's wheels without CUDA, which are on an index of their own, are in torch-cpu.txt.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "pyproject.toml"
GROUPS = {
    "default": [PROJECT],
    "test": [PROJECT, "--extra", "test"],
    "browser": [PROJECT, "--extra", "browser"],
    "cuda-compile": [PROJECT, "--extra", "cuda-compile"],
    "llamacpp": ["-"],
    "ray": [PROJECT, "--extra", "ray"],
}
"""What uv resolves for each lock. `default` and `test` are installed first; every other lock has all else that it needs."""
FIRST = ("default", "test")
OF_TORCH = re.compile(r"nvidia-(?!ml-py)|(?:triton|cuda-toolkit)==")
"""What torch's wheels with CUDA ask for, and those without do not."""
MADE = "# Made by .ci/lock.py; installed by .ci/locked, which refuses a file whose SHA-256 is not here."
RESOLVED = ("-c", "constraints.txt", "--universal", "--python-version", "3.11")
AS_IT_STANDS = ("--no-deps", "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")

Pins = dict[str, list[str]]
"""From a pin, as ``torch==2.13.0``, markers included, to its hashes."""


def main() -> None:
    """Write all locks."""
    known: Pins = {}
    for group, sources in GROUPS.items():
        found = compiled([*sources, *RESOLVED], of_llamacpp())
        if group == "test":
            write(
                "locks/torch-cuda.txt",
                [MADE],
                {pin: found.pop(pin) for pin in list(found) if OF_TORCH.match(pin)},
            )
        new = {pin: hashes for pin, hashes in found.items() if pin not in known}
        write(f"locks/{group}.txt", [MADE, "-r default.txt"] if group == "test" else [MADE], new)
        if group in FIRST:
            known |= new
    for path in (*ROOT.glob("backends/environments/*.txt"), ROOT / "bench/environments/uv.txt"):
        relock(path)


def compiled(arguments: Sequence[str], requirements: Sequence[str]) -> Pins:
    """What uv resolves, `requirements` being its standard input. Raises CalledProcessError; uv says why."""
    done = subprocess.run(
        ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes", *arguments],
        input="\n".join(requirements),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found: Pins = {}
    for entry in re.split(r"\n(?=\S)", done.stdout.strip()):
        pin, *hashes = (line.strip().removesuffix("\\").strip() for line in entry.splitlines())
        found[pin] = hashes
    return found


def of_torch_cpu() -> Pins:
    """The hashes of torch's wheels without CUDA."""
    lines = (ROOT / ".ci/torch-cpu.txt").read_text(encoding="utf-8").splitlines()
    wheels = [line.split() for line in lines if not line.startswith("#")]
    found: Pins = {}
    for digest, wheel in wheels:
        _, version, *_ = wheel.split("-")
        found.setdefault(f"torch=={version}", []).append(f"--hash=sha256:{digest}")
    return found


def of_llamacpp() -> list[str]:
    """What the plugin for llama.cpp needs besides membound."""
    project = tomllib.loads((ROOT / "examples/llamacpp/pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return [text for text in project["dependencies"] if text != "membound"]


def relock(path: Path) -> None:
    """Write a lock anew with the pins that it has; its comments stay."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = [line.removesuffix("\\").strip() for line in lines if re.match(r"[a-z0-9]", line)]
    ours = of_torch_cpu()
    found = compiled(["-", *AS_IT_STANDS], [pin for pin in pins if pin not in ours])
    found |= {pin: ours[pin] for pin in pins if pin in ours}
    write(str(path.relative_to(ROOT)), [line for line in lines if line.startswith("#")], found)


def write(name: str, head: Sequence[str], pins: Pins) -> None:
    """Write a lock. Raises SystemExit if a pin has no hash."""
    lines = list(head)
    for pin, hashes in sorted(pins.items()):
        allowed = sorted({*hashes, *of_torch_cpu().get(f"{pin}+cpu", ())})
        if not allowed:
            sys.exit(f"{name}: no hash is known of {pin}")
        lines += [" \\\n    ".join([pin, *allowed])]
    (ROOT / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{name}: {len(pins)} packages")


if __name__ == "__main__":
    main()
