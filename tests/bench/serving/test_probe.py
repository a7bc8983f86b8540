"""A first request: what a server says of itself, which fields it takes, and one line where it is no use."""

from __future__ import annotations

import asyncio
import json

import pytest
from servers import bad_server, garbage, half_open, null_server, slow_loris, whole

from membound.bench.serving.connection import Limits
from membound.bench.serving.endpoint import parse_url
from membound.bench.serving.null_server import MODEL, Script
from membound.bench.serving.probe import Facts, ask
from membound.bench.serving.schedule import LoadError

pytest.importorskip("httptools")

LIMITS = Limits(connect_s=2, idle_s=0.3, total_s=0.6)
SECRET = "sk-planted-4711"


def facts(url: str, name: str = "completions", model: str = "", limits: Limits = LIMITS) -> Facts:
    return asyncio.run(ask(parse_url(url, SECRET), name, model, limits))


@pytest.mark.parametrize("name", ["completions", "chat/completions"])
def test_the_only_model_is_taken_with_all_its_fields(name: str) -> None:
    with null_server(Script(0.001, 0.001)) as url:
        found = facts(url, name, limits=Limits(5, 5, 10))
    assert (found.model, found.max_length) == (MODEL, 1 << 20)
    assert found.fields.dropped == ([] if name == "completions" else ["ids"])


@pytest.mark.parametrize(
    ("fault", "dropped"), [("no-token-ids", ["return_token_ids"]), ("no-stream-options", ["include_usage"])]
)
def test_a_field_that_is_refused_is_given_up_alone(fault: str, dropped: list[str]) -> None:
    with null_server(Script(0.001, 0.001, fault=fault)) as url:
        assert facts(url, limits=Limits(5, 5, 10)).fields.dropped == dropped


def listing(*names: str) -> bytes:
    return json.dumps({"data": [{"id": name} for name in names]}).encode()


@pytest.mark.parametrize(
    ("talk", "model", "words"),
    [
        (garbage, "", "not http"),
        (half_open, "", "no byte for 0.3 s"),
        (slow_loris, "", "not at its end after"),
        (whole("401 Unauthorized", b"{}"), "", "refuses the key"),
        (whole("404 Not Found", b"nothing"), "", "lists no model"),
        (whole("200 OK", b"[" * 100_000), "", "lists no model"),
        (whole("200 OK", listing("a", "b")), "", "several models; name one with --model: a, b"),
        (whole("200 OK", listing("a", "b")), "c", "has no model 'c': it has a, b"),
        (whole("429 Too Many Requests", b'{"error":"slow down"}'), "m", "refused: HTTP 429: slow down"),
        (whole("400 Bad Request", b'{"error":"no"}'), "m", "refuses every form of a request"),
        (whole("200 OK", listing(f"for {SECRET}")), "", "gives its model the key for a name"),
        (whole("200 OK", listing("a", SECRET)), "c", "has no model 'c': it has a$"),
        (whole("200 OK", listing("a", SECRET)), "", "broken|cut"),
        (whole("200 OK", listing("a")), "a", "broken|cut"),
        (whole("500 Error", f"wrong key {SECRET}".encode()), "m", r"HTTP 500: wrong key \*\*\*"),
        (whole("400 Error", ("x " * 90 + SECRET).encode()), "m", "refuses every form"),
    ],
)
def test_a_server_that_is_no_use_is_told_in_a_line_without_the_key(talk, model, words) -> None:  # type: ignore[no-untyped-def]
    with bad_server(talk) as url, pytest.raises(LoadError, match=words) as raised:
        facts(url, model=model)
    assert "\n" not in str(raised.value)
    assert SECRET[:8] not in str(raised.value)


def test_nobody_there_and_tls_where_there_is_none() -> None:
    with pytest.raises(LoadError, match="cannot be reached"):
        facts("http://127.0.0.1:1/v1")
    with bad_server(garbage) as url, pytest.raises(LoadError, match="cannot be reached"):
        facts(url.replace("http:", "https:"))
    with bad_server(half_open) as url, pytest.raises(LoadError, match="cannot be reached"):
        facts(url.replace("http:", "https:"), limits=Limits(0.3, 0.3, 0.6))
