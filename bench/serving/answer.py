"""From bytes to a request: events of the OpenAI streaming protocol, tokens, and how it ended.

>>> read_answer(raw, started_ns=0, asked_tokens=64)
Request(due_s=0.0, sent_s=0.001, arrivals_s=[...], tokens=[1, 1, ...], outcome='ok', counted_by='ids')

The first token is the first chunk with token ids, content or reasoning, never the chunk that only names a role. Tokens
are counted by the ids in each chunk; else a chunk with text is one token, and the server's usage says whether that
holds. An error event in a stream whose status was 200 is a failure, and so is an event that is no JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from membound.bench.serving.raw import RawAnswer
from membound.results.serving.request import Request

DONE = b"[DONE]"
TEXTS = ("content", "reasoning", "reasoning_content")
"""Fields of a chat chunk's delta that hold tokens."""
OUTCOMES = {
    "closed": "cut",
    "stalled": "stalled",
    "timeout": "timeout",
    "unreachable": "unreachable",
    "not http": "broken",
    "flooded": "broken",
    "unsent": "unsent",
}
MOST_WORDS = 200
MOST_TOKENS = 1 << 40
"""Of a prompt or an answer: a count from here on is a lie, and a nuisance to arithmetic."""
LARGEST_ID, NO_ID = (1 << 31) - 1, -1
"""Ids beyond it are of no vocabulary: NO_ID stands for them."""
MOST_SHOWN = 1 << 16
"""Bytes of an answer that are looked at for words."""


@dataclass(slots=True)
class Stream:
    """What the events of one answer held."""

    arrivals_ns: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    with_ids: int = 0
    """Chunks with tokens whose ids were told."""
    usage: dict[str, Any] = field(default_factory=dict)
    finish: str = ""
    outcome: str = ""
    reason: str = ""
    secret: str = field(default="", repr=False)

    def fail(self, outcome: str, reason: str) -> None:
        """The first failure counts. A server may repeat the key that it was given: it is struck out."""
        if not self.outcome:
            if self.secret:
                reason = reason.replace(self.secret, "***")
            self.outcome, self.reason = outcome, " ".join(reason.split())[:MOST_WORDS]


def read_answer(raw: RawAnswer, started_ns: int, asked_tokens: int | None, secret: str = "") -> Request:
    """The request behind it. `asked_tokens`: the length that the server was told to give; None if it may stop earlier.

    `secret` is struck out of what the server says.
    """
    seen = read_stream(raw, secret)
    told = _count(seen.usage.get("completion_tokens")) or None
    by_ids = bool(seen.tokens) and seen.with_ids == len(seen.tokens)
    count = sum(seen.tokens) if by_ids or told is None else told
    if not seen.outcome and raw.end == "complete" and not count:
        seen.fail("broken", "the stream ended without a token")
    if not seen.outcome and asked_tokens is not None and count != asked_tokens:
        seen.fail("short", f"{count} tokens, {asked_tokens} were asked for")

    def at(ns: int | None) -> float | None:
        return None if ns is None else (ns - started_ns) / 1e9

    return Request(
        due_s=(raw.due_ns - started_ns) / 1e9,
        sent_s=at(raw.sent_ns),
        arrivals_s=[(ns - started_ns) / 1e9 for ns in seen.arrivals_ns],
        tokens=seen.tokens,
        reads=seen.reads,
        told_tokens=None if by_ids else told,
        ended_s=at(raw.ended_ns),
        outcome=seen.outcome or "ok",
        reason=seen.reason,
        prompt_tokens=_count(seen.usage.get("prompt_tokens")),
        counted_by="ids" if by_ids else "usage" if told is not None else "chunks",
    )


def _count(told: Any) -> int:
    """A number of tokens as a server tells it; 0 where it is none."""
    return told if type(told) is int and 0 <= told < MOST_TOKENS else 0


def read_stream(raw: RawAnswer, secret: str = "") -> Stream:
    """All events of an answer, and the first thing that was wrong with it."""
    seen = Stream(secret=secret)
    if raw.status and raw.status != 200:
        seen.fail("refused", f"HTTP {raw.status}: {_message(b''.join(part for *_, part in raw.parts))}")
        return seen
    done = False
    for at_ns, read, data in events(raw):
        if data == DONE:
            done = True
            break
        _take(seen, at_ns, read, data)
        if seen.outcome:
            break
    if raw.end != "complete" and not (done and raw.end == "closed"):
        seen.fail(OUTCOMES.get(raw.end, "cut"), raw.why or raw.end)
    elif not done and not seen.finish and not seen.outcome:
        seen.fail("cut", "the stream ended without [DONE] and without a finish_reason")
    return seen


def events(raw: RawAnswer) -> Iterator[tuple[int, int, bytes]]:
    """(when, read, data) of each event: of the part that brought its end. Comments and fields other than data are passed by."""
    buffer, carried = bytearray(), b""
    for at_ns, read, part in raw.parts:
        part = carried + part
        carried = b"\r" if part.endswith(b"\r") else b""
        searched = max(0, len(buffer) - 1)
        buffer += part.removesuffix(b"\r").replace(b"\r\n", b"\n")
        start = 0
        while (cut := buffer.find(b"\n\n", max(start, searched))) >= 0:
            lines = bytes(buffer[start:cut]).split(b"\n")
            start = cut + 2
            data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
            if data:
                yield at_ns, read, b"\n".join(data)
        del buffer[:start]


def _take(seen: Stream, at_ns: int, read: int, data: bytes) -> None:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        seen.fail("broken", f"an event is no JSON: {data[:MOST_SHOWN].decode(errors='replace')}")
        return
    if not isinstance(body, dict):
        seen.fail("broken", f"an event is no object: {data[:MOST_SHOWN].decode(errors='replace')}")
        return
    if body.get("error") is not None:
        seen.fail("failed", f"an error event in the stream: {_message(data)}")
        return
    if isinstance(body.get("usage"), dict):
        seen.usage = body["usage"]
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, dict):
        seen.fail("broken", "a choice is no object")
        return
    seen.finish = seen.finish or str(choice.get("finish_reason") or "")
    ids = _ids(choice)
    if ids or _text(choice):
        seen.arrivals_ns.append(at_ns)
        seen.reads.append(read)
        seen.tokens.append(len(ids) or 1)
        seen.with_ids += bool(ids)
        seen.ids += ids


def _ids(choice: dict[str, Any]) -> list[int]:
    """The ids of a choice's tokens: vLLM's field, or the entries of llama.cpp's logarithms of probabilities; [] where it tells none."""
    told = choice.get("token_ids")
    if not isinstance(told, list):
        logprobs = choice.get("logprobs")
        content = logprobs.get("content") if isinstance(logprobs, dict) else None
        told = (
            [one.get("id") for one in content if isinstance(one, dict)] if isinstance(content, list) else []
        )
    return [one if 0 <= one <= LARGEST_ID else NO_ID for one in told if type(one) is int]


def _text(choice: dict[str, Any]) -> bool:
    """Whether a choice holds any text: of a completion, or of a chat's content or reasoning."""
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return any(isinstance(delta.get(name), str) and delta[name] for name in TEXTS)
    return isinstance(choice.get("text"), str) and bool(choice["text"])


def _message(body: bytes) -> str:
    """The words of an error body, or its beginning."""
    text = body[:MOST_SHOWN].decode(errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()
    error = found.get("error", found) if isinstance(found, dict) else found
    words = error.get("message", error) if isinstance(error, dict) else error
    return str(words)
