"""Asking a server what it serves and which fields it takes, before anything counts.

>>> facts = asyncio.run(ask(endpoint, "completions", model="", limits=Limits()))
>>> facts.model, facts.max_length, facts.fields.dropped
('my-model', 4096, ['return_token_ids'])
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace

from membound.bench.serving.answer import read_answer
from membound.bench.serving.bodies import Asked, Fields, Prompts, body
from membound.bench.serving.connection import Connection, Limits
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.raw import RawAnswer
from membound.bench.serving.schedule import LoadError

PROBE_TOKENS = 4
PROMPT_TOKENS = 8
MOST_S = 120.0
"""From sending a first request to its end: a server that is cold has time to warm up, one that trickles bytes has an end."""


@dataclass(frozen=True, slots=True)
class Facts:
    """`max_length`: the longest prompt and answer together; None where the server does not say.

    `tells_ids`: whether it tells the ids of its tokens where it is asked for them.
    """

    model: str
    max_length: int | None
    fields: Fields
    tells_ids: bool = True


async def ask(endpoint: Endpoint, name: str, model: str, limits: Limits) -> Facts:
    """Which model there is, and the most of the optional fields that it takes. Raises LoadError in one line."""
    limits = replace(limits, total_s=min(limits.total_s, MOST_S))
    found, longest = await _model(endpoint, model, limits)
    fields: Fields | None = Fields() if name == "completions" else Fields(ids=False)
    words = ""
    while fields is not None:
        prompts = Prompts(seed=0)
        prompt = prompts.ids(PROMPT_TOKENS, 0) if fields.ids else prompts.text(PROMPT_TOKENS, 0)
        raw = await _once(
            endpoint,
            "POST",
            endpoint.path(name),
            body(Asked(name, found, PROBE_TOKENS), prompt, fields),
            limits,
        )
        one = read_answer(raw, raw.due_ns, None, endpoint.key)
        if one.ok:
            return Facts(found, longest, fields, one.counted_by == "ids")
        if one.outcome != "refused" or raw.status not in (400, 422):
            raise LoadError(
                f"{endpoint.url} gives no whole answer to a first request: {one.outcome}: {one.reason}"
            )
        words = one.reason
        fields = fields.without(words)
    raise LoadError(f"{endpoint.url} refuses every form of a request to {name}: {words}")


async def _model(endpoint: Endpoint, wanted: str, limits: Limits) -> tuple[str, int | None]:
    """The model that is asked for, or the only one there is, and its longest sequence."""
    raw = await _once(endpoint, "GET", endpoint.path("models"), b"", limits)
    if raw.status in (401, 403):
        raise LoadError(
            f"{endpoint.url} refuses the key (HTTP {raw.status}): give the right one by --key-env or --key-file"
        )
    try:
        listed = json.loads(b"".join(part for *_, part in raw.parts))["data"]
        models = {str(one["id"]): one.get("max_model_len") for one in listed}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        models = {}
    if models and not (
        models := {name: most for name, most in models.items() if not _has_key(endpoint, name)}
    ):
        raise LoadError(f"{endpoint.url} gives its model the key for a name, which must not be stored")
    if not models and raw.end != "complete":
        raise LoadError(f"{endpoint.url} gives no answer: {raw.end}: {raw.why}")
    if not models:
        if wanted:
            return wanted, None
        raise LoadError(f"{endpoint.url} lists no model (HTTP {raw.status}): name one with --model")
    if wanted and wanted not in models:
        raise LoadError(f"{endpoint.url} has no model {wanted!r}: it has {', '.join(models)[:200]}")
    if not wanted and len(models) > 1:
        raise LoadError(
            f"{endpoint.url} has several models; name one with --model: {', '.join(models)[:200]}"
        )
    name = wanted or next(iter(models))
    longest = models[name]
    return name, longest if type(longest) is int and longest > 0 else None


def _has_key(endpoint: Endpoint, text: str) -> bool:
    return bool(endpoint.key) and endpoint.key in text


async def _once(endpoint: Endpoint, method: str, path: str, data: bytes, limits: Limits) -> RawAnswer:
    """A request on a connection of its own."""
    raw = RawAnswer(time.monotonic_ns())
    try:
        connection = await Connection.open(endpoint, limits)
    except OSError as error:
        raise LoadError(f"{endpoint.url} cannot be reached: {error.strerror or error}") from None
    try:
        return await connection.request(method, path, data, raw)
    finally:
        connection.close()
