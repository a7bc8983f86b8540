"""The commit of the code that is measured, for `versions` of its rows: by which a case's history goes.

>>> commit_of(Path(membound.__file__))      # of a checkout; '' of what was installed, outside CI
'3196ee3d1f0c-dirty'
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import membound
from membound.bench.machine.fingerprint import package_versions

COMMIT = "commit"
"""Its name among the versions."""
VARIABLE = "MEMBOUND_COMMIT"
"""Who knows better says so: `membound gate` does, whose trees are no repositories."""
OF_CI = ("GITHUB_SHA", "CI_COMMIT_SHA", "BUILDKITE_COMMIT", "GIT_COMMIT")
"""The commit that a job is about, by GitHub, GitLab, Buildkite and Jenkins."""
FORM = re.compile(r"[0-9a-f]{7,64}(-dirty)?")
DIGITS = 12
LIMIT_S = 10.0


def versions_of(packages: Iterable[str], source: Path = Path(membound.__file__)) -> dict[str, str]:
    """Versions of the packages that are installed here, and the commit of a source file where it is known."""
    commit = commit_of(source)
    return package_versions(packages) | ({COMMIT: commit} if commit else {})


def commit_of(source: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The commit of a file: as it was told, of its repository, or of CI's job; '' if nobody knows.

    It ends in ``-dirty`` where tracked files of the repository differ from it.
    """
    said = (environment.get(name, "").strip().lower() for name in (VARIABLE, *OF_CI))
    told, *of_ci = (text if FORM.fullmatch(text) else "" for text in said)
    return next(filter(None, (told, _described(source.resolve()), *of_ci)), "")


@cache
def _described(source: Path) -> str:
    """What git says of a file that it tracks. An installed package may lie below somebody else's repository."""
    if not any((folder / ".git").exists() for folder in source.parents):
        return ""
    if not _git(source, "ls-files", "--error-unmatch", "--", source.name):
        return ""
    found = _git(source, "describe", "--always", "--dirty", f"--abbrev={DIGITS}", "--exclude=*")
    return found if FORM.fullmatch(found) else ""


def _git(source: Path, *arguments: str) -> str:
    """What git prints in the file's folder; '' where it fails or is not there. It writes nothing, not even its index."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(source.parent), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
