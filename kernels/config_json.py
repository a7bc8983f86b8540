"""A folder's config.json: its fields, each read with the error that names it.

>>> Config(path, read_config(path)).count("hidden_size")
2048
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from membound.kernels.mistaken_paths import without_config
from membound.kernels.model import ModelError

MAX_COUNT = 1 << 31
MOST_LAYERS = 4096
"""Each is looked at; a published model has some hundred at most."""
NESTED = ("text_config", "llm_config", "language_config")
"""Where a model that sees or hears keeps the part that writes text."""
LFS_POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS put in place of a large one."""


@dataclass(slots=True)
class Config:
    """The fields of a config.json. Each reader raises ModelError with the file, the field and what it must be."""

    path: Path
    fields: dict[str, Any]
    assumed: list[str] = field(default_factory=list)

    def bad(self, name: str, must: str) -> ModelError:
        """The error of a field whose value cannot be."""
        return ModelError(f"{self.path}: {name}={self.fields.get(name)!r:.60} must be {must}")

    def assume(self, name: str, value: int) -> int:
        """A default of Transformers for a field that the file lacks."""
        self.assumed.append(f"{name}={value}")
        return value

    def count(self, name: str, least: int = 1) -> int:
        """A field that counts something."""
        if name not in self.fields:
            raise ModelError(f"{self.path} lacks {name!r}")
        value = self.fields[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.bad(
                name, "a positive whole number" if least else "a whole number that is not negative"
            )
        if value > MAX_COUNT:
            raise self.bad(name, f"a positive whole number up to {MAX_COUNT}")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A field that measures something."""
        if name not in self.fields:
            if default is None:
                raise ModelError(f"{self.path} lacks {name!r}")
            return default
        value = self.fields[name]
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 < value <= sys.float_info.max
        ):
            raise self.bad(name, "a positive number")
        return float(value)

    def flag(self, name: str) -> bool:
        """A field that is true or false; false where it is missing or null."""
        value = self.fields.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.bad(name, "true or false")
        return bool(value)


def read_config(path: Path) -> dict[str, Any]:
    """The object in a config.json."""
    try:
        if not path.is_file():
            raise ModelError(f"model folder {path.parent} has no config.json{without_config(path.parent)}")
        text = path.read_bytes()
        if text.startswith(LFS_POINTER):
            raise pointer_error(path)
        fields = json.loads(text.decode())
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{path} is not a JSON object")
    return fields


def pointer_error(path: Path) -> ModelError:
    """The error of a file that Git LFS has not fetched."""
    return ModelError(f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")
