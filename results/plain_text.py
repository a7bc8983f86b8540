"""Text from outside as it can be shown: data and never commands, whoever wrote it.

>>> visible("torch\\x1b[2J"), as_markdown("a <b>"), as_html("a <b>")
('torch\\\\x1b[2J', 'a &lt;b&gt;', 'a &lt;b&gt;')

Names, reasons, paths and rows come from strangers. Whatever leaves the package for people goes through here: consoles
(`views.console.PlainConsole`), lines (`printable`, in files `visible`), names in them (`in_one_line`), Markdown (`as_markdown`) and pages (`as_html`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""Control characters but the tab and the end of a line, marks that turn the direction of text, halves of characters, and what is none."""
COMMAND = re.compile(
    r"::(?=(?:(?:add|remove)-(?:mask|matcher|path)|set-(?:output|env)|save-state|stop-commands|debug|notice|warning|error|(?:end)?group|echo)"
    r"(?:\s[^\n]*)?::)|##(?=(?:vso|teamcity)?\[)",
    re.IGNORECASE,
)
"""What CI systems (GitHub, Azure, TeamCity) obey where it begins a line, and any line that is too long may be broken there."""
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "&#96;", "](": "]&#40;"}
MARKS = re.compile("|".join(map(re.escape, ENTITIES)))


def visible(text: str, encoding: str | None = "utf-8") -> str:
    """The text with escapes (``\\x1b``) for what would steer a terminal, or what `encoding` cannot say."""
    shown = HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
    name = encoding or "utf-8"
    return shown.encode(name, "backslashreplace").decode(name)


def printable(text: str, encoding: str | None = "utf-8") -> str:
    """The same of what is printed: with escapes also for what CI systems take from their logs for commands."""
    return COMMAND.sub(lambda found: f"\\x{ord(found[0][0]):x}{found[0][1:]}", visible(text, encoding))


def in_one_line(text: object, encoding: str | None = "utf-8") -> str:
    """The same of a name within a line, where the end of a line is shown too: folders and files may have it in theirs."""
    return visible(str(text), encoding).replace("\n", "\\n")


def as_markdown(text: str) -> str:
    """The text as one line within Markdown: no tags, no links, no code spans. Tables escape its bars."""
    return MARKS.sub(lambda found: ENTITIES[found[0]], " ".join(visible(text).split("\n")))


def as_html(text: str) -> str:
    """The text within a page, between tags or in a quoted attribute: no tags, no entities of its own."""
    return escape(visible(text))


def markdown_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose texts can stand within Markdown."""
    return {name: as_markdown(v) if isinstance(v, str) else v for name, v in record.items()}
