"""`membound gate`: is a commit slower than another one? A verdict for a pull request.

membound gate --base main linear:n=4096,k=4096,weight=int8
membound gate --base-command "./old --benchmark-json {out}" --head-command "./new --benchmark-json {out}"
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from membound.bench.commands.options import (
    Backends,
    Debug,
    Json,
    NoiseFolder,
    Pairs,
    Rounds,
    Seed,
    Threads,
    console,
    folder,
    print_json,
    print_paths,
    print_text,
    share,
)
from membound.results.folders import GATES, NOISE

if TYPE_CHECKING:
    from rich.console import Console

    from membound.bench.gate.session import Request
    from membound.results.gate import Verdict


def gate(
    works: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORK", help="Specs as for `membound run`; default: its quick suite."),
    ] = None,
    base: Annotated[
        str, typer.Option("--base", metavar="REF", help="A commit, or row files: what to compare with.")
    ] = "",
    head: Annotated[
        str, typer.Option("--head", metavar="REF", help="The same; default: the working tree as it is.")
    ] = "",
    base_command: Annotated[
        str,
        typer.Option(
            metavar="COMMAND",
            help="Instead: a command that prints rows, or JSON as pytest has it, or writes them to {out}.",
        ),
    ] = "",
    head_command: Annotated[str, typer.Option(metavar="COMMAND", help="The same for the head.")] = "",
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Slow the head down, in its worker, and see it found.")
    ] = False,
    slowdown: Annotated[
        float,
        typer.Option(
            parser=share(0.001, 10.0), metavar="PERCENT", help="How much, for --selftest; default: 10%."
        ),
    ] = 0.10,
    backends: Backends = None,
    effect: Annotated[
        float,
        typer.Option(
            parser=share(0.001, 10.0),
            metavar="PERCENT",
            show_default="3%",
            help="A slowdown below this does not matter, nor one below what noise does.",
        ),
    ] = 0.03,
    unseen: Annotated[
        float,
        typer.Option(
            parser=share(0.001, 10.0),
            metavar="PERCENT",
            show_default="25%",
            help="A case is not called fine unless a slowdown of this size can be excluded.",
        ),
    ] = 0.25,
    pairs: Pairs = 12,
    rounds: Rounds = 9,
    extras: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Install each commit with its own constraints.txt and these extras, as in `test`; default: "
            "the packages that are installed here.",
        ),
    ] = None,
    threads: Threads = None,
    seed: Seed = 1,
    noise: NoiseFolder = NOISE,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown", metavar="FILE", help="Write the verdict as Markdown; `-` is standard output."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", parser=folder, metavar="FOLDER", help="Folder of the row files.")
    ] = GATES,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say whether a commit, or a command, is slower than another: both take turns here, pair by pair of processes.

    Exit status 0: fine; 1: regressed; 2: cannot tell or not comparable. `membound noise` teaches it this machine.
    """
    from membound.bench.gate import session
    from membound.results.exchange.whole_file import check_place, whole_file
    from membound.results.gate import Rule
    from membound.results.views.gate import gate_markdown, gate_record, gate_view

    to_stdout = markdown is not None and str(markdown) == "-"
    if as_json and to_stdout:
        raise typer.BadParameter("--json and --markdown - exclude each other")
    if markdown is not None and not to_stdout:
        check_place(markdown)
    talk = console(stderr=as_json or to_stdout)
    rule = Rule(effect, unseen, pairs)
    request = session.request_of(works, backends, threads, seed, rounds, rule, out, noise)
    progress = console(stderr=True)
    if selftest:
        _refuse_more(base, head, base_command, head_command)
        verdict = session.selftest(slowdown, request, progress)
    else:
        verdict = _verdict((base, head), (base_command, head_command), extras, request, progress)
    if as_json:
        print_json(gate_record(verdict))
    elif to_stdout:
        print_text(gate_markdown(verdict))
    else:
        talk.print(gate_view(verdict))
    if markdown is not None and not to_stdout:
        with whole_file(markdown, replace=True) as scratch:
            scratch.write_text(gate_markdown(verdict), encoding="utf-8")
    print_paths(talk, "rows", *verdict.rows)
    if selftest:
        raise typer.Exit(_found(verdict, talk))
    raise typer.Exit(verdict.exit_status)


def _refuse_more(*given: str) -> None:
    if any(given):
        raise typer.BadParameter(
            "--selftest gates this membound against itself: leave out bases, heads and commands"
        )


def _verdict(
    names: tuple[str, str], commands: tuple[str, str], extras: str | None, request: Request, progress: Console
) -> Verdict:
    """By what was named: commands, files or commits. Raises BadParameter, MemboundError."""
    from membound.bench.gate import session

    base, head = names
    if any(commands):
        if any(names) or not all(commands) or request.works or request.backends:
            raise typer.BadParameter(
                "--base-command and --head-command go together, without --base, --head, works and backends"
            )
        return session.gate_commands(*commands, request, progress)
    if not base:
        raise typer.BadParameter(
            "name what to compare with: --base REF, --base-command COMMAND, or --selftest"
        )
    files = [session.holds_rows(name) for name in names if name]
    if any(files):
        if len(files) < 2 or not all(files):
            raise typer.BadParameter("--base and --head must both be row files, or both be commits")
        if request.works or request.backends:
            raise typer.BadParameter("row files say which works and backends they hold: leave those out")
        return session.gate_files(base, head, request)
    return session.gate_commits(base, head, extras, request, progress)


def _found(verdict: Verdict, talk: Console) -> int:
    """Of a test of itself: 0 if the slowdown was found in every case that both sides measured."""
    judged = [one for one in verdict.judged if one.status != "left out"]
    found = [one for one in judged if one.status == "regressed"]
    talk.print(f"selftest: found in {len(found)} of {len(judged)} cases", markup=False, highlight=False)
    return 0 if judged and len(found) == len(judged) else 1
