"""A file of another tool as it was read: its text, and the JSON in it, before anybody knows which tool wrote it.

>>> document = read_document(Path("results.json"))
>>> document.content["total_token_throughput"]

Formats are recognised by what stands in a file, never by its name, so each one is read once and every importer looks
at the same `Document`.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from membound.results.row import RowError

MOST_BYTES = 256 << 20
"""Foreign files are read whole. A day of requests with every token's time is a tenth of this."""
MOST_COLUMNS = 10_000
"""Of a table. The widest that a tool writes here has some hundreds."""


@dataclass(frozen=True, slots=True)
class Document:
    """One file. `content` is its JSON, if it is one value; `lines` its values, if it is one to a line; else None.

    `json_error` says why a file that looks like JSON is none; `head` is its first line of text.
    """

    path: Path
    text: str
    digest: str
    """SHA-256 of its bytes, in hexadecimal."""
    content: Any = None
    lines: list[Any] | None = None
    json_error: str = ""

    @property
    def head(self) -> str:
        """The first line that is not empty."""
        return next((line for line in self.text[:100_000].splitlines() if line.strip()), "")

    @property
    def run_id(self) -> str:
        """A name for the run: that of the file with the beginning of its digest, so that two files never share one."""
        return f"{self.path.stem[:80]}-{self.digest[:8]}"

    def has(self, *keys: str) -> bool:
        """Whether the JSON is an object with all these keys."""
        return isinstance(self.content, dict) and all(key in self.content for key in keys)

    def records(self, *keys: str) -> list[dict[str, Any]]:
        """The objects of the file, one, a list or one to a line, if each has all these keys; else nothing."""
        whole = self.content if isinstance(self.content, list) else [self.content]
        found = self.lines if self.content is None and self.lines is not None else whole
        fits = all(isinstance(one, dict) and all(key in one for key in keys) for one in found)
        return list(found) if found and fits else []

    def table(self, *columns: str) -> list[dict[str, str]]:
        """The lines of a CSV file whose header has all these columns, else nothing. Raises RowError on a ragged line."""
        header = next(csv.reader([self.head]), []) if self.head.count(",") <= MOST_COLUMNS else []
        if not set(columns) <= set(header):
            return []
        return rows_of_csv(self.path, self.text)


def rows_of_csv(path: Path, text: str) -> list[dict[str, str]]:
    """Every line of a CSV table by the names of its header. Raises RowError on a line of another width."""
    found = csv.reader(io.StringIO(text))
    try:
        numbered = [(found.line_num, line) for line in found if line]
    except csv.Error as error:
        raise RowError(f"{path}, line {found.line_num}: {error}") from None
    (_, header), *others = numbered
    if len(set(header)) < len(header):
        raise RowError(f"{path}: a column stands twice in its header")
    for number, line in others:
        if len(line) != len(header):
            raise RowError(f"{path}, line {number}: {len(line)} cells under a header of {len(header)}")
    return [dict(zip(header, line, strict=True)) for _, line in others]


def read_document(path: Path) -> Document:
    """The file. Raises RowError if it is empty, too large or no text, and OSError if it cannot be read."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise RowError(
            f"{path} has {size / 1e9:.1f} GB: files of other tools are read up to {MOST_BYTES >> 20} MiB"
        )
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError(f"{path} is not text in UTF-8 (byte {error.start}); save it as UTF-8") from None
    if not text.strip():
        raise RowError(f"{path} is empty")
    content, lines, wrong = None, None, ""
    if text.lstrip()[0] in "[{":
        try:
            content = _json(text)
        except ValueError as error:
            lines, wrong = _lines(text), str(error)
    return Document(path, text, sha256(raw).hexdigest(), content, lines, "" if lines else wrong)


def _lines(text: str) -> list[Any] | None:
    """The values of a file that has one to a line, or None."""
    try:
        return [_json(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return None


def _json(text: str) -> Any:
    """Numbers that are none (NaN, 1e999) pass here: settings hold them. `measurement.time_of` refuses them."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)[:60]!r} stands twice")
    return whole
