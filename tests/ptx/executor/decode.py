"""Instructions into steps that a warp can take: operands read and written in the types that the opcode asks for.

>>> steps = decode(program)

Sources, PTX ISA 9.0: Operands and Operand Type Checking (a register may be wider than the type of a load, a store
or a conversion), Constants, Special Registers, Predicated Execution; the sections on the instructions themselves.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from executor.exchange import LANES, check_mma, multiply, shuffle, transpose
from executor.memory_steps import MEMORY_STEPS
from executor.numbers import Lanes, bits, dtype
from executor.operations import OPERATIONS
from executor.program import Instruction, Program, PtxError, vector
from executor.warp import BARRIER, BRANCH, EVERY, EXIT, MEET, PLAIN, Step, Warp, nothing

Reader = Callable[[Warp], Lanes]
Writer = Callable[[Warp, Lanes, Lanes], None]
Run = Callable[[Warp, Lanes], None]

_HELD = {1: np.dtype(bool), **{width: np.dtype(f"u{width // 8}") for width in (16, 32, 64)}}
"""How registers are held, by their bits."""
_LANE = np.arange(LANES, dtype=np.uint32)
_WHOLE_WARP = np.uint32(0xFFFFFFFF)
_SPECIAL: dict[str, Callable[[Warp], Any]] = {
    "%tid.x": lambda warp: warp.first + _LANE,
    "%laneid": lambda warp: _LANE,
    "%ntid.x": lambda warp: warp.block.threads,
    "%globaltimer": lambda warp: warp.block.tick(),
    **{f"%ctaid.{axis}": lambda warp, i=i: warp.block.position[i] for i, axis in enumerate("xyz")},
    **{f"%nctaid.{axis}": lambda warp, i=i: warp.block.grid[i] for i, axis in enumerate("xyz")},
    **{f"%tid.{axis}": lambda warp: 0 for axis in "yz"},
    **{f"%ntid.{axis}": lambda warp: 1 for axis in "yz"},
}


def decode(program: Program) -> tuple[Step, ...]:
    """The steps of a program, by the entries of OPERATIONS as they are now. Raises PtxError for what is unknown."""
    return tuple(_step(program, instruction) for instruction in program.instructions)


def _step(program: Program, instruction: Instruction) -> Step:
    guard = None
    if instruction.guard is not None:
        guard = _predicate(instruction.guard[0], instruction.guard[1])
    opcode, qualifiers = instruction.opcode, instruction.qualifiers
    if opcode == "bra":
        target = program.labels[instruction.operands[0]]
        return Step(BRANCH, nothing, instruction.text, guard, target)
    if opcode in ("ret", "exit"):
        return Step(EXIT, nothing, instruction.text, guard)
    if opcode in ("bar", "barrier") and "warp" not in qualifiers:
        if set(qualifiers) - {"sync", "aligned", "cta"} or instruction.operands != ("0",):
            raise PtxError(f"{instruction.text}: only a barrier of all threads is known here")
        return Step(BARRIER, nothing, instruction.text, guard)
    if opcode in _MEETINGS or opcode in ("bar", "barrier"):
        run = _MEETINGS.get(opcode, _sync)(program, instruction)
        return Step(MEET, run, instruction.text, guard)
    if opcode == "nanosleep":
        return Step(PLAIN, nothing, instruction.text, guard)
    if opcode in MEMORY_STEPS:
        run = MEMORY_STEPS[opcode](program, instruction, reader, writer)
    elif opcode == "mov" and any(o.startswith("<") for o in instruction.operands):
        run = _pack(program, instruction)
    elif opcode in OPERATIONS:
        run = _compute(program, instruction)
    else:
        raise PtxError(f"{instruction.text}: unknown instruction")
    return Step(PLAIN, run, instruction.text, guard)


# Operands


def _predicate(name: str, negated: bool) -> Reader:
    if negated:
        return lambda warp: ~warp.registers[name]
    return lambda warp: warp.registers[name]


def reader(program: Program, text: str, kind: str) -> Reader:
    """How an operand is read as a type: a register, a special register, a constant, the address of a shared array."""
    wanted = dtype(kind)
    if text.startswith("!"):
        return _predicate(text[1:], negated=True)
    if text in program.registers:
        width = program.registers[text]
        if width == bits(kind) and wanted == _HELD[width]:
            return lambda warp: warp.registers[text]
        if width == bits(kind):
            return lambda warp: warp.registers[text].view(wanted)
        if width < bits(kind):
            raise PtxError(f"{text} of {width} bits is read as {kind}")
        return lambda warp: warp.registers[text].astype(f"u{wanted.itemsize}").view(wanted)
    if text in _SPECIAL:
        special = _SPECIAL[text]
        return lambda warp: np.full(LANES, special(warp)).astype(f"u{wanted.itemsize}").view(wanted)
    constant = np.full(LANES, _constant(program, text, bits(kind)), f"u{max(1, bits(kind) // 8)}")
    fixed = constant.astype(bool) if kind == "pred" else constant.view(wanted)
    return lambda warp: fixed


def _constant(program: Program, text: str, width: int) -> int:
    """The bits of a constant (Constants): integers in two's complement, 0f… and 0d… as they are stored."""
    if text in program.symbols:
        return program.symbols[text]
    if re.fullmatch(r"-?\d+|-?0[xX][0-9a-fA-F]+U?", text):
        return int(text.rstrip("U"), 0) & ((1 << width) - 1)
    if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
        return int(match[1], 16)
    if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
        value: float = struct.unpack(">d", bytes.fromhex(match[1]))[0]
        return int(np.float32(value).view(np.uint32)) if width == 32 else int(match[1], 16)
    raise PtxError(f"{text}: neither register nor constant")


def writer(program: Program, text: str, kind: str) -> Writer:
    """How a result of a type is written: a wider register is extended, by the sign of a signed type."""
    if text == "_":
        return lambda warp, values, mask: None
    width = program.registers[text]
    if width < bits(kind):
        raise PtxError(f"{text} of {width} bits is written as {kind}")
    held, wide = _HELD[width], np.dtype(f"{'i' if kind[0] == 's' else 'u'}{max(width // 8, 1)}")
    is_wider = width > bits(kind)

    def write(warp: Warp, values: Lanes, mask: Lanes) -> None:
        if is_wider:
            values = values.astype(wide)
        if values.dtype != held:
            values = values.view(held)
        registers = warp.registers
        registers[text] = values if mask is EVERY else np.where(mask, values, registers[text])

    return write


# Between registers


def _compute(program: Program, instruction: Instruction) -> Run:
    operation, qualifiers = OPERATIONS[instruction.opcode], instruction.qualifiers
    result, *kinds = operation.kinds(qualifiers)
    target, *sources = instruction.operands
    if len(sources) != len(kinds):
        raise PtxError(f"{instruction.text}: {len(sources)} operands where {len(kinds)} are known here")
    readers = [reader(program, text, kind) for text, kind in zip(sources, kinds, strict=True)]
    write, compute = writer(program, target, result), operation.compute

    if len(readers) == 1:
        (only,) = readers
        return lambda warp, mask: write(warp, compute(qualifiers, only(warp)), mask)
    if len(readers) == 2:
        first, second = readers
        return lambda warp, mask: write(warp, compute(qualifiers, first(warp), second(warp)), mask)
    return lambda warp, mask: write(warp, compute(qualifiers, *[read(warp) for read in readers]), mask)


def _pack(program: Program, instruction: Instruction) -> Run:
    """mov between a register and a vector of parts, the first in the low bits (mov, packing and unpacking)."""
    kind = instruction.qualifiers[-1]
    target, source = (vector(operand) for operand in instruction.operands)
    part = f"b{bits(kind) // max(len(target), len(source))}"
    if len(target) > 1:
        read = reader(program, source[0], kind)
        writers = [writer(program, name, part) for name in target]

        def unpack(warp: Warp, mask: Lanes) -> None:
            parts = np.ascontiguousarray(read(warp)).view(dtype(part)).reshape(LANES, -1)
            for write, values in zip(writers, parts.T.copy(), strict=True):
                write(warp, values, mask)

        return unpack
    readers, write = [reader(program, name, part) for name in source], writer(program, target[0], kind)

    def pack(warp: Warp, mask: Lanes) -> None:
        parts = np.stack([read(warp) for read in readers], axis=1)
        write(warp, np.ascontiguousarray(parts).view(dtype(kind)).reshape(LANES), mask)

    return pack


# Between lanes


def _shfl(program: Program, instruction: Instruction) -> Run:
    """shfl.sync.mode.b32 d[|p], a, b, c, membermask."""
    sync, mode, kind = instruction.qualifiers
    if sync != "sync" or kind != "b32":
        raise PtxError(f"{instruction.text}: only shfl.sync of b32 is known here")
    target, a, b, c, members = instruction.operands
    names = target.split("|")
    readers = [reader(program, text, "b32") for text in (a, b, c, members)]
    write = writer(program, names[0], kind)
    found = writer(program, names[1], "pred") if len(names) > 1 else None

    def run(warp: Warp, mask: Lanes) -> None:
        values, offsets, limits, members = (read(warp) for read in readers)
        _check_members(warp, members)
        given, inside = shuffle(mode, values, offsets, limits)
        write(warp, given, mask)
        if found is not None:
            found(warp, inside, mask)

    return run


def _sync(program: Program, instruction: Instruction) -> Run:
    """bar.warp.sync membermask."""
    read = reader(program, instruction.operands[0], "b32")
    return lambda warp, mask: _check_members(warp, read(warp))


def _check_members(warp: Warp, members: Lanes) -> None:
    if (members != _WHOLE_WARP).any():
        raise PtxError(f"{warp.where}: only a mask of the whole warp is known here")


def _movmatrix(program: Program, instruction: Instruction) -> Run:
    if instruction.qualifiers != ("sync", "aligned", "m8n8", "trans", "b16"):
        raise PtxError(f"{instruction.text} is not known here")
    target, source = instruction.operands
    read, write = reader(program, source, "b32"), writer(program, target, "b32")
    return lambda warp, mask: write(warp, transpose(read(warp)), mask)


def _mma(program: Program, instruction: Instruction) -> Run:
    kind = check_mma(instruction.qualifiers)
    target, *sources = (vector(operand) for operand in instruction.operands)
    readers = [[reader(program, name, "b32") for name in names] for names in sources]
    writers = [writer(program, name, "b32") for name in target]

    def run(warp: Warp, mask: Lanes) -> None:
        a, b, c = ([read(warp) for read in group] for group in readers)
        for write, values in zip(writers, multiply(kind, a, b, c), strict=True):
            write(warp, values, mask)

    return run


_MEETINGS: dict[str, Callable[[Program, Instruction], Run]] = {
    "shfl": _shfl,
    "movmatrix": _movmatrix,
    "mma": _mma,
}
KNOWN = {*OPERATIONS, *MEMORY_STEPS, *_MEETINGS, "bra", "ret", "exit", "bar", "barrier", "nanosleep"}
"""Every opcode that has a meaning here; sections.py cites each."""
