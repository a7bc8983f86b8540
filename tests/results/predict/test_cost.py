import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from membound.results.predict.assumptions import Given, assume, device_kw, hourly_usd
from membound.results.predict.cost import (
    Mix,
    Point,
    break_even,
    cheapest,
    cost_of,
    fleet,
    owned_hourly,
    sensitivity,
)
from membound.results.predict.prices import Assumption, CostError, age, load_prices

PRICES = load_prices()
DAY = datetime.date(2026, 11, 29)
POINT = Point(batch=511, step_s=0.0474)


def test_a_saturated_h100_by_hand():
    """511 sequences at 47.4 ms are 10,780 tokens a second; 2.95 USD an hour is 0.076 USD a million, twice that at half load."""
    assert POINT.tokens_per_s == pytest.approx(10_780, rel=1e-3)
    assert cost_of(POINT, 2.95, Mix(0, 1), 1.0).output_usd == pytest.approx(0.0760, abs=5e-5)
    assert cost_of(POINT, 2.95, Mix(0, 1), 0.5).blended_usd == pytest.approx(0.152, abs=5e-4)


def test_prompts_take_their_share_of_the_seconds():
    """4 devices at 9 USD: 0.01 USD a second; a step of 1 s makes 100 tokens and reads 400, a quarter of the time."""
    found = cost_of(Point(100, 1.0, 4, prompt_s=0.25), 9.0, Mix(1000, 250), 1.0)
    assert found.input_usd == pytest.approx(0.01 * 0.25 / 400 * 1e6)
    assert found.output_usd == pytest.approx(0.01 * 0.75 / 100 * 1e6)
    assert found.blended_usd == pytest.approx(found.output_usd + 4 * found.input_usd)


def test_owning_by_hand():
    """43,800 USD over five years is 1 USD an hour; 2 kW at 0.1 USD are 0.2; a quarter on top."""
    values = {"capex": 43_800, "residual": 0, "years": 5, "power_kw": 2, "electricity": 0.1, "overhead": 0.25}
    assert owned_hourly(values) == pytest.approx(1.5)
    assert owned_hourly(values | {"residual": 0.5}) == pytest.approx(0.875)


def test_break_even_by_hand():
    """A million outputs cost 100 USD at full load, 200 at half; with four inputs each they bring 4 · 10 + 60 = 100."""
    mix, point = Mix(400, 100), Point(10, 1.0)
    hourly = 100 / 1e6 * 10 * 3600
    found = break_even(point, [point, Point(40, 1.0), Point(20, 1.0)], hourly, mix, 0.5, (10, 60))
    assert found.revenue_usd == 100
    assert found.utilisation == pytest.approx(1.0)
    assert found.factor == pytest.approx(2.0)
    assert found.batch == 20
    assert break_even(point, [point], hourly, mix, 0.5, (10, 60)).batch is None


def test_a_tornado_by_hand():
    def band(name, value, low, high):
        return Assumption(name, value, low, high, "", "", "", "")

    assumed = [band("a", 1, 1, 3), band("b", 2, 1, 4), band("still", 5, 5, 5), band("idle", 1, 0, 9)]
    found = sensitivity(lambda v: v["a"] + 10 * v["b"], assumed)
    assert [(s.name, s.low_usd, s.high_usd) for s in found] == [("b", 11, 41), ("a", 21, 23)]


def test_the_cheapest_point_within_limits():
    points = [Point(1, 0.01, ttft_s=0.1), Point(8, 0.02, ttft_s=0.2), Point(64, 0.1, ttft_s=0.3)]

    def usd(p):
        return cost_of(p, 1.0, Mix(0, 1), 1.0).blended_usd

    assert cheapest(points, usd).batch == 64
    assert cheapest(points, usd, tpot_s=0.05).batch == 8
    assert cheapest(points, usd, ttft_s=0.1).batch == 1
    assert cheapest(points, usd, tpot_s=0.001) is None
    assert cheapest([Point(1, 0.01)], usd, ttft_s=1.0) is None


def test_a_fleet_by_hand():
    """8.64e8 tokens a day are 10,000 a second; 1000 a replica at half load make 20 of two, 40 kW, two racks of 30 kW."""
    found = fleet(Point(100, 0.1, devices=2), 8.64e8, 0.5, 1.0, 1.0, 30.0, 2.0)
    assert (found.replicas, found.devices, found.racks, found.kw) == (20, 40, 2, 40.0)
    assert found.usd_per_day == 40 * 2 * 24
    assert fleet(Point(100, 0.1, devices=2), 8.64e8, 0.5, 3.0, 1.0, 30.0, 2.0).replicas == 60
    assert fleet(POINT, 1e9, 0.5, 1.0, None, 30.0, 2.0).racks is None


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"price": 0}, "price = 0 is impossible: it must be above 0"),
        ({"price": -2}, "price = -2 is impossible"),
        ({"utilisation": 1.5}, "utilisation = 1.5 is impossible: it must be above 0 and at most 1"),
        ({"utilisation": 0}, "utilisation = 0 is impossible"),
        ({"cached": 1}, "cached = 1 is impossible: it must be at least 0 and below 1"),
        ({"capex": 5e4, "years": 0}, "years = 0 is impossible"),
        ({"capex": 5e4, "residual": 1}, "residual = 1 is impossible"),
        ({"capex": 5e4, "overhead": -1}, "overhead = -1 is impossible"),
        ({"capex": 5e4, "price": 2}, "exclude each other"),
        ({"price": float("nan")}, "price = nan is impossible"),
        ({"price": float("inf")}, "price = inf is impossible: it must be from 1e-30 to 1e+30"),
        ({"price": 1e308}, "price = 1e+308 is impossible: it must be from 1e-30 to 1e+30"),
        ({"utilisation": 1e-320}, "utilisation = 9.99989e-321 is impossible: it must be from 1e-30"),
    ],
)
def test_an_impossible_assumption_is_refused_by_name(numbers, said):
    with pytest.raises(CostError) as error:
        assume(PRICES, "h100_sxm", 700, Given("rent", numbers, DAY))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("device", "kind", "said"),
    [
        ("l4", "rent", "no rent price of l4 is known; give one: --price USD"),
        (
            "mi355x",
            "rent",
            "known for it: --prices contract or neocloud or hyperscaler; or give one: --price",
        ),
        ("l4", "own", "no price of a l4 is known; give what one costs with its server: --capex USD"),
    ],
)
def test_a_missing_price_says_how_to_give_it(device, kind, said):
    with pytest.raises(CostError) as error:
        assume(PRICES, device, 72, Given(kind, {}, DAY))
    assert said in str(error.value)


def test_the_middle_of_what_sellers_ask_and_its_band():
    price = assume(PRICES, "h100_sxm", 700, Given("rent", {}, DAY))[0]
    assert (price.value, price.low, price.high) == (2.725, 2.0, 3.9)
    assert hourly_usd({"price": 2.725}) == 2.725


def test_owning_an_h100_costs_what_the_source_says():
    found = assume(PRICES, "h100_sxm", 700, Given("own", {}, DAY))
    assert hourly_usd({one.name: one.value for one in found}) == pytest.approx(1.69, abs=0.01)
    assert (
        hourly_usd({o.name: o.value for o in assume(PRICES, "h100_sxm", 700, Given("neocloud", {}, DAY))})
        == 1.69
    )


def test_power_is_never_the_tdp_alone():
    assert device_kw(PRICES, "h100_sxm", 700, Given()).value == 1.73
    assert device_kw(PRICES, "l40s", 350, Given()).value == pytest.approx(0.35 * 1.2 * 1.9)
    assert device_kw(
        PRICES, "l40s", 350, Given(numbers={"pue": 1.5, "server_factor": 2})
    ).value == pytest.approx(1.05)
    assert device_kw(PRICES, "tpu_v5e", None, Given()) is None


@pytest.mark.parametrize(
    ("date", "said"),
    [
        ("2026-11-01", ""),
        ("2026-06-01", "old"),
        ("2026-06-03", ""),
        ("2026-06", "perhaps old"),
        ("2026-05", "old"),
        ("2026-04", "old"),
        ("2026", "perhaps old"),
        ("2025", "old"),
        ("2026-12", ""),
        ("unknown", "perhaps old"),
    ],
)
def test_prices_age(date, said):
    assert age(date, DAY) == said


def test_every_price_is_of_a_known_device_and_source():
    from membound.results.predict.catalogue import load_catalogue

    devices = load_catalogue().devices
    for name, table in PRICES.tables.items():
        if name not in ("api", "assume"):
            assert set(table) <= set(devices), name
        for lines in table.values():
            for line in lines if name != "assume" else []:
                assert line[-2] in PRICES.sources
    assert all(
        PRICES.assume(name).low <= PRICES.assume(name).value <= PRICES.assume(name).high
        for name in PRICES.tables["assume"]
    )


positive = st.floats(1e-3, 1e6)
shares = st.floats(0.01, 1)


@given(positive, positive, shares, positive)
def test_cost_grows_with_the_price_and_falls_with_utilisation(hourly, more, use, step):
    point, mix = Point(8, step, 2, prompt_s=step / 3), Mix(100, 50)
    base = cost_of(point, hourly, mix, use)
    dearer = cost_of(point, hourly + more, mix, use)
    busier = cost_of(point, hourly, mix, min(1.0, use * 1.5))
    assert dearer.blended_usd >= base.blended_usd >= busier.blended_usd
    assert dearer.input_usd >= base.input_usd
    assert dearer.output_usd >= base.output_usd


@given(st.integers(1, 512), positive, positive)
def test_more_devices_are_never_dearer_a_device_hour(devices, hourly, step):
    """The bill of a device-hour does not depend on how many there are."""
    mix = Mix(0, 1)
    one = cost_of(Point(1, step, 1), hourly, mix, 1.0).blended_usd
    many = cost_of(Point(1, step, devices), hourly, mix, 1.0).blended_usd
    assert many / devices <= one * (1 + 1e-9)
    sized = fleet(Point(1, step, devices), 1e6, 1.0, 1.0, 1.0, 40.0, hourly)
    assert sized.usd_per_day / sized.devices <= hourly * 24 * (1 + 1e-9)


@given(positive, st.floats(1, 20), shares)
def test_a_longer_life_is_never_dearer(capex, years, residual):
    values = {
        "capex": capex,
        "residual": residual * 0.9,
        "years": years,
        "power_kw": 1,
        "electricity": 0.1,
        "overhead": 0.1,
    }
    assert owned_hourly(values | {"years": years + 1}) <= owned_hourly(values)


@given(positive, st.floats(0, 0.9))
def test_a_cheaper_step_is_cheaper(step, faster):
    point = Point(4, step)
    quick = replace(point, step_s=step * (1 - faster))
    assert cost_of(quick, 2.0, Mix(0, 1), 0.5).blended_usd <= cost_of(point, 2.0, Mix(0, 1), 0.5).blended_usd
