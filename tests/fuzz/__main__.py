"""Fuzzing for minutes or hours: python tests/fuzz TARGET [--engine atheris]; CONTRIBUTING.md says how.

python tests/fuzz rows --executions 10000000
python tests/fuzz works --engine atheris --minutes 10
python tests/fuzz rows --input build/fuzz/rows-0123456789abcdef
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "fakes"):
    sys.path.insert(0, str(folder))
KEPT = HERE.parents[1] / "build/fuzz"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python tests/fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("target", help="all, or one of those that tests/fuzz/targets.py lists")
    parser.add_argument("--engine", choices=("mutation", "atheris"), default="mutation",
                        help="mutation: of seeds, by structure, blind; atheris: guided by coverage")  # fmt: skip
    parser.add_argument("--executions", type=int, default=10_000_000)
    parser.add_argument("--minutes", type=float, default=5.0, help="at most, for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", type=Path, help="check this one input and show what it raises")
    return parser


def main() -> int:
    """0 without failures, 1 with any."""
    asked = _parser().parse_args()
    if asked.engine == "atheris":
        from coverage_guided import fuzz

        return fuzz(asked.target, asked.executions, asked.minutes, asked.seed, KEPT)
    from campaign import campaign
    from target import strict_warnings
    from targets import TARGETS

    if asked.target not in (*TARGETS, "all"):
        print(f"no target {asked.target!r}; there are all, {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if asked.input is not None:
        target = TARGETS[asked.target]
        _ = target.known  # seeds are made without bounds
        with strict_warnings():
            target.check(asked.input.read_bytes())
        return 0
    failed = False
    for target in TARGETS.values() if asked.target == "all" else (TARGETS[asked.target],):
        told = campaign(target, asked.executions, 60 * asked.minutes, asked.seed, KEPT,
                        lambda text: print(text, flush=True))  # fmt: skip
        print(f"{target.name}: {told.executions} executions in {told.seconds:.0f} s, slowest {told.slowest_s:.2f} s, "
              f"{len(told.failures)} distinct failures {told.failures or ''}", flush=True)  # fmt: skip
        failed |= bool(told.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
