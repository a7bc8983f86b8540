"""The kernel's times of what sockets receive, switched on for the machine before the first of them is needed.

>>> with stamps_on():
...     ask_for_stamps(sock)

Linux begins to note such times when the first socket of all asks for them, and not at once: for some milliseconds (up to 4.3 seen
on Linux 6.18) what comes over TCP has none. It stops after the last of these sockets is closed.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_SO_TIMESTAMPNS = 35  # Linux: asm-generic/socket.h; Python has no name for it
CONTROL_BYTES = socket.CMSG_SPACE(16) if hasattr(socket, "CMSG_SPACE") else 64
"""Room for one struct timespec."""
MOST_S = 0.25
"""Where nothing has been stamped by then, nothing will be."""


def ask_for_stamps(sock: socket.socket, wanted: bool = True) -> None:
    """Have the kernel tell when it received what `sock` reads. Raises OSError where it has no such thing."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, int(wanted))


@contextmanager
def stamps_on() -> Iterator[bool]:
    """Keep them on meanwhile: whether they are. Waits until they are, for MOST_S at most."""
    with ExitStack() as stack:
        try:
            on = _switched_on(stack)
        except OSError:  # no such option, no loopback, no more open files: times are those of reading then
            on = False
        yield on


def _switched_on(stack: ExitStack) -> bool:
    if sys.platform != "linux":
        return False
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = stack.enter_context(socket.create_connection(server.getsockname()))
        ours, _ = server.accept()
    stack.enter_context(ours)
    ask_for_stamps(ours)
    end = time.monotonic() + MOST_S
    while time.monotonic() < end:
        theirs.sendall(b"x")
        if ours.recvmsg(1, CONTROL_BYTES)[1]:
            return True
        time.sleep(0.0005)
    return False
