"""What a user asked of a load, checked before anything is sent or started.

>>> numbers("rate", "1,2.5,4")
(1.0, 2.5, 4.0)
>>> check(load)
"""

from __future__ import annotations

from membound.bench.serving.event_loop import check_installed
from membound.bench.serving.load import Load
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.session import FEWEST_IN_WINDOW
from membound.results.serving.slo import parse_slo

MOST_POINTS = 1000


def numbers(name: str, text: str | None, whole: bool = False) -> tuple[float, ...]:
    """``1,2.5,4``: numbers above 0, each once. Raises LoadError."""
    found: list[float] = []
    for part in (text or "").split(",") if text is not None else ():
        try:
            value = float(part) if part.isascii() else 0.0
        except ValueError:
            value = 0.0
        if not 0 < value < 1e9 or (whole and not value.is_integer()):
            kind = "a whole number" if whole else "a number"
            raise LoadError(f"--{name} {text!r}: {part.strip()!r} is not {kind} above 0")
        found.append(value)
    if len(found) > MOST_POINTS:
        raise LoadError(f"--{name} has {len(found)} points, {MOST_POINTS} at most")
    return tuple(dict.fromkeys(found))


def check(load: Load) -> None:
    """Raises LoadError or SloError for what can be seen before anything is sent."""
    if load.slo:
        parse_slo(load.slo)
    for name, value, least in (
        ("seconds", load.seconds, 0.5),
        ("warm", load.warm_s, 0.0),
        ("drain", load.drain_s, 0.0),
        ("think", load.think_s, 0.0),
        ("timeout", load.limits.total_s, 0.1),
    ):
        if not least <= value <= 1e6:
            raise LoadError(f"--{name} {value:g} must be from {least:g} to 1000000 seconds")
    if load.search and not (load.slo and len(load.rates) == 1):
        raise LoadError("--search needs --slo, and the rate to start from: --rate 1")
    if load.search and load.rates[0] * load.seconds < FEWEST_IN_WINDOW:
        raise LoadError(
            f"--search starts with {load.rates[0] * load.seconds:.3g} requests in its window, and needs "
            f"{FEWEST_IN_WINDOW}: raise --rate or --seconds"
        )
    if load.shared_prefix < 0:
        raise LoadError(f"--shared-prefix {load.shared_prefix} must not be negative")
    if load.trace is None and load.shared_prefix > (longest := load.prompt.longest):
        raise LoadError(
            f"--shared-prefix {load.shared_prefix} is longer than any --prompt, of {longest} at most"
        )
    check_installed()
