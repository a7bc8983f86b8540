"""Servers of this machine for tests of loads: one that computes nothing, and ones that never were any good."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from membound.bench.serving.null_server import Choose, NullServer, Script


@contextmanager
def null_server(script: Script, choose: Choose | None = None) -> Iterator[str]:
    """Its URL, while a thread of its own serves. `choose` gives the tokens of its answers."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def opened() -> tuple[NullServer, int]:
        server = NullServer(script, choose) if choose else NullServer(script)
        return server, await server.open()

    server, port = asyncio.run_coroutine_threadsafe(opened(), loop).result(10)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


Talk = Callable[[socket.socket, threading.Event], None]


@contextmanager
def bad_server(talk: Talk) -> Iterator[str]:
    """Its URL; `talk` gets each connection, and the event that ends the server."""
    over = threading.Event()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)
    listening.settimeout(0.05)
    threads: list[threading.Thread] = []

    def one(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.settimeout(5)
            talk(sock, over)

    def accept() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                sock, _ = listening.accept()
                threads.append(threading.Thread(target=one, args=(sock,), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        over.set()
        accepting.join(10)
        for thread in threads:
            thread.join(10)
        listening.close()


def garbage(sock: socket.socket, over: threading.Event) -> None:
    """Bytes that are no HTTP."""
    sock.recv(4096)
    sock.sendall(b"\x00\xff\x13 SSH-2.0-nothing\r\n")


def half_open(sock: socket.socket, over: threading.Event) -> None:
    """It takes the request and says nothing."""
    sock.recv(4096)
    over.wait(20)


def slow_loris(sock: socket.socket, over: threading.Event) -> None:
    """A byte of a head now and then, and never its end."""
    sock.recv(4096)
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.wait(0.02):
        sock.sendall(b"x")


def whole(status: str, body: bytes) -> Talk:
    """The same answer to whatever is asked."""

    def talk(sock: socket.socket, over: threading.Event) -> None:
        while sock.recv(65536):
            sock.sendall(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    return talk
