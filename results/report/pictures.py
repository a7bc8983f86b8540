"""Charts as SVG: within a page, where marks are links with hints, and as files of their own.

>>> page_svg(chart, "Roofline of this CPU", "roofline-1")[:4]
'<svg'

Altair's SVG has each coordinate in 17 digits and a role on every group. What is left is what is seen and what is said: a
mark whose description begins with an anchor (``#c12 …``, see `cases.described`) becomes a link to it.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from membound.results.plain_text import as_html
from membound.results.report.drawing import styled, svg_of

NUMBER = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
IN_ATTRIBUTE = re.compile(r'\b(?:d|transform|x2|y2|width|height|viewBox|points)="[^"]*"')
NOTHING = re.compile(
    r'<path class="(?:background|foreground)"[^>]*(?:d=""|display="none"|M0,0h0v0h0Z")[^>]*/>'
    r"|<text [^>]*/>"
)
ROLES = re.compile(r' (?:role|aria-roledescription|aria-hidden|pointer-events|class)="[^"]*"')
MARK = re.compile(
    r'<(?P<tag>path|rect|line) (?P<before>[^>]*?)aria-label="(?P<label>[^"]*)"(?P<after>[^>]*)/>'
)
LABEL = re.compile(r' aria-label="[^"]*"')
ANCHOR = re.compile(r"#(?P<key>[\w-]+) (?P<text>.*)", re.S)


def file_svg(chart: Any) -> str:
    """The text of a file of its own: marks have hints and lead nowhere."""
    return _smaller(_marked(svg_of(styled(chart)), link=False))


def page_svg(chart: Any, title: str, name: str) -> str:
    """The same within a page: its marks are links, its names its own, its background that of the page."""
    return in_page(svg_of(styled(chart)), title, name)


def in_page(svg: str, title: str, name: str) -> str:
    """The text of an SVG file as a part of a page."""
    text = _own_names(_smaller(_marked(svg, link=True)), name)
    text = re.sub(r'<rect width="[\d.]+" height="[\d.]+" fill="white"/>', "", text, count=1)
    head = f'<svg role="group" aria-label="{as_html(title)}"'
    return re.sub(
        r"^<svg(?: version=\"[^\"]*\")?", lambda _: head, text, count=1
    )  # head may hold a backslash


def _marked(svg: str, link: bool) -> str:
    """Descriptions of marks as titles, which browsers show and read out; those that have an anchor as links."""

    def mark(found: re.Match[str]) -> str:
        anchor = ANCHOR.fullmatch(unescape(found["label"]))
        shape = f"<{found['tag']} {found['before']}{found['after']}"
        said = found["label"] if anchor is None else as_html(anchor["text"])
        title = f"<title>{said}</title>"
        if anchor is None or not link:
            return f"{shape}>{title}</{found['tag']}>"
        return f'<a href="#{anchor["key"]}">{title}{shape}/></a>'

    return LABEL.sub("", MARK.sub(mark, svg))


def _smaller(svg: str) -> str:
    """Coordinates to a hundredth of a pixel, without groups' roles and without what draws nothing."""
    svg = ROLES.sub("", NOTHING.sub("", svg))
    svg = IN_ATTRIBUTE.sub(lambda one: NUMBER.sub(lambda n: f"{float(n[0]):.2f}", one[0]), svg)
    while (less := re.sub(r"<g[^>]*></g>|<g>(<g[^>]*/>)</g>", "", svg)) != svg:
        svg = less
    return svg.replace(' opacity="1"', "").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")


def _own_names(svg: str, prefix: str) -> str:
    """The picture with unique names: each is drawn alone, and the drawing library counts its clips from 0."""
    own = re.sub(r"[^a-z0-9]+", "-", prefix.lower())
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{own}-\1"', svg)
    return re.sub(r'url\((["\']?)#([^)"\']+)\1\)', rf"url(#{own}-\2)", svg)
