"""Addresses: what is taken, what is refused, and that no key is ever shown."""

from __future__ import annotations

import pytest

from membound.bench.serving.endpoint import Endpoint, parse_url
from membound.bench.serving.schedule import LoadError

SECRET = "sk-planted-4711"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:8000", Endpoint("127.0.0.1", 8000)),
        ("http://127.0.0.1:8000/v1/", Endpoint("127.0.0.1", 8000)),
        ("http://127.0.0.1:8000/v1/chat/completions", Endpoint("127.0.0.1", 8000)),
        ("https://api.example.org/openai/v1", Endpoint("api.example.org", 443, True, "/openai/v1")),
        ("http://[::1]:9/v1", Endpoint("::1", 9)),
    ],
)
def test_addresses(text: str, expected: Endpoint) -> None:
    assert parse_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:8000",
        "ftp://h/v1",
        "http://",
        "http://h:99999",
        f"http://u:{SECRET}@h/v1",
        f"http://h/v1?key={SECRET}",
        "http://h/ü",
        "http://a..b/v1",
        f"http://{'a' * 64}.example.org/v1",
        "http://h:" + "9" * 5000,
        "http://h/a b",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_a_secret(text: str) -> None:
    with pytest.raises(LoadError, match="URL") as raised:
        parse_url(text)
    assert SECRET not in str(raised.value)


def test_a_key_is_sent_and_nowhere_shown() -> None:
    endpoint = parse_url("http://[::1]:9/v1", SECRET)
    head = endpoint.head("POST", endpoint.path("completions"), 3).decode()
    assert f"authorization: Bearer {SECRET}\r\n" in head
    assert head.startswith("POST /v1/completions HTTP/1.1\r\nhost: [::1]:9\r\n")
    assert SECRET not in repr(endpoint) + endpoint.url
    with pytest.raises(LoadError, match="key") as raised:
        parse_url("http://h", f"{SECRET}\r\nx: y")
    assert SECRET not in str(raised.value)
