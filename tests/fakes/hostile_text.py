"""Text from a stranger that would steer a terminal, a page or a table, and rows that have it in every field that is shown."""

from __future__ import annotations

from typing import Any

from rows import case, ceiling, failed

STEERING = "a\x1b]0;title\x07b\x1b[2Jc\x9bd\x7fe\u202ef\rg"
HOSTILE = [
    "[red]x[/red]",
    "[/]",
    "[/x",
    "test_mm[f32]",
    "[link=http://x.y]z[/link]",
    ":skull:",
    STEERING,
    "<script>alert(1)</script>",
    "<img src=x>",
    "![x](http://x.y/z)",
    "`code` | cell |",
    "\n# heading\n</details>",
    "half \udc80 of a character",
    "=1+1",
    "a reason so long that its line is broken before a word: ::error file=x.py,line=1::y",
    "##[error]z",
    "\u00e4\u4e2d\U0001f480",
]
HEADING = "# heading"
"""What would stand on a line of its own if the ends of lines in names were obeyed."""
TAGS = ("<script", "<img", "</details>\n#", "](http")


def rows_of(text: str) -> list[Any]:
    """Text from a stranger in every field of a row that is shown."""
    about = {
        "run_id": f"run {text}",
        "device": text,
        "machine": {"cpu": text, "last_level_cache_bytes": 1 << 20},
    }
    return [
        ceiling("read", 11e9, "bytes/s", backend=f"a{text}:cpu", config={"variant": text}, **about),
        case(f"a{text}:cpu", grade="contended", grade_reasons=[text], **about),
        case(f"b{text}:cpu", work=f"linear:n=8,k=32,{text}", **about),
        failed("error", text, backend=f"c{text}:cpu", **about),
        failed("unsupported", text, backend=f"d{text}:cpu", **about),
    ]
