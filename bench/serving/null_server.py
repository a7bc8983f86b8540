"""A server that computes nothing: tokens come at times that were laid down, so that a client can be measured.

>>> server = NullServer(Script(ttft_s=0.05, itl_s=0.02))
>>> port = await server.open()

It speaks the streaming protocol of OpenAI's completions and chats, answers like an engine (a role first, usage last), and
misbehaves where a fault is named. Each chunk tells `t_ns`, CLOCK_MONOTONIC right before it was sent, and `r_ns`, when the
kernel had the request: what a client on the same machine tells beyond that, it and the kernel have added.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from membound.bench.serving.clocks import received_ns
from membound.bench.serving.raw import Read
from membound.bench.serving.stamps import stamps_on
from membound.bench.serving.wires import KernelWire

FAULTS = {
    "429": "refused with status 429",
    "503": "refused with status 503 and plain text",
    "no-stream-options": "status 400 where stream_options are asked for",
    "no-token-ids": "status 400 where return_token_ids is asked for",
    "error-event": "an error event after half of the tokens",
    "garbage": "an event that is no JSON after half of the tokens",
    "cut": "the connection is reset after half of the tokens",
    "close": "the connection is closed after half of the tokens, in order",
    "stall": "nothing more after half of the tokens",
    "hang": "no answer at all",
    "short": "half of the tokens, and the end",
    "multi": "four tokens in each chunk",
    "no-usage": "no usage, whoever asks for it",
    "reasoning": "the first half of the tokens are reasoning",
    "split": "each event in two segments",
    "crlf": "lines end with CR LF",
    "ping": "a comment before each event",
    "no-http": "bytes that are no HTTP",
}
"""What a server may do wrong, or differently, and what each is."""

CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
MODEL = "null"
DEFAULT_TOKENS = 16
TOKEN = 17
"""What it says by default."""


@dataclass(frozen=True, slots=True)
class Script:
    """When tokens come, and what goes wrong with every `every`-th request.

    `steps`: all streams of a step are sent together, `itl_s` after the last step, as engines do. Otherwise each
    stream has its own clock.
    """

    ttft_s: float = 0.05
    itl_s: float = 0.02
    steps: bool = False
    fault: str = ""
    every: int = 1


@dataclass(slots=True, eq=False)
class Answer:
    """A stream that is under way."""

    session: Session
    chat: bool
    total: int
    prompt: int
    usage: bool
    with_ids: bool
    fault: str
    received_ns: int
    chosen: Sequence[int] = ()
    due: float = 0.0
    sent: int = 0


Choose = Callable[[Any, int], Sequence[int]]


@dataclass(slots=True)
class NullServer:
    """Listens on a loopback address while it is open."""

    script: Script
    choose: Choose = lambda prompt, total: [TOKEN] * total
    """The tokens that it answers with: `total` of them, behind a prompt of ids or text."""
    model: str = MODEL
    requests: int = 0
    _active: set[Answer] = field(default_factory=set)
    _sessions: set[Session] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _socket: socket.socket | None = None
    _stamps: ExitStack = field(default_factory=ExitStack)

    async def open(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; returns the port. Raises OSError."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError:
            listening.close()
            raise
        listening.listen(4096)
        listening.setblocking(False)
        self._socket = listening
        self._stamps.enter_context(stamps_on())
        self._start(self._accept(listening))
        if self.script.steps:
            self._start(self._step())
        return int(listening.getsockname()[1])

    async def close(self) -> None:
        """End all streams and stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in list(self._sessions):
            session.close()
        if self._socket is not None:
            self._socket.close()
        self._stamps.close()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listening)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sessions.add(Session(self, sock))

    def gone(self, session: Session) -> None:
        """A client has left, and takes its streams along."""
        self._sessions.discard(session)
        self._active = {one for one in self._active if one.session is not session}

    # Requests

    def take(self, session: Session, method: str, path: str, body: bytes, received_ns: int) -> None:
        """Answer a request, or do what the fault says."""
        if method == "GET":
            known = path in ("/health", "/v1/models")
            found = {
                "object": "list",
                "data": [{"id": self.model, "object": "model", "max_model_len": 1 << 20}],
            }
            session.whole("200 OK" if known else "404 Not Found", json.dumps(found).encode())
            return
        try:
            asked = json.loads(body)
            answer = self._answer(session, path, asked, received_ns)
        except (ValueError, TypeError, AttributeError, RecursionError):
            session.whole("400 Bad Request", b'{"error":{"message":"the body is no request"}}')
            return
        if not self._refused(answer, asked):
            self._begin(answer)

    def _answer(self, session: Session, path: str, asked: dict[str, Any], received_ns: int) -> Answer:
        self.requests += 1
        script = self.script
        fault = script.fault if script.fault and self.requests % script.every == 0 else ""
        total = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or DEFAULT_TOKENS)
        prompt = asked.get("prompt", asked.get("messages"))
        tokens = len(prompt) if isinstance(prompt, list) else len(str(prompt).split())
        usage = bool((asked.get("stream_options") or {}).get("include_usage")) and fault != "no-usage"
        ids, total = bool(asked.get("return_token_ids")), max(1, total)
        chosen = self.choose(prompt, total) if ids else ()
        return Answer(session, "chat" in path, total, tokens, usage, ids, fault, received_ns, chosen)

    def _refused(self, answer: Answer, asked: dict[str, Any]) -> bool:
        """Whether this request ends here."""
        session, fault = answer.session, answer.fault
        unknown = {"no-stream-options": "stream_options", "no-token-ids": "return_token_ids"}.get(fault, "")
        if fault == "429":
            session.whole("429 Too Many Requests", b'{"error":{"message":"slow down","code":429}}')
        elif fault == "503":
            session.whole("503 Service Unavailable", b"overloaded")
        elif fault == "no-http":
            session.write(b"220 this is another protocol\r\n")
        elif unknown and unknown in asked:
            words = f"Unrecognized request argument supplied: {unknown}"
            session.whole("400 Bad Request", json.dumps({"error": {"message": words, "code": 400}}).encode())
        elif fault != "hang":
            return False
        return True

    def _begin(self, answer: Answer) -> None:
        answer.session.write(CHUNKED)
        if answer.chat:
            self._emit(answer, {"delta": {"role": "assistant", "content": ""}})
        loop = asyncio.get_running_loop()
        answer.due = loop.time() + self.script.ttft_s
        self._active.add(answer)
        if not self.script.steps:
            loop.call_at(answer.due, self._token, answer)

    # Tokens

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self.script.itl_s, loop.time())
            await asyncio.sleep(due - loop.time())
            for answer in [one for one in self._active if one.due <= due]:
                self._token(answer)

    def _token(self, answer: Answer) -> None:
        if answer not in self._active:
            return
        count = 4 if answer.fault == "multi" else 1
        count = min(count, answer.total - answer.sent)
        half = answer.sent >= answer.total // 2
        if half and answer.fault in _HALFWAY:
            self._active.discard(answer)
            _HALFWAY[answer.fault](answer)
            return
        if half and answer.fault == "garbage":
            answer.session.event(answer, b'{"id": "x", "choi')
        self._emit(answer, self._content(answer, count), count)
        answer.sent += count
        if answer.sent >= answer.total or (answer.fault == "short" and answer.sent >= answer.total // 2):
            self._active.discard(answer)
            self._end(answer)
        elif not self.script.steps:
            answer.due += self.script.itl_s * count
            asyncio.get_running_loop().call_at(answer.due, self._token, answer)

    def _content(self, answer: Answer, count: int) -> dict[str, Any]:
        text = " w" * count
        early = answer.fault == "reasoning" and answer.sent < answer.total // 2
        content: dict[str, Any] = {"text": text}
        if answer.chat:
            content = {"delta": {"reasoning_content" if early else "content": text}}
        if answer.with_ids:
            content["token_ids"] = list(answer.chosen[answer.sent : answer.sent + count])
        return content

    def _emit(self, answer: Answer, content: dict[str, Any], count: int = 0) -> None:
        last = answer.sent + count >= answer.total
        choice = {"index": 0, **content, "finish_reason": "length" if last and count else None}
        told = {"choices": [choice], "r_ns": answer.received_ns, "t_ns": time.monotonic_ns()}
        answer.session.event(answer, json.dumps(told, separators=(",", ":")).encode())

    def _end(self, answer: Answer) -> None:
        if answer.usage:
            told = {"prompt_tokens": answer.prompt, "completion_tokens": answer.sent}
            answer.session.event(answer, json.dumps({"choices": [], "usage": told}).encode())
        answer.session.event(answer, b"[DONE]")
        answer.session.write(b"0\r\n\r\n")


def _error(answer: Answer) -> None:
    answer.session.event(answer, b'{"error":{"message":"EngineDeadError","code":500}}')
    answer.session.event(answer, b"[DONE]")
    answer.session.write(b"0\r\n\r\n")


_HALFWAY: dict[str, Callable[[Answer], None]] = {
    "error-event": _error,
    "cut": lambda answer: answer.session.reset(),
    "close": lambda answer: answer.session.close(),
    "stall": lambda answer: None,
}


class Session:
    """A client's connection."""

    def __init__(self, server: NullServer, sock: socket.socket) -> None:
        import httptools

        self._server, self._sock = server, sock
        self._waiting = bytearray()
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._error = httptools.HttpParserError
        self._path, self._body, self._at_ns = "", bytearray(), 0
        self._wire = KernelWire(sock)
        self._wire.on_reads, self._wire.on_end = self._came, self._gone

    def _came(self, reads: list[Read]) -> None:
        try:
            for _, stamp, data in reads:
                self._at_ns = received_ns(stamp)
                self._parser.feed_data(data)
        except self._error:
            self.close()

    def _gone(self, why: str) -> None:
        self._server.gone(self)
        self.close()

    # Called by httptools

    def on_url(self, url: bytes) -> None:
        """The path of a request."""
        self._path = url.decode("latin-1").partition("?")[0]
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """The request is whole."""
        method = self._parser.get_method().decode()
        self._server.take(self, method, self._path, bytes(self._body), self._at_ns)

    # Answers

    def whole(self, status: str, body: bytes) -> None:
        """An answer of one piece."""
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.write(head.encode() + body)

    def event(self, answer: Answer, data: bytes) -> None:
        """An event of a stream, as a chunk of HTTP."""
        end = b"\r\n" if answer.fault == "crlf" else b"\n"
        text = b"data: " + data + 2 * end
        if answer.fault == "ping":
            text = b": ping" + 2 * end + text
        framed = b"%x\r\n%b\r\n" % (len(text), text)
        if answer.fault == "split":
            half = len(framed) // 2
            self.write(framed[:half])
            self.write(framed[half:])
            return
        self.write(framed)

    def write(self, data: bytes) -> None:
        """Hand bytes to the system, in order; what it does not take waits."""
        if self._waiting:
            self._waiting += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._waiting += data[sent:]
            self._loop.add_writer(self._sock.fileno(), self._drain)

    def _drain(self) -> None:
        try:
            del self._waiting[: self._sock.send(self._waiting)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._waiting:
            self._loop.remove_writer(self._sock.fileno())

    def reset(self) -> None:
        """End it the hard way: the client gets a reset."""
        if self._sock.fileno() >= 0:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        """End it in order."""
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._sock.fileno())
        self._wire.close()
