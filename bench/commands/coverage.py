"""`membound coverage`: which works and formats each backend supports.

membound coverage --markdown
"""

from __future__ import annotations

from membound.bench.commands.options import (
    Debug,
    Json,
    Markdown,
    Pythons,
    console,
    one_format,
    print_json,
    print_text,
)


def coverage(
    python: Pythons = None, as_json: Json = False, as_markdown: Markdown = False, debug: Debug = False
) -> None:
    """Show which kinds of works and which formats each backend supports, as each says itself.

    Devices that are here are opened and asked. Of the others those are asked that need not be opened for it.
    """
    from membound.backends import registry
    from membound.bench.planning.choice import check_threads, parse_pythons
    from membound.bench.planning.coverage import as_json as records_of
    from membound.bench.planning.coverage import coverage_markdown, coverage_view, gather

    one_format(as_json, as_markdown)
    table = gather(registry.entries(), check_threads(None), parse_pythons(python or ()))
    if as_json:
        print_json(records_of(table))
    elif as_markdown:
        print_text(coverage_markdown(table))
    else:
        console().print(coverage_view(table))
