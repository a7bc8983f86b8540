"""The checksum at the end of a stored line: a character that has changed since it was written is seen.

>>> sealed(b'{"a":1}')
b'{"a":1,"checksum":"561bacaf"}'
"""

from __future__ import annotations

import re
from zlib import crc32

MARK = b',"checksum":"'
SEAL = re.compile(re.escape(MARK) + rb'([0-9a-f]{8})"\}\s*')


class ChangedLine(ValueError):
    """A character of the line has changed since it was written."""


def sealed(line: bytes) -> bytes:
    """A line of JSON, an object, with the CRC-32 of what it was as its last entry."""
    return b'%s,"checksum":"%08x"}' % (line[:-1], crc32(line))


def unsealed(line: bytes) -> bytes:
    """The line as it was before; one of an older membound, without a checksum, as it is.

    Raises ChangedLine.
    """
    end, _ = seal_of(line)
    return line if end < 0 else line[:end] + b"}"


def seal_of(line: bytes) -> tuple[int, int]:
    """Where the checksum begins, before which the line is as it was but for its brace, and the CRC-32; (-1, 0) of a line without.

    Raises ChangedLine.
    """
    at = line.rfind(MARK)
    if at < 0:
        return -1, 0
    checksum = crc32(b"}", crc32(memoryview(line)[:at]))
    if line[at + len(MARK) :] == b'%08x"}\n' % checksum:  # nearly every line of a file
        return at, checksum
    found = SEAL.fullmatch(line, at)
    if found is None:
        return -1, 0
    if checksum != int(found[1], 16):
        raise ChangedLine("it has changed since it was written (its checksum does not fit)")
    return at, checksum
