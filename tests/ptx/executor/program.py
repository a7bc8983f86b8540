"""PTX as text taken apart: the entry of a module, its parameters, registers, shared arrays and instructions.

>>> program = parse(compile_ptx(kernel, "9.0a", linked=True))
>>> program.instructions[program.labels["$L__BB0_4"]].text
'add.s32 %r1, %r2, 1'

Source: PTX ISA 9.0, chapters Syntax, State Spaces, and Kernel and Function Directives. What is not understood
is an error, never skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

WIDTHS = {"pred": 1, "b16": 16, "u16": 16, "s16": 16, "b32": 32, "u32": 32, "s32": 32, "f32": 32} | {
    "b64": 64,
    "u64": 64,
    "s64": 64,
    "f64": 64,
}
"""Bits of a register by the type of its declaration (Fundamental Types)."""
_COMMENT = re.compile(r"//[^\n]*")
_ENTRY = re.compile(r"\.visible\s+\.entry\s+(\w+)\s*\((.*?)\)([^{]*)\{(.*)\}", re.S)
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)*(?:\.align\s+\d+\s+)?)?(\w+)")
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.[busf](\d+)\s+([\w$]+)(?:\[(\d+)\])?\s*;")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+([^;]+);")
_GUARD = re.compile(r"@(!?)(%?\w+)\s+(.*)", re.S)
_LABEL = re.compile(r"\s*([\w$]+):")
_VECTOR = re.compile(r"\{[^{};]*\}")


class PtxError(AssertionError):
    """The program does what the ISA forbids or leaves undefined, or what is not understood here."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """``@!%p add.s32 %r1, %r2, 1``: opcode ``add``, qualifiers ``("s32",)``, operands as text, guard ``("%p", True)``."""

    index: int
    opcode: str
    qualifiers: tuple[str, ...]
    operands: tuple[str, ...]
    guard: tuple[str, bool] | None
    text: str


@dataclass(frozen=True, slots=True)
class Program:
    """One entry. `parameters` are (type, name); `registers` bits by name; `symbols` bytes into shared memory by name."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    registers: dict[str, int]
    symbols: dict[str, int]
    shared_bytes: int
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


@cache
def parse(text: str) -> Program:
    """The only entry of a module. Raises PtxError."""
    text = _COMMENT.sub("", text.replace("\0", ""))
    found = _ENTRY.search(text)
    if found is None:
        raise PtxError("the module has no entry")
    body = found[4]
    symbols, shared_bytes = _shared(text)
    body = _SHARED.sub("", body)
    registers: dict[str, int] = {}
    for kind, names in _REGISTERS.findall(body):
        registers |= _declared(kind, names)
    body = _REGISTERS.sub("", body)
    if re.search(r"(?<![\w.])\.(local|const|tex)\b", body):
        raise PtxError(f"{found[1]} declares memory of its own besides shared memory")
    instructions, labels = _instructions(body)
    parameters = tuple((kind, name) for kind, name in _PARAMETER.findall(found[2]))
    return Program(found[1], parameters, registers, symbols, shared_bytes, instructions, labels)


def _shared(text: str) -> tuple[dict[str, int], int]:
    """Shared arrays one behind the other, each aligned as it asks."""
    symbols, size = {}, 0
    for align, bits, name, count in _SHARED.findall(text):
        size = -(-size // int(align)) * int(align)
        symbols[name] = size
        size += int(bits) // 8 * int(count or 1)
    return symbols, size


def _declared(kind: str, names: str) -> dict[str, int]:
    """``%r<3>`` declares %r0 to %r2 (Parameterized Variable Names); other names stand for themselves."""
    found = {}
    for name in names.split(","):
        family = re.fullmatch(r"\s*([%\w$]+)<(\d+)>\s*", name)
        if family:
            found |= {f"{family[1]}{i}": WIDTHS[kind] for i in range(int(family[2]))}
        else:
            found[name.strip()] = WIDTHS[kind]
    return found


def _instructions(body: str) -> tuple[tuple[Instruction, ...], dict[str, int]]:
    """Statements in order. Braces are vectors inside of a statement and scopes between statements, whose names are unlike."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    vectors = _VECTOR.sub(lambda m: m[0].replace("{", "<").replace("}", ">").replace(",", "|"), body)
    for statement in re.split(r"[;{}]", vectors):
        while label := _LABEL.match(statement):
            labels[label[1]] = len(instructions)
            statement = statement[label.end() :]
        statement = " ".join(statement.split())
        if statement and not statement.startswith(".pragma"):
            instructions.append(_instruction(len(instructions), statement))
    return tuple(instructions), labels


def _instruction(index: int, text: str) -> Instruction:
    guard = None
    rest = text
    if match := _GUARD.fullmatch(text):
        guard, rest = (match[2], match[1] == "!"), match[3]
    name, _, operands = rest.partition(" ")
    opcode, *qualifiers = name.split(".")
    parts = tuple(part.strip() for part in operands.split(",")) if operands else ()
    return Instruction(
        index,
        opcode,
        tuple(q for q in qualifiers if q),
        parts,
        guard,
        text.replace("|", ",").replace("<", "{"),
    )


def vector(operand: str) -> tuple[str, ...]:
    """The members of a vector operand; a scalar is one."""
    return tuple(part.strip() for part in operand.strip("<>").split("|"))
