"""All that a cost rests on, put together: prices by the hour or by owning, with every default's source.

>>> from membound.results.predict.prices import load_prices
>>> assumed = assume(load_prices(), "h100_sxm", 700, Given(kind="neocloud"))
>>> hourly_usd({one.name: one.value for one in assumed})
1.69
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from membound.results.predict.cost import check, owned_hourly
from membound.results.predict.prices import Assumption, CostError, Prices, given

OWNED = ("years", "residual", "electricity", "overhead")
"""Assumptions of owning, besides capex and power, that have a default."""


OWNING = "of owning: --capex or --prices own"
BELONGS = {
    "peak_factor": "of a fleet: --tokens-per-day",
    "rack_kw": "of a fleet: --tokens-per-day",
    "power_kw": "of owning and of fleets: --capex, --prices own or --tokens-per-day",
    "pue": "of power that is made from the TDP",
    "server_factor": "of power that is made from the TDP",
    "server_share": "of a card's price: --prices own without --capex",
}
"""What an assumption belongs to, where it is not owning alone."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the user said. kind: of hourly price, or ``own``. numbers: assumptions by name; the others have defaults."""

    kind: str = "rent"
    numbers: Mapping[str, float] = field(default_factory=dict)
    today: datetime.date = field(default_factory=datetime.date.today)


def assume(prices: Prices, device: str, tdp_w: float | None, said: Given) -> list[Assumption]:
    """The assumptions of a device's hourly cost and of its use. Raises CostError that names what is missing."""
    found = _owning(prices, device, tdp_w, said) if _owns(said) else [_renting(prices, device, said)]
    found += [_one(prices, name, said) for name in ("utilisation", "cached")]
    for one in found:
        check_assumption(one)
    return found


def without_effect(prices: Prices, device: str, said: Given, has_fleet: bool) -> list[str]:
    """What was given and nothing rests on, each with what it would belong to."""
    used = {"utilisation", "cached"} | ({"capex", "power_kw", *OWNED} if _owns(said) else {"price"})
    used |= {"peak_factor", "rack_kw", "power_kw"} if has_fleet else set()
    if _owns(said) and "capex" not in said.numbers:
        used.add("server_share")
    if "power_kw" in used and "power_kw" not in said.numbers and prices.power(device) is None:
        used |= {"pue", "server_factor"}
    return [f"{name} ({BELONGS.get(name, OWNING)})" for name in said.numbers if name not in used]


def hourly_usd(values: Mapping[str, float]) -> float:
    """USD an hour of one device, rented or owned. Raises CostError."""
    return values["price"] if "price" in values else owned_hourly(values)


def check_assumption(one: Assumption) -> None:
    """Raises CostError if the number is impossible."""
    name, value = one.name, one.value
    if name in ("utilisation",):
        check(name, value, above=0, most=1)
    elif name in ("cached", "residual"):
        check(name, value, least=0, below=1)
    elif name == "overhead":
        check(name, value, least=0)
    elif name in ("pue", "server_factor", "peak_factor"):
        check(name, value, least=1)
    else:
        check(name, value, above=0)


def _owns(said: Given) -> bool:
    return said.kind == "own" or "capex" in said.numbers


def _one(prices: Prices, name: str, said: Given) -> Assumption:
    default = prices.assume(name)
    return given(name, said.numbers[name], default.unit, said.today) if name in said.numbers else default


def _renting(prices: Prices, device: str, said: Given) -> Assumption:
    if "price" in said.numbers:
        return given("price", said.numbers["price"], "USD/h", said.today)
    found = prices.hourly(device, said.kind)
    return replace(found, name="price", source=f"{said.kind}, the middle of {found.source}")


def _owning(prices: Prices, device: str, tdp_w: float | None, said: Given) -> list[Assumption]:
    if "price" in said.numbers:
        raise CostError("an hourly price and owning exclude each other: give --price or --capex, not both")
    rest = [_one(prices, name, said) for name in OWNED]
    return [_capex(prices, device, said), _power(prices, device, tdp_w, said), *rest]


def _capex(prices: Prices, device: str, said: Given) -> Assumption:
    if "capex" in said.numbers:
        return given("capex", said.numbers["capex"], "USD", said.today)
    card, server = prices.card(device), _one(prices, "server_share", said)
    scale = 1 + server.value
    return replace(
        card,
        name="capex",
        value=card.value * scale,
        low=card.low * (1 + server.low),
        high=card.high * (1 + server.high),
        source=f"a card at {card.value:g} USD ({card.source}) and {server.value:g} times that for server and network",
    )


def _power(prices: Prices, device: str, tdp_w: float | None, said: Given) -> Assumption:
    found = device_kw(prices, device, tdp_w, said)
    if found is None:
        raise CostError(f"neither the all-in power nor the TDP of {device} is known; give --power-kw, all-in")
    return found


def device_kw(prices: Prices, device: str, tdp_w: float | None, said: Given) -> Assumption | None:
    """All-in kW of one device, as given, as published, or from its TDP; None if nothing is known. Raises CostError."""
    if "power_kw" in said.numbers:
        return given("power_kw", said.numbers["power_kw"], "kW", said.today)
    known = prices.power(device)
    if known is not None:
        return replace(known, name="power_kw")
    if tdp_w is None:
        return None
    pue, server = _one(prices, "pue", said), _one(prices, "server_factor", said)
    check_assumption(pue)
    check_assumption(server)
    return replace(
        pue,
        name="power_kw",
        unit="kW",
        value=tdp_w / 1e3 * pue.value * server.value,
        low=tdp_w / 1e3 * pue.low * server.low,
        high=tdp_w / 1e3 * pue.high * server.high,
        source=f"TDP {tdp_w:g} W × PUE {pue.value:g} × server {server.value:g} ({server.source}; {pue.source})",
    )
