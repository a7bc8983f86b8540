"""The header of a GGUF file: its metadata, and where its tensors lie.

>>> header = read_header(Path("model.gguf"))
>>> header.text("general.architecture"), header.tensors["output_norm.weight"].shape
('llama', (2048,))

Version 2 and 3, little-endian. Source: ggml-org/ggml, docs/gguf.md. Every length is checked against the file's size before
anything is read by it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from membound.kernels.config_json import LFS_POINTER, MAX_COUNT, pointer_error
from membound.kernels.model import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
MOST_DIMENSIONS = 4
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How `struct` reads the types of values that are numbers, little-endian."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of ggml's: numbers of a block and bytes of it."""

    name: str
    block: int
    size: int


KINDS = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2),
    2: Kind("Q4_0", 32, 18),
    8: Kind("Q8_0", 32, 34),
    12: Kind("Q4_K", 256, 144),
    14: Kind("Q6_K", 256, 210),
    30: Kind("BF16", 1, 2),
}
"""The types that are read, by their numbers in a file (ggml/include/ggml.h); ggml-common.h has the blocks."""
OTHERS = {
    3: Kind("Q4_1", 32, 20),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24),
    10: Kind("Q2_K", 256, 84),
    11: Kind("Q3_K", 256, 110),
    13: Kind("Q5_K", 256, 176),
    15: Kind("Q8_K", 256, 292),
    16: Kind("IQ2_XXS", 256, 66),
    17: Kind("IQ2_XS", 256, 74),
    18: Kind("IQ3_XXS", 256, 98),
    19: Kind("IQ1_S", 256, 50),
    20: Kind("IQ4_NL", 32, 18),
    21: Kind("IQ3_S", 256, 110),
    22: Kind("IQ2_S", 256, 82),
    23: Kind("IQ4_XS", 256, 136),
    24: Kind("I8", 1, 1),
    25: Kind("I16", 1, 2),
    26: Kind("I32", 1, 4),
    27: Kind("I64", 1, 8),
    28: Kind("F64", 1, 8),
    29: Kind("IQ1_M", 256, 56),
    34: Kind("TQ1_0", 256, 54),
    35: Kind("TQ2_0", 256, 66),
    39: Kind("MXFP4", 32, 17),
}
"""Types that are counted and not read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor: shape with rows first, number of its type, offset from the file's start, bytes (0 of an unknown type)."""

    shape: tuple[int, ...]
    number: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. `digest` is the SHA-256 of all that stands before the tensors' numbers."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Entry]
    digest: str

    def text(self, name: str) -> str:
        """A field that is a text. Raises ModelError."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise ModelError(f"{self.path}: {name}={value!r:.60} must be a text")
        return value

    def count(self, name: str, default: int | None = None, most: int = MAX_COUNT) -> int:
        """A field that counts something. Raises ModelError."""
        value = self.fields.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelError(
                f"{self.path}: {name}={value!r:.60} must be a positive whole number up to {most}"
            )
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A field that measures something. Raises ModelError."""
        value = self.fields.get(name, default)
        if not isinstance(value, float) or not 0 < value < float("inf"):
            raise ModelError(f"{self.path}: {name}={value!r:.60} must be a positive number")
        return value


class _Reader:
    """Reads numbers and texts one after the other; what lies beyond the end raises ModelError."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise ModelError(
                f"{self.path} cannot be read: it ends within its header, with {len(self.data)} bytes it was cut short"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        try:
            return bytes(self.take(self.number("Q"))).decode()
        except UnicodeDecodeError:
            raise ModelError(
                f"{self.path} cannot be read: a text in its header is not UTF-8, the file is damaged"
            ) from None

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY and depth == 0:
            inner, count = self.number("I"), self.number("Q")
            if inner in SCALARS:
                size = struct.calcsize(f"<{SCALARS[inner]}")
                return list(struct.unpack(f"<{count}{SCALARS[inner]}", self.take(count * size)))
            if count > len(self.data):
                raise ModelError(
                    f"{self.path} cannot be read: a list of {count} texts is longer than the file"
                )
            return [self.value(inner, depth + 1) for _ in range(count)]
        if kind not in SCALARS:
            raise ModelError(f"{self.path} cannot be read: its header has a value of the unknown type {kind}")
        return self.number(SCALARS[kind])


def read_header(path: Path) -> Header:
    """Raises ModelError that names the file and what is wrong with it."""
    try:
        stat = path.stat()
        return _read(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=8)
def _read(path: Path, size: int, changed_ns: int) -> Header:
    """The header of a file as it is now, read once."""
    import mmap

    if not size:
        raise ModelError(f"{path} cannot be read: it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = memoryview(mapped)
        try:
            return _header(path, data)
        finally:
            data.release()


def _header(path: Path, data: memoryview) -> Header:
    if bytes(data[: len(LFS_POINTER)]) == LFS_POINTER:
        raise pointer_error(path)
    reader = _Reader(path, data)
    if bytes(reader.take(min(4, len(data)))) != MAGIC:
        raise ModelError(f"{path} cannot be read: it is no GGUF file")
    version = reader.number("I")
    if version not in VERSIONS:
        raise ModelError(
            f"{path} cannot be read: GGUF version {version} is not supported; supported: 2, 3, little-endian"
        )
    tensors, values = reader.number("Q"), reader.number("Q")
    fields: dict[str, Any] = {}
    for _ in range(values):
        name = reader.text()
        fields[name] = reader.value(reader.number("I"))
    parts = fields.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        number = fields.get("split.no")
        at = f"part {number + 1}" if isinstance(number, int) else "a part"
        raise ModelError(
            f"{path} is {at} of {parts} of a model: join them with llama.cpp's `llama-gguf-split --merge FIRST WHOLE`"
        )
    entries = [_entry(reader) for _ in range(tensors)]
    alignment = fields.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or alignment < 1:
        raise ModelError(f"{path}: general.alignment={alignment!r:.60} must be a positive whole number")
    start = -(-reader.at // alignment) * alignment
    table: dict[str, Entry] = {}
    for name, shape, number, offset in entries:
        if name in table:
            raise ModelError(f"{path} cannot be read: it has two tensors {name}")
        table[name] = _placed(path, len(data), name, shape, number, start + offset)
    digest = hashlib.sha256(data[: reader.at]).hexdigest()
    return Header(path, fields, table, digest)


def _entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = reader.text(), reader.number("I")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ModelError(
            f"{reader.path} cannot be read: {name:.60} has {dimensions} dimensions, the file is damaged"
        )
    sizes = [reader.number("Q") for _ in range(dimensions)]
    return name, tuple(reversed(sizes)), reader.number("I"), reader.number("Q")


def _placed(path: Path, size: int, name: str, shape: tuple[int, ...], number: int, offset: int) -> Entry:
    kind = KINDS.get(number) or OTHERS.get(number)
    if kind is None:
        return Entry(shape, number, offset, 0)
    if shape[-1] % kind.block:
        raise ModelError(
            f"{path}: {name} has rows of {shape[-1]} numbers, no whole blocks of {kind.name}: the file is damaged"
        )
    nbytes = prod(shape) // kind.block * kind.size
    if offset + nbytes > size:
        raise ModelError(
            f"{path} cannot be read: {name} lies beyond its end, with {size} bytes it was cut short"
        )
    return Entry(shape, number, offset, nbytes)
