"""`membound gate` and `membound noise` behind their options: what is built, measured, judged and said meanwhile.

>>> verdict = gate_commits("main", "", request, talk, progress)
>>> verdict.exit_status
0
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from membound.bench.gate.alternate import SideCommand
from membound.bench.gate.gating import gated, judged_files, known_noise
from membound.bench.gate.source import Commands, Source, Turns, pace_of, whole_runs
from membound.bench.gate.trees import (
    GateError,
    Tree,
    built,
    interpreter_script,
    resolve,
    working_tree,
    write_script,
)
from membound.bench.machine.secrets import command_line, command_text
from membound.bench.planning.choice import check_threads, split, split_works
from membound.bench.planning.plan import Options
from membound.bench.protocol import guardian
from membound.bench.protocol.messages import PROTOCOL
from membound.bench.run.progress import Reporter, progress_on
from membound.bench.worker import COUNTS, SLOWDOWN
from membound.results.gate import Rule, Verdict
from membound.results.noise import FEWEST, Noise
from membound.results.pairs import BASE, HEAD, Case
from membound.results.store import SUFFIX


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked besides base and head. `noise` is the folder of `membound noise`."""

    works: Sequence[str]
    backends: Sequence[str]
    options: Options
    rule: Rule
    noise: Path


def request_of(
    works: Sequence[str] | None,
    backends: Sequence[str] | None,
    threads: int | None,
    seed: int,
    rounds: int,
    rule: Rule,
    out: Path,
    noise: Path,
) -> Request:
    """What `membound gate` and `membound noise` were asked, checked. Raises OptionError."""
    options = Options(
        threads=check_threads(threads),
        seed=seed,
        pace=pace_of(rounds),
        out=out,
        command=command_line(["membound", *sys.argv[1:]]),
    )
    return Request(split_works(works or ()), split(backends or ()), options, rule, noise)


class Talk:
    """Lines for people: what was picked, how far it has come."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def holds_rows(name: str) -> bool:
    """Whether a base or head is a row file, or a folder of some, and no commit."""
    # os.path gives False for a name that is too long, where Path's methods raise.
    return os.path.isfile(name) or (os.path.isdir(name) and any(Path(name).rglob(f"*{SUFFIX}")))


def gate_files(base: str, head: str, request: Request) -> Verdict:
    """Of stored rows. Raises NotPaired, StoreError, RowError."""
    return judged_files(base, head, request.rule, known_noise(request.noise))


def gate_commits(base: str, head: str, extras: str | None, request: Request, console: Console) -> Verdict:
    """Build both commits and have them take turns; no head is the working tree. Raises MemboundError."""
    talk, here = Talk(console), Path.cwd()
    commits = (resolve(base, here), resolve(head, here) if head else working_tree(here))
    trees = [built(commit, here, extras, talk) for commit in commits]
    names = (str(commits[0]), str(commits[1]))
    strangers = [tree for tree in trees if tree.protocol != PROTOCOL]
    notes = [
        f"{tree.commit} speaks another protocol ({tree.protocol}) than this membound ({PROTOCOL}): whole runs of each commit "
        "took turns, and not single bursts, which tells less"
        for tree in strangers[:1]
    ]
    talk(f"base: {names[0]}, head: {names[1]}")
    with progress_on(console) as progress:
        if strangers:
            source: Source = _whole_runs(trees, request, talk)
        else:
            pythons = {BASE: str(trees[0].python), HEAD: str(trees[1].python)}
            source = _turns(pythons, request, progress, talk)
        return gated(source, request.rule, known_noise(request.noise), names, talk, notes)


def gate_commands(base: str, head: str, request: Request, console: Console) -> Verdict:
    """Have two commands take turns. Raises MemboundError."""
    commands = {
        BASE: SideCommand.parse(base, "--base-command"),
        HEAD: SideCommand.parse(head, "--head-command"),
    }
    source = Commands(commands, request.options.out, request.options.seed, Talk(console))
    names = (command_text(base), command_text(head))
    return gated(source, request.rule, known_noise(request.noise), names, Talk(console))


def selftest(slowdown: float, request: Request, console: Console) -> Verdict:
    """This membound against itself with every launch prolonged by that share, in the worker. Raises MemboundError."""
    with (
        tempfile.TemporaryDirectory(dir=guardian.scratch_folder()) as folder,
        progress_on(console) as progress,
    ):
        slowed = {BASE: {COUNTS: "1"}, HEAD: {COUNTS: "1", SLOWDOWN: repr(slowdown)}}
        pythons = {
            side: str(write_script(Path(folder) / side, interpreter_script(sys.executable, variables)))
            for side, variables in slowed.items()
        }
        source = _turns(pythons, request, progress, Talk(console))
        names = ("this membound", f"this membound, every launch prolonged by {slowdown:.1%}")
        return gated(source, request.rule, known_noise(request.noise), names, Talk(console))


def learn_noise(command: str, request: Request, console: Console) -> tuple[Path, dict[Case, Noise]]:
    """Measure pairs of one and the same and store them: the file, and what all stored ones come to. Raises MemboundError."""
    talk, out = Talk(console), request.options.out
    with progress_on(console) as progress:
        if command:
            both = SideCommand.parse(command, "--command")
            source: Source = Commands({BASE: both, HEAD: both}, out, request.options.seed, talk)
        else:
            source = _turns({BASE: sys.executable, HEAD: sys.executable}, request, progress, talk)
        path, _ = source.measure(None, request.rule.pairs, 0)
    found = known_noise(out)
    if not found:
        raise GateError(
            f"no case has {FEWEST} pairs that count: others disturbed this machine, or nothing could be measured; "
            f"the rows are in {path}"
        )
    return path, found


def _turns(pythons: dict[str, str], request: Request, progress: Reporter, talk: Talk) -> Turns:
    found = Turns.of(request.works, request.backends, pythons, request.options, progress)
    talk(f"backends: {', '.join(found.works)}")
    cases = sum(map(len, found.works.values()))
    talk(f"{cases} cases, {request.rule.pairs} pairs of fresh processes each")
    return found


def _whole_runs(trees: Sequence[Tree], request: Request, talk: Talk) -> Commands:
    """Each commit chooses by itself what was not named: it cannot be asked."""
    options = request.options
    commands = {
        side: whole_runs(request.works, request.backends, options.threads, str(tree.python), side)
        for side, tree in zip((BASE, HEAD), trees, strict=True)
    }
    return Commands(commands, options.out, options.seed, talk)
