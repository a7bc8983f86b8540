"""The grammar of a work's text: ``kind:key=value,key=value,…``, with quotes around values that need them.

>>> settings('step:model="out/lr=0.1,bs=2",batch=1')
{'model': 'out/lr=0.1,bs=2', 'batch': '1'}

A value ends at the next comma, unless it begins with a double or a single quote: then it ends at the same quote, and
two of them in a row are one that is meant. Nothing else is special within a value, a backslash neither.
"""

from __future__ import annotations

import re

_PIECE = re.compile(r"""[^,=]*(?:=\s*(?:"(?:[^"]|"")*"|'(?:[^']|'')*')?[^,]*)?""")
_QUOTED = re.compile(r""""((?:[^"]|"")*)"|'((?:[^']|'')*)'""")
_KIND = re.compile(r"\s*[a-z]+:")

CONTENT = "content"
"""The key by which a model folder or file is known; its path may change."""
PATHS = ("model=", "file=")


def pieces(text: str) -> list[str]:
    """The parts of a text between commas, those within quoted values aside."""
    found, at = [], 0
    while at <= len(text) and (match := _PIECE.match(text, at)):  # it matches everywhere, if nothing
        found.append(match[0])
        at = match.end() + 1
    return found


def split_specs(text: str) -> list[str]:
    """Specs with commas between them: a comma before ``kind:`` starts a new one."""
    specs: list[str] = []
    for piece in pieces(text):
        if specs and not _KIND.match(piece):
            specs[-1] += f",{piece}"
        else:
            specs.append(piece)
    return [spec.strip() for spec in specs]


def quoted(value: str) -> str:
    """A value as it can stand in a spec: in double quotes if it would not come back as it is without."""
    if value and "," not in value and value[0] not in "\"'" and value == value.strip():
        return value
    return '"{}"'.format(value.replace('"', '""'))


def unquoted(text: str) -> str:
    """What `quoted` made of a value, undone. Raises ValueError where a quote is not closed at the end of the value."""
    text = text.strip()
    if text[:1] not in ('"', "'"):
        return text
    match = _QUOTED.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:60]} begins with a quote that is not closed at its end")
    mark = text[0]
    return text[1:-1].replace(2 * mark, mark)


def settings(spec: str) -> dict[str, str]:
    """The keys of a spec as rows have it: ``linear:n=8,k=32`` gives ``{"n": "8", "k": "32"}``.

    A value whose quotes are odd, which only a foreign row can hold, stays as it is.
    """
    found = {}
    for piece in pieces(spec.partition(":")[2]):
        key, _, value = piece.partition("=")
        if key:
            try:
                found[key] = unquoted(value)
            except ValueError:
                found[key] = value
    return found


def identity(spec: str) -> str:
    """The text that two works share if they are the same: a folder or file is known by its content, wherever it lies."""
    kind, _, rest = spec.partition(":")
    parts = pieces(rest)
    if not any(part.startswith(f"{CONTENT}=") for part in parts):
        return spec
    return f"{kind}:{','.join(part for part in parts if not part.startswith(PATHS))}"
