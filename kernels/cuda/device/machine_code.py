"""What a kernel became: its machine code (SASS) for a GPU, compiled and read back with nvdisasm, without a GPU.

>>> code = machine_code(kernel, "9.0a")
>>> code.registers, code.count("HMMA")
(64, 32)

nvdisasm comes with the extra `cuda-compile`.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from membound.kernels.cuda.compile import CompileError, Kernel, compile_cubin

LIBRARIES = ("libnvvm.so*", "libnvJitLink.so*", "libnvrtc.so*", "nvdisasm")
_LINE = re.compile(
    r"^(?:\.L_x_(?P<label>\d+):|\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<name>[A-Z][A-Z0-9_.]+)(?P<operands>[^;]*))",
    re.M,
)
_TARGET = re.compile(r"\.L_x_(\d+)\)")
_USE = re.compile(r"HMMA|IMMA|FFMA|FADD|FMUL|BRA|EXIT|BSYNC|BSSY|WARPSYNC|BAR")


def tool(name: str) -> Path | None:
    """A library or program of NVIDIA's compiler, by a pattern of its name, out of the wheels that are installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    return next((path for folder in folders for path in sorted(folder.rglob(name))), None)


def missing() -> list[str]:
    """What of the compiler is not installed."""
    return [name for name in LIBRARIES if tool(name) is None]


@dataclass(frozen=True, slots=True)
class MachineCode:
    """The instructions of a kernel in order, each with its operands, and what a launch takes of a multiprocessor.

    `labels`: the places that branches lead to, as numbers of instructions.
    """

    instructions: tuple[tuple[str, str], ...]
    labels: dict[str, int]
    registers: int
    stack_bytes: int
    shared_bytes: int
    """What a block takes of shared memory, that which the system keeps for itself included."""

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
    def loops(self) -> list[tuple[tuple[str, str], ...]]:
        """The bodies of all loops: from a place that a later branch leads back to, to that branch."""
        return [self.instructions[start : end + 1] for start, end in self._turns()]

    @property
    def straight(self) -> tuple[tuple[str, str], ...]:
        """The instructions that are in no loop."""
        looped = {i for start, end in self._turns() for i in range(start, end + 1)}
        return tuple(one for i, one in enumerate(self.instructions) if i not in looped)

    def _turns(self) -> Iterator[tuple[int, int]]:
        for i, (name, operands) in enumerate(self.instructions):
            target = _TARGET.search(operands) if name.startswith("BRA") else None
            start = self.labels.get(target[1], i + 1) if target else i + 1
            if start < i:  # an endless loop of one instruction ends every kernel
                yield start, i

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
def machine_code(kernel: Kernel, target: str) -> MachineCode:
    """Compile and read back. Raises CompileError where the compiler or nvdisasm is missing."""
    disassembler = tool("nvdisasm")
    if disassembler is None:
        raise CompileError("nvdisasm is not installed: pip install 'membound[cuda-compile]'")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compile_cubin(kernel, target))
        file.flush()
        command = [str(disassembler), file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return parse_sass(text)


def parse_sass(text: str) -> MachineCode:
    """What nvdisasm prints of one kernel."""
    instructions: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for match in _LINE.finditer(text):
        if match["label"]:
            labels[match["label"]] = len(instructions)
        else:
            instructions.append((match["name"], match["operands"]))
    shared = re.search(r"^\.nv\.shared\.(?!reserved)\w+:\s+\.zero\s+(\d+)", text, re.M)
    registers, stack = _attribute("REGCOUNT", text), _attribute("FRAME_SIZE", text)
    return MachineCode(tuple(instructions), labels, registers, stack, int(shared[1]) if shared else 0)


def _attribute(name: str, text: str) -> int:
    """A number of the section .nv.info: the word behind the function's index."""
    match = re.search(rf"EIATTR_{name}\n.*?index@.*?\.word\s+0x([0-9a-f]+)", text, re.S)
    if match is None:
        raise CompileError(f"nvdisasm shows no {name}")
    return int(match[1], 16)
