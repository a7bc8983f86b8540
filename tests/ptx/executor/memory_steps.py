"""Instructions that touch memory: ld, st, cvta, cp.async; each as a step of a warp.

Sources, PTX ISA 9.0: ld, ld.global.nc, st, cvta; Non-bulk copy. Cache operators and prefetch sizes (.L1::no_allocate,
.L2::256B, .cg) are hints on speed only. .volatile may not be moved or merged, which nothing here does anyway.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from executor.numbers import Lanes, dtype, raw
from executor.program import Instruction, Program, PtxError, vector
from executor.warp import EVERY, Warp

SHARED_WINDOW = 1 << 60
"""Where shared memory begins among generic addresses (cvta)."""
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]")
_KNOWN = {"global", "shared", "param", "nc", "volatile", "cg", "ca", "cs", "L1::no_allocate", "L2::256B"} | {
    "L2::128B",
    "relaxed",
    "sys",
    "v2",
    "v4",
}
Make = Callable[[Program, str, str], Any]
Run = Callable[[Warp, Lanes], None]


def _address(program: Program, text: str, kind: str, reader: Make) -> Callable[[Warp], Lanes]:
    """[register or shared array + constant]."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise PtxError(f"{text} is no address that is known here")
    base, offset = reader(program, match[1], kind), np.uint64(int(match[2] or 0) % (1 << 64))
    if kind != "u64":
        return lambda warp: base(warp).astype(np.uint64) + offset
    return lambda warp: base(warp) + offset if offset else base(warp)


def _space(instruction: Instruction) -> str:
    unknown = set(instruction.qualifiers[:-1]) - _KNOWN
    if unknown:
        raise PtxError(f"{instruction.text}: {', '.join(sorted(unknown))} is not known here")
    return next((q for q in instruction.qualifiers if q in ("global", "shared", "param")), "generic")


def _width(program: Program, text: str) -> str:
    """Addresses of shared memory may be of 32 bits."""
    match = _ADDRESS.fullmatch(text)
    return f"u{program.registers.get(match[1], 64)}" if match else "u64"


def _in_shared(space: str, addresses: Lanes) -> tuple[bool, Lanes]:
    """Whether these are addresses of shared memory, and as such."""
    if space != "generic" or addresses[0] < SHARED_WINDOW:
        return space == "shared", addresses
    return True, addresses - np.uint64(SHARED_WINDOW)


def _load(program: Program, instruction: Instruction, reader: Make, writer: Make) -> Run:
    space, kind = _space(instruction), instruction.qualifiers[-1]
    targets = vector(instruction.operands[0])
    writers = [writer(program, name, kind) for name in targets]
    if space == "param":
        return _parameter(instruction, kind, writers[0])
    element, constant = dtype(kind), "nc" in instruction.qualifiers
    size = element.itemsize * len(targets)
    place = _address(program, instruction.operands[1], _width(program, instruction.operands[1]), reader)

    def run(warp: Warp, mask: Lanes) -> None:
        addresses, who = place(warp), warp.who(mask)
        shared, addresses = _in_shared(space, addresses if mask is EVERY else addresses[mask])
        if shared:
            words = warp.block.shared.load(addresses, size, who)
        else:
            words = warp.block.memory.load(addresses, size, who, constant)
        found = words.view(element).reshape(-1, len(targets))
        if mask is not EVERY:
            values = np.zeros((len(mask), len(targets)), element)
            values[mask], found = found, values
        for write, value in zip(writers, np.ascontiguousarray(found.T), strict=True):
            write(warp, value, mask)

    return run


def _parameter(instruction: Instruction, kind: str, write: Any) -> Run:
    match = _ADDRESS.fullmatch(instruction.operands[1])
    assert match is not None
    name = match[1]

    def run(warp: Warp, mask: Lanes) -> None:
        bits = np.full(len(mask), warp.block.parameters[name], np.uint64)
        write(warp, bits.astype(f"u{dtype(kind).itemsize}").view(dtype(kind)), mask)

    return run


def _store(program: Program, instruction: Instruction, reader: Make, writer: Make) -> Run:
    space, kind = _space(instruction), instruction.qualifiers[-1]
    place = _address(program, instruction.operands[0], _width(program, instruction.operands[0]), reader)
    readers = [reader(program, name, kind) for name in vector(instruction.operands[1])]
    word = f"V{dtype(kind).itemsize * len(readers)}"

    def run(warp: Warp, mask: Lanes) -> None:
        addresses = place(warp)
        shared, addresses = _in_shared(space, addresses if mask is EVERY else addresses[mask])
        values = np.stack([raw(read(warp)) for read in readers], axis=1)
        content = values if mask is EVERY else values[mask]
        memory = warp.block.shared if shared else warp.block.memory
        memory.store(addresses, content.view(word)[:, 0], warp.who(mask))

    return run


def _cvta(program: Program, instruction: Instruction, reader: Make, writer: Make) -> Run:
    """cvta{.to}.space.u64: global addresses are generic ones, shared memory has a window."""
    window = np.uint64(SHARED_WINDOW if "shared" in instruction.qualifiers else 0)
    read = reader(program, instruction.operands[1], "u64")
    write = writer(program, instruction.operands[0], "u64")
    if "to" in instruction.qualifiers:
        return lambda warp, mask: write(warp, read(warp) - window, mask)
    return lambda warp, mask: write(warp, read(warp) + window, mask)


def _copy(program: Program, instruction: Instruction, reader: Make, writer: Make) -> Run:
    """cp.async.cg.shared.global [dst], [src], 16; commit_group; wait_group N."""
    if "commit_group" in instruction.qualifiers:
        return lambda warp, mask: warp.block.copies[warp.first // 32].commit(np.flatnonzero(mask))
    if "wait_group" in instruction.qualifiers:
        pending = int(instruction.operands[0])
        return lambda warp, mask: warp.block.copies[warp.first // 32].wait(pending, np.flatnonzero(mask))
    if instruction.qualifiers[:4] != ("async", "cg", "shared", "global") or instruction.operands[2] != "16":
        raise PtxError(f"{instruction.text} is not known here")
    to, of = instruction.operands[:2]
    target, source = _address(program, to, _width(program, to), reader), _address(program, of, "u64", reader)

    def run(warp: Warp, mask: Lanes) -> None:
        copies = warp.block.copies[warp.first // 32]
        to, of = target(warp), source(warp)
        if mask is not EVERY:
            to, of = to[mask], of[mask]
        copies.start(to, of, 16, warp.who(mask), np.flatnonzero(mask))

    return run


def smallest_access(program: Program) -> int:
    """Bytes of the smallest load or store of global or shared memory; copies have sixteen."""
    return min(
        (
            dtype(one.qualifiers[-1]).itemsize * len(vector(one.operands[one.opcode == "st"]))
            for one in program.instructions
            if one.opcode in ("ld", "st") and _space(one) != "param"
        ),
        default=16,
    )


MEMORY_STEPS: dict[str, Callable[[Program, Instruction, Make, Make], Run]] = {
    "ld": _load,
    "st": _store,
    "cvta": _cvta,
    "cp": _copy,
}
