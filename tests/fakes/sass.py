"""What a kernel became: its machine code for a GPU, read back with nvdisasm."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from membound.kernels.cuda.compile import Kernel, compile_cubin

TARGET = "9.0a"
LIBRARIES = ("libnvvm.so*", "libnvJitLink.so*", "libnvrtc.so*", "nvdisasm")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)([^;]*)", re.M)
_USE = re.compile(r"HMMA|IMMA|FFMA|FADD|FMUL|BRA|EXIT|BSYNC|BSSY|WARPSYNC|BAR")


def folders() -> list[Path]:
    """Where the wheels of the extra `cuda-compile` put their files."""
    spec = importlib.util.find_spec("nvidia")
    return [Path(place) for place in spec.submodule_search_locations or ()] if spec else []


def tool(name: str) -> Path | None:
    """A library or program of NVIDIA's compiler, by a pattern of its name."""
    return next((path for folder in folders() for path in sorted(folder.rglob(name))), None)


def missing() -> list[str]:
    """What of the compiler is not installed."""
    return [name for name in LIBRARIES if tool(name) is None]


@dataclass(frozen=True, slots=True)
class Sass:
    """The instructions of a kernel in order, each with its operands."""

    instructions: tuple[tuple[str, str], ...]
    registers: int
    stack_bytes: int

    def count(self, pattern: str) -> int:
        """Instructions whose name matches the pattern from its start."""
        return sum(bool(re.match(pattern, name)) for name, _ in self.instructions)

    @property
    def blocks(self) -> list[list[tuple[str, str]]]:
        """The instructions between two that jump, end, or meet others again."""
        found: list[list[tuple[str, str]]] = [[]]
        for instruction in self.instructions:
            found[-1].append(instruction)
            if re.match(r"BRA|EXIT|BSSY|BSYNC", instruction[0]):
                found.append([])
        return found

    @property
    def wide_loads(self) -> int:
        """Loads of sixteen bytes from global memory."""
        return self.count(r"LDG\..*128")

    @property
    def local(self) -> int:
        """Accesses to local memory: spilled registers, arrays that did not become registers."""
        return self.count(r"LDL|STL")

    @property
    def doubles(self) -> int:
        """float64 instructions, which no kernel wants."""
        return self.count(r"D(ADD|MUL|FMA|SETP)|F2F.*64|I2F.F64")

    @property
    def longest_run(self) -> int:
        """Most wide loads in a row with no arithmetic on what they bring between them."""
        return max(self._runs(), default=0)

    def _runs(self) -> Iterator[int]:
        run = 0
        for name, _ in self.instructions:
            if re.match(r"LDG\..*128", name):
                run += 1
            elif _USE.match(name):
                yield run
                run = 0


@cache
def sass(kernel: Kernel, target: str = TARGET) -> Sass:
    """Compile and read back."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compile_cubin(kernel, target))
        file.flush()
        command = [str(tool("nvdisasm")), file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = tuple((m[1], m[2]) for m in _INSTRUCTION.finditer(text))
    return Sass(found, _attribute("REGCOUNT", text), _attribute("FRAME_SIZE", text))


def _attribute(name: str, text: str) -> int:
    """A number of the section .nv.info: the word behind the function's index."""
    match = re.search(rf"EIATTR_{name}\n.*?index@.*?\.word\s+0x([0-9a-f]+)", text, re.S)
    assert match, f"nvdisasm shows no {name}"
    return int(match[1], 16)
