"""Writing a file to any file system that fsspec knows, whole and once: ``s3://bucket/rows.parquet``, ``sftp://host/rows.parquet``.

>>> with remote_file("s3://bucket/rows.parquet") as scratch:
...     scratch.write_text("…")

A file is made here first. Where a store shows an object only when all of it is there (S3 and its like), it is sent to its name,
on the condition that nothing has that name yet. Elsewhere it is sent to a name of its own beside it and renamed. fsspec comes
with the extra `parquet`, what it needs for a store (s3fs, gcsfs, adlfs, paramiko …) from the user.
"""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from membound.errors import MemboundError
from membound.results.store import StoreError

WHOLE_OBJECTS = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "obs", "tos"))
"""Stores whose objects are there when all of them is, and that rename by copying."""


class RemoteUnavailable(MemboundError, RuntimeError):
    """fsspec, or what it needs for a file system, is not installed; the message says how to get it."""


def is_remote(name: str) -> bool:
    """Whether it names a file system: ``s3://…``; ``file://…`` too."""
    return "://" in name


def shown(address: str) -> str:
    """The address without a user's name and password."""
    return re.sub(r"://[^/@\s]*@", "://", address)


@contextmanager
def remote_file(address: str, replace: bool = False) -> Iterator[Path]:
    """A path of this machine to write to; when the block ends its content becomes `address`, and after an exception nothing does.

    Raises StoreError if the file is there already (unless `replace`) or cannot be written, RemoteUnavailable.
    """
    system, path, name = *_opened(address), shown(address)
    with tempfile.TemporaryDirectory(prefix="membound-") as folder:
        with _told(name):
            _refuse_known(system, path, name, replace)
        scratch = Path(folder) / "file"
        yield scratch
        with _told(name):
            _sent(system, scratch, path, name, replace)


def _opened(address: str) -> tuple[Any, str]:
    """The file system and the path within it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise RemoteUnavailable(
            f"{shown(address)} needs fsspec, which is not installed: pip install 'membound[parquet]'"
        ) from None
    try:
        with _told(shown(address)):
            system, path = url_to_fs(address)
    except ImportError as error:
        what = " ".join(str(error).split())
        raise RemoteUnavailable(f"{shown(address)} cannot be written here: {what}") from None
    except ValueError as error:  # a protocol that nobody knows
        raise StoreError(f"{shown(address)} cannot be written: {error}") from None
    return system, str(path)


def _refuse_known(system: Any, path: str, name: str, replace: bool) -> None:
    if not path.strip("/") or path.endswith("/"):
        raise StoreError(f"{name} is a folder; name a file")
    if system.isdir(path):
        raise StoreError(f"{name} is a folder; name a file")
    if not replace and system.exists(path):
        raise StoreError(f"{name} is there already; name another file, or give --force")


def _sent(system: Any, scratch: Path, path: str, name: str, replace: bool) -> None:
    protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    if WHOLE_OBJECTS & {*protocols}:
        system.put_file(str(scratch), path, mode="overwrite" if replace else "create")
        return
    folder, _, last = path.rpartition("/")
    beside = f"{folder}/" if folder or path.startswith("/") else ""
    part = f"{beside}.{last[:100]}.{secrets.token_hex(4)}.part"
    try:
        system.put_file(str(scratch), part)
        _refuse_known(system, path, name, replace)  # others may have written it meanwhile
        system.mv(part, path)
    except BaseException:
        with suppress(OSError):
            system.rm_file(part)
        raise


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What a file system raises, as one line."""
    try:
        yield
    except FileExistsError:
        raise StoreError(f"{name} is there already; name another file, or give --force") from None
    except (ImportError, ValueError, MemboundError):
        raise
    except Exception as error:  # the boundary around libraries of others, which raise classes of their own
        what = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise StoreError(f"{name} cannot be written: {what[:300]}") from None
