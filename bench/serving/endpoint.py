"""Where a load goes: an address, a path, a key that nobody sees.

>>> endpoint = parse_url("http://127.0.0.1:8000/v1", key="")
>>> endpoint.host, endpoint.port, endpoint.path("completions")
('127.0.0.1', 8000, '/v1/completions')

A key comes from the environment or a file. It stands in no row, no log, no argument and no message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from membound.bench.serving.schedule import LoadError

API = "/v1"
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server."""

    host: str
    port: int
    tls: bool = False
    prefix: str = API
    key: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """For people: without user, password and key."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"

    def path(self, name: str) -> str:
        """The path of ``completions``, ``chat/completions`` or ``models``."""
        return f"{self.prefix}/{name}"

    def head(self, method: str, path: str, length: int) -> bytes:
        """The head of a request with a JSON body of that many bytes."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [
            f"{method} {path} HTTP/1.1",
            f"host: {host}:{self.port}",
            "content-type: application/json",
            "accept: text/event-stream, application/json",
            f"content-length: {length}",
        ]
        if self.key:
            lines.append(f"authorization: Bearer {self.key}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def parse_url(text: str, key: str = "") -> Endpoint:
    """``http://host:port`` with or without ``/v1``. Raises LoadError, which repeats neither password nor key."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise LoadError("the URL cannot be read: give http://HOST:PORT/v1") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise LoadError("the URL must begin with http:// or https:// and name a host: http://HOST:PORT/v1")
    if parts.username is not None or parts.password is not None:
        raise LoadError("the URL holds a user or a password: give keys by --key-env or --key-file")
    if parts.query or parts.fragment:
        raise LoadError("the URL has a query or a fragment: give http://HOST:PORT/v1")
    if not text.isascii() or any(not 32 < ord(c) < 127 for c in text):
        raise LoadError("the URL holds characters that no URL has: give http://HOST:PORT/v1")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:  # an empty part between dots, or one of more than 63 letters
        raise LoadError("the URL names a host that there cannot be: give http://HOST:PORT/v1") from None
    if any(not 32 < ord(c) < 127 for c in key):
        raise LoadError("the key holds characters that no HTTP header can; is it the right file or variable?")
    prefix = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/completions")
    return Endpoint(parts.hostname, port or PORTS[parts.scheme], parts.scheme == "https", prefix or API, key)
