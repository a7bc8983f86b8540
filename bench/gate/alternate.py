"""Two commands whose output is benchmarks, run in turn, pair by pair: their rows as those of a base and a head.

>>> rows = alternate(commands, pairs=range(12), run_id="20261128T101500-epyc-1f3a", seed=1, note=print)

A command prints a file of benchmarks, as rows or as JSON of pytest-benchmark, on standard output, or writes it where
``{out}`` stands in it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import IO

from membound.bench.gate.trees import GateError
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.machine.secrets import command_line, command_text, without_secrets
from membound.bench.protocol import guardian
from membound.bench.run.ceiling_rows import now
from membound.results.alternated import in_turn
from membound.results.pairs import SIDES
from membound.results.row import Row
from membound.results.store import SUFFIX, load_rows

OUT = "{out}"
LIMIT_S = 1800.0
"""A command that takes longer is ended, and the gate with it."""
LAST_BYTES = 4096
DOCUMENT = ".json"


@dataclass(frozen=True, slots=True)
class SideCommand:
    """A command as words; what it writes is read from where OUT stands in it, else from its standard output."""

    words: tuple[str, ...]
    option: str
    """How it was given, for messages."""
    limit_s: float = LIMIT_S
    accepted: tuple[int, ...] = (0,)
    """Statuses with which it ends in order."""

    @classmethod
    def parse(cls, text: str, option: str) -> SideCommand:
        """Split as a shell would, without running one. Raises GateError."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise GateError(f"{option} {command_text(text)!r} cannot be split into words: {error}") from None
        if not words:
            raise GateError(f"{option} is empty; give a command that prints rows or JSON of pytest-benchmark")
        return cls(words, option)

    def rows(self) -> list[Row]:
        """Run it once. Raises GateError where it fails, or where its output holds no rows."""
        with tempfile.TemporaryDirectory(dir=guardian.scratch_folder()) as folder:
            out = Path(folder) / "out"
            printed = self._run([word.replace(OUT, str(out)) for word in self.words])
            if any(OUT in word for word in self.words):
                if not out.exists():
                    raise GateError(f"{self.option} wrote nothing to {OUT}")
            else:
                out.write_bytes(printed)
            try:
                found = [row for row in load_rows(_named(out)) if row.kind == "case"]
            except ValueError as error:  # of rows, or of figures that no row can hold
                raise GateError(f"the output of {self.option} cannot be read: {error}") from None
        if not found:
            raise GateError(
                f"{self.option} gave no benchmark; it must print rows or JSON of pytest-benchmark"
            )
        return found

    def _run(self, words: Sequence[str]) -> bytes:
        """Standard output. The command is ended, with what it started, if it takes too long or the gate is ended."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=os.environ | {guardian.HARNESS: guardian.harness_mark()},
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                raise GateError(f"{self.option}: {words[0]} cannot be started: {why}") from None
            try:
                status = process.wait(self.limit_s)
            except subprocess.TimeoutExpired:
                raise GateError(f"{self.option} took longer than {self.limit_s:.0f} s") from None
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if status not in self.accepted:
                said = without_secrets(_last_words(err) or _last_words(out))
                raise GateError(f"{self.option} ended with status {status}: {said or 'it printed nothing'}")
            out.seek(0)
            return out.read()


def alternate(
    commands: Mapping[str, SideCommand],
    pairs: Sequence[int],
    run_id: str,
    seed: int,
    note: Callable[[str], None],
) -> Iterator[Row]:
    """The rows of every pair, labelled by side; which side goes first is drawn. Raises as `SideCommand.rows`."""
    rng, machine = Random(f"{seed} {run_id}"), fingerprint()
    for done, number in enumerate(pairs):
        for side in rng.sample(SIDES, len(SIDES)):
            note(f"[{done}/{len(pairs)}] {side}")
            command = commands[side]
            for row in command.rows():
                one = in_turn(row, side, number, run_id)
                yield replace(
                    one,
                    machine=machine,
                    command=command_line(command.words),
                    started_at=row.started_at or now(),
                )


def _named(out: Path) -> Path:
    """The output under the name that its content calls for; a folder of runs as it is."""
    if out.is_dir():
        return out
    try:
        content = json.loads(out.read_bytes())
    except (ValueError, RecursionError):
        content = None
    is_document = isinstance(content, dict) and "benchmarks" in content
    return out.rename(out.with_suffix(DOCUMENT if is_document else SUFFIX))


def _last_words(stream: IO[bytes]) -> str:
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - LAST_BYTES))
    lines = stream.read().decode(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
