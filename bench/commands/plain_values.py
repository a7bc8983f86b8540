"""Plain values of options and arguments, read without pydantic.

Typer reads every value with pydantic, defaults too, and importing that takes as long as all else that `membound hardware`
does. What a plain value means needs no library; any other is left to typer, which has the words for what is wrong with it.

>>> for parameter in command.params:
...     read_plainly(parameter)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

MOST_DIGITS = 18
"""Longer numbers are left to typer."""


def read_plainly(parameter: Any) -> None:
    """Have a parameter of a typer command read plain values by itself."""
    described = getattr(parameter, "type_descriptor", None)
    if described is None or "get_runtime_param" in vars(parameter):
        return  # an older typer, which does without pydantic; or done before
    reader = PlainFirst(
        _reader(described.annotation, described.parameter_info.parser), parameter.get_runtime_param
    )
    parameter.get_runtime_param = lambda: reader


@dataclass(frozen=True, slots=True)
class PlainFirst:
    """Reads a value that is plain, and leaves any other to what typer would read it with."""

    read: Callable[[Any], Any]
    of_typer: Callable[[], Any]

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the command gets it. Raises BadParameter."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        try:
            return self.read(value)
        except ValueError:
            return self.of_typer().coerce(value, param=param, ctx=ctx)


def _reader(annotation: Any, parser: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """What reads the plain values of a type. It raises ValueError for all others."""
    if parser is not None:
        return parser
    readers: dict[Any, Callable[[Any], Any]] = {
        str: _text,
        list[str]: _texts,
        int: _whole_number,
        float: _number,
    }
    return readers.get(annotation, _nothing)


def _nothing(value: Any) -> NoReturn:
    raise ValueError(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _nothing(value)


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in value] if isinstance(value, list | tuple) else _nothing(value)


def _whole_number(value: Any) -> int:
    if isinstance(value, str) and _is_digits(value):
        return int(value)
    return value if type(value) is int else _nothing(value)


def _number(value: Any) -> float:
    if isinstance(value, str) and all(map(_is_digits, value.split(".", 1))):
        return float(value)
    return value if type(value) is float else _nothing(value)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
