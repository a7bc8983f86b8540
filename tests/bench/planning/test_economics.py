import datetime
from dataclasses import replace

import pytest

from membound.bench.planning.answers import answer_for, answer_json, answer_lines, api_price, make_ask
from membound.bench.planning.demands import demand_of
from membound.bench.planning.economics import (
    EconomicsError,
    loaded_points,
    measured_point,
    priced_curve,
    serving_demand,
)
from membound.bench.planning.measured import measured_rows
from membound.bench.planning.plans import UnmetPlan, plans_for, takes
from membound.kernels.served import ServedPrefill
from membound.results.predict.assumptions import Given
from membound.results.predict.catalogue import load_catalogue
from membound.results.predict.cost import Mix
from membound.results.predict.forecast import Knowledge, Options
from membound.results.predict.prices import CostError, load_prices
from membound.results.row import Row
from membound.results.serving.request import Request

CATALOGUE = load_catalogue()
KNOWN = Knowledge.of(measured_rows(CATALOGUE)[0])
DAY = datetime.date(2026, 11, 29)
H100 = CATALOGUE.find("h100")
SPEC = "step:model=llama-3-8b"


def ask(numbers=None, kind="rent", **more):
    return make_ask(Given(kind, numbers or {}, DAY), (1000, 250), **more)


def test_a_step_carries_the_prompts_of_the_tokens_it_makes():
    """250 tokens out bring 1000 in: a step of 8 tokens works off 8/250 of a prompt. Sequences hold 1125 tokens."""
    found = serving_demand(SPEC, Mix(1000, 250), 8)
    assert found.context == 1125
    assert found.prompt_flops == pytest.approx(ServedPrefill("llama-3-8b", 1, 1000).flops * 8 / 250)
    assert serving_demand(SPEC, Mix(1000, 250, 0.5), 8).prompt_flops == pytest.approx(found.prompt_flops / 2)
    assert serving_demand(f"{SPEC},context=99", Mix(1000, 250), 8).context == 99
    assert serving_demand(SPEC, Mix(0, 250), 8).prompt_flops == 0


def test_only_steps_are_priced():
    with pytest.raises(EconomicsError, match="only steps are priced"):
        serving_demand("linear:n=64,k=64", Mix(10, 10), 1)


def test_an_answer_on_a_measured_point_by_hand():
    """The check of the curated notes: 0.152 USD at half load, which Groq's 0.08 would cover at 95 %."""
    asked = make_ask(
        Given("rent", {"price": 2.95}, DAY), (0, 250), api=api_price(load_prices(), "llama-3-8b", None)
    )
    found = answer_for(H100, [measured_point("511:47.4", 1)], asked)
    assert found.usd == pytest.approx(0.152, abs=5e-4)
    assert found.earned.utilisation == pytest.approx(0.95, abs=0.005)
    assert [swing.name for swing in found.swings] == ["utilisation"]
    text = "\n".join(answer_lines(found, asked))
    assert "price 2.95 USD/h: given" in text
    assert "does not cover its cost at 50% utilisation: it needs 95% utilisation" in text


@pytest.mark.parametrize(
    "text", ["511", "511:fast", "0:3", "8:-1", ":", "nan:1", "inf:3", "1:1e999", "1e300:1"]
)
def test_a_wrong_point_is_refused(text):
    with pytest.raises(EconomicsError, match=r"BATCH:MILLISECONDS|above 0"):
        measured_point(text, 1)


def loaded(rate, gap_s, tokens=11):
    """A run of load: `rate` requests a second for ten seconds, a token each `gap_s`."""
    requests = [
        Request(
            due_s=n / rate,
            sent_s=n / rate,
            arrivals_s=[n / rate + 0.5 + gap_s * k for k in range(tokens)],
            tokens=[1] * tokens,
            reads=list(range(tokens)),
            ended_s=n / rate + 0.5 + gap_s * tokens,
            prompt_tokens=100,
            counted_by="ids",
        )
        for n in range(10 * rate)
    ]
    return Row(
        "a-run",
        "serving",
        "url",
        "serving:model=m",
        "ok",
        requests=requests,
        config={"warm_s": 0.0, "end_s": 10.0},
    )


def test_a_run_of_load_is_priced_by_its_throughput():
    """8 answers of 11 tokens a second, a token each 20 ms: 88 tokens a second, 1.76 sequences at once."""
    few, many = loaded_points([loaded(8, 0.02), loaded(4, 0.01)], 2)
    assert (few.point.tokens_per_s, many.point.tokens_per_s) == (pytest.approx(44), pytest.approx(88))
    assert many.point.batch == pytest.approx(1.76)
    assert (many.point.step_s, many.point.ttft_s, many.point.devices) == (
        pytest.approx(0.02),
        pytest.approx(0.5),
        2,
    )
    found = answer_for(H100, [few, many], ask({"price": 3.6, "utilisation": 1}))
    assert found.usd == pytest.approx(2 * 3.6 / 3600 / 88 * 1e6)


def test_a_run_without_load_is_refused():
    with pytest.raises(EconomicsError, match="holds no point of load"):
        loaded_points([], 1)


def test_a_predicted_answer_rests_on_its_assumptions():
    curve = priced_curve(SPEC, H100, Mix(1000, 250), [1, 8, 64], KNOWN, Options(devices=1))
    found = answer_for(H100, curve, ask(tokens_per_day=1e9))
    assert found.hourly == 2.725
    assert found.best.batch == 64
    costs = [cost.blended_usd for cost in found.costs]
    assert costs == sorted(costs, reverse=True)
    assert {swing.name for swing in found.swings} == {"price", "utilisation", "cached", "time a token"}
    assert found.fleet.kw == pytest.approx(found.fleet.devices * 1.73)
    told = answer_json(found)
    assert {one["name"] for one in told["assumed"]} >= {
        "price",
        "utilisation",
        "cached",
        "power_kw",
        "rack_kw",
        "peak_factor",
    }
    assert all(one["source"] and one["date"] for one in told["assumed"])


def test_limits_choose_the_batch():
    curve = priced_curve(SPEC, H100, Mix(1000, 250), [1, 8, 64, 256], KNOWN, Options(devices=1))
    limit_ms = 1e3 * (curve[1].point.step_s + curve[2].point.step_s) / 2
    assert answer_for(H100, curve, ask(limits_ms=(limit_ms, None))).best.batch == 8
    none = answer_for(H100, curve, ask(limits_ms=(0.1, None)))
    assert none.best is None
    assert "no point meets the limits" in "\n".join(answer_lines(none, ask()))


def test_own_chips_and_longer_lives_are_cheaper():
    curve = priced_curve(SPEC, H100, Mix(1000, 250), [64], KNOWN, Options(devices=1))
    rent = answer_for(H100, curve, ask()).usd
    short, long_ = (answer_for(H100, curve, ask({"capex": 50_000, "years": y})).usd for y in (3, 6))
    assert long_ < short < rent


@pytest.mark.parametrize("text", ["0.05", "a/b", "1/2/3"])
def test_a_wrong_api_price_is_refused(text):
    with pytest.raises(CostError, match="is not IN/OUT, such as"):
        api_price(load_prices(), None, text)


def test_an_unknown_api_price_lists_those_that_are_known():
    with pytest.raises(CostError, match=r"no API price of 'phi-4' is known \(known: deepseek-r1"):
        api_price(load_prices(), "phi-4", None)


def test_plans_are_ranked_and_within_their_limits():
    asked = ask(limits_ms=(50, 2000), tokens_per_day=1e9)
    found = plans_for("llama-3-8b", [H100, CATALOGUE.find("l40s")], KNOWN, asked, ("bf16", "fp8"))
    days = [plan.usd_per_day for plan in found.found]
    assert days == sorted(days)
    for plan in found.found:
        assert plan.point.step_s <= 0.05
        assert plan.point.ttft_s <= 2
        rate = plan.fleet.replicas * plan.point.tokens_per_s * 0.5
        assert rate >= 1e9 / 86400
        assert plan.fleet.devices == plan.fleet.replicas * plan.point.devices
    assert {plan.weight for plan in found.found} == {"bf16", "fp8"}


def test_formats_go_where_units_are():
    a100 = CATALOGUE.find("a100")
    assert not takes(a100, "fp8")
    assert takes(a100, "int4g128")
    assert takes(CATALOGUE.find("b200"), "nvfp4")
    assert not takes(H100, "nvfp4")


def test_limits_that_nothing_meets_say_what_came_closest():
    with pytest.raises(
        UnmetPlan, match=r"nothing serves llama-3-70b within the limits; h100_sxm takes .* ms a token at best"
    ):
        plans_for("llama-3-70b", [H100], KNOWN, ask(limits_ms=(1, None), tokens_per_day=1e9), ("bf16",))


def test_single_operations_have_the_bytes_of_their_work():
    found = demand_of("linear:n=4096,k=4096,m=1,weight=int8")
    assert (found.bytes, found.flops, found.kind) == (16777216 + 16384 + 2 * 16384, 33554432, "operation")
    paged = demand_of("attention:context=1000,page=16")
    assert paged.cache_bytes > demand_of("attention:context=1000").cache_bytes
    assert replace(found, cache_bytes=1.0).bytes == found.bytes + 1


def test_experts_at_another_batch_are_those_that_it_reads() -> None:
    one = demand_of("experts:hidden=2048,width=768", batch=8)
    assert one == demand_of("experts:hidden=2048,width=768,batch=8")
    assert one.weights_bytes > 6 * demand_of("experts:hidden=2048,width=768").weights_bytes
