"""Runs a program for which flock fails, as on file systems that have no such locks: python no_locks.py ERRNO PROGRAM ARGUMENT...

The kernel refuses the call itself (seccomp, linux/Documentation/userspace-api/seccomp_filter.rst), for the program and all that it starts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

FLOCK = {"x86_64": 73, "aarch64": 32}
"""The number of the call, by machine."""
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
"""Of prctl (linux/prctl.h, linux/seccomp.h)."""
LOAD_WORD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
"""Of a filter (linux/bpf_common.h)."""
ERRNO, ALLOW = 0x00050000, 0x7FFF0000


def refuse(call: int, number: int) -> None:
    """From now on a system call fails with that errno. Raises OSError where filters are not allowed."""
    instructions = (
        (LOAD_WORD, 0, 0, 0),
        (IF_EQUAL, 0, 1, call),
        (RETURN, 0, 0, ERRNO | number),
        (RETURN, 0, 0, ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = struct.pack("HP", len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((NO_NEW_PRIVILEGES, 1, 0, 0, 0), (SECCOMP, FILTER, program, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse(FLOCK[platform.machine()], int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
