"""What devices, power and tokens cost: prices.toml beside this file, each figure with its source and date.

>>> prices = load_prices()
>>> prices.hourly("h100_sxm", "rent").value  # the middle one of what sellers ask
2.725
"""

from __future__ import annotations

import datetime
import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membound.errors import MemboundError
from membound.results.predict.device import Source

FILE = Path(__file__).with_name("prices.toml")
HOURLY = ("rent", "spot", "contract", "neocloud", "hyperscaler")
"""Kinds of hourly prices: on demand, spot, a contract of three years, and what owning costs two kinds of firms."""
OLD_DAYS = 180
"""From this age on a price is called old."""


class CostError(MemboundError, ValueError):
    """A price is missing, or an assumption is impossible. The message says how to give it."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """A number that an answer rests on: its band for the sensitivity, and where it comes from."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    source: str
    date: str
    trust: str

    def age(self, today: datetime.date) -> str:
        """``old``, ``perhaps old`` where the date is not known to the day, or ''."""
        return age(self.date, today) if self.trust != "given" else ""


def age(date: str, today: datetime.date) -> str:
    """How old a source is: ``old`` past OLD_DAYS, ``perhaps old`` if only its first possible day is, or ''."""
    parts = [int(one) for one in date.split("-")] if date[:1].isdecimal() else []
    if not parts:
        return "perhaps old"
    first = datetime.date(*(*parts, 1, 1)[:3])
    months = parts[0] * 12 + (parts[1] if len(parts) > 1 else 12)
    after = datetime.date(months // 12, months % 12 + 1, 1)
    last = first if len(parts) == 3 else after - datetime.timedelta(days=1)
    if (today - last).days > OLD_DAYS:
        return "old"
    return "perhaps old" if (today - first).days > OLD_DAYS else ""


@dataclass(frozen=True, slots=True)
class ApiPrice:
    """USD for a million input and a million output tokens."""

    model: str
    input_usd: float
    output_usd: float
    seller: str
    source: Source


@dataclass(frozen=True, slots=True)
class Prices:
    """The tables of prices.toml."""

    tables: dict[str, Any]
    sources: dict[str, Source]

    def hourly(self, device: str, kind: str) -> Assumption:
        """An hour of a device: the middle of what sellers ask, with the lowest and highest. Raises CostError."""
        found = self.tables[kind].get(device)
        if not found:
            others = [one for one in HOURLY if device in self.tables[one]]
            known = f"known for it: --prices {' or '.join(others)}; or " if others else ""
            raise CostError(f"no {kind} price of {device} is known; {known}give one: --price USD")
        return self._middle(f"{kind} price", "USD/h", found)

    def card(self, device: str) -> Assumption:
        """A card alone, USD. Raises CostError."""
        found = self.tables["card"].get(device)
        if not found:
            raise CostError(
                f"no price of a {device} is known; give what one costs with its server: --capex USD"
            )
        return self._middle("card price", "USD", found)

    def power(self, device: str) -> Assumption | None:
        """kW provided for a device, everything included; None if unknown."""
        found = self.tables["power"].get(device)
        return self._middle("power", "kW", found) if found else None

    def api(self, model: str) -> list[ApiPrice]:
        """What APIs ask for a model, the one that is used first. Raises CostError."""
        found = self.tables["api"].get(model)
        if not found:
            known = ", ".join(self.tables["api"])
            raise CostError(
                f"no API price of {model!r} is known (known: {known}); give one: --api-price IN/OUT"
            )
        return [ApiPrice(model, a, b, seller, self.sources[key]) for a, b, key, seller in found]

    def assume(self, name: str) -> Assumption:
        """A default of the cost model."""
        value, low, high, keys = self.tables["assume"][name]
        return self._assumption(name, UNITS.get(name, ""), float(value), float(low), float(high), keys)

    def _middle(self, name: str, unit: str, found: list[list[Any]]) -> Assumption:
        values = [float(line[0]) for line in found]
        keys = " ".join(dict.fromkeys(line[1] for line in found))
        return self._assumption(name, unit, statistics.median(values), min(values), max(values), keys)

    def _assumption(
        self, name: str, unit: str, value: float, low: float, high: float, keys: str
    ) -> Assumption:
        sources = [self.sources[key] for key in keys.split()]
        oldest = min((s.date for s in sources), key=lambda date: (date[:1].isdecimal(), date))
        trust = sources[0].trust if len({s.trust for s in sources}) == 1 else "mixed"
        return Assumption(name, value, low, high, unit, "; ".join(s.title for s in sources), oldest, trust)


UNITS = {"years": "years", "electricity": "USD/kWh", "rack_kw": "kW"}


def given(name: str, value: float, unit: str, today: datetime.date) -> Assumption:
    """A number of the user's own."""
    return Assumption(name, value, value, value, unit, "given", today.isoformat(), "given")


def load_prices() -> Prices:
    """Read prices.toml."""
    with FILE.open("rb") as file:
        tables = tomllib.load(file)
    sources = {key: Source(key, **line) for key, line in tables.pop("source").items()}
    return Prices(tables, sources)
