"""Writing a file whole or not at all: under another name in the same folder, renamed when it is complete.

>>> with whole_file(Path("rows.csv")) as scratch:
...     scratch.write_text("…")
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from membound.results.store import StoreError


def check_place(path: Path) -> None:
    """Make sure, before minutes are spent, that `whole_file` could replace `path`. Raises StoreError."""
    if os.path.isdir(path):  # False for a name that is too long, where Path's methods raise
        raise StoreError(f"{path} is a folder; name a file")
    if os.path.lexists(path) and not os.path.isfile(path):
        raise StoreError(f"{path} is no file; name one")
    if not os.path.isdir(path.parent):
        raise StoreError(f"{path} cannot be written: there is no folder {path.parent} to write into")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StoreError(f"{path} cannot be written: nothing can be written into {path.parent}")


@contextmanager
def whole_file(path: Path, replace: bool = False) -> Iterator[Path]:
    """A path to write to; when the block ends it becomes `path`, and after an exception it is gone.

    Raises StoreError if `path` is there already (unless `replace`), is no plain file, or cannot be written.
    """
    if os.path.lexists(path) and not replace:
        raise StoreError(f"{path} is there already; name another file, or give --force")
    if os.path.lexists(path) and not path.is_file():
        raise StoreError(f"{path} is no file; name one")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o666 & ~_mask())
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        if replace or not _linked(scratch, path):
            scratch.replace(path)
    except FileExistsError:  # since it was looked for
        raise StoreError(f"{path} is there already; name another file, or give --force") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        scratch.unlink(missing_ok=True)


def _linked(scratch: Path, path: Path) -> bool:
    """Give the file its name unless that is taken; False where the file system has no second names.

    Raises FileExistsError: of several who write a file at once, one does.
    """
    try:
        os.link(scratch, path)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _mask() -> int:
    """What the process keeps from others: `mkstemp` keeps everything."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
