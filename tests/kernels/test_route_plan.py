"""Routes that are planted in whole models: every layer's router takes the planned experts, and none is near another choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from routed_models import EVERY, routed_models

from membound.kernels import forward, models
from membound.kernels.parts import Experts, Mlp, Router
from membound.kernels.reference import compute
from membound.kernels.route_plan import RoutePlan, default_distinct, fits_groups, with_codes
from membound.kernels.seeded import make_inputs
from membound.kernels.work import SpecError, parse

pytestmark = pytest.mark.usefixtures("routed_models")
__all__ = ["routed_models"]


def choices(spec: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any], list[float]]:
    """The inputs of a work, and of each layer with experts the reference's choice and the least margin of a choice."""
    found, margins, original = [], [], forward.routes

    def routes(logits: Any, router: Router, chosen: int, vectors: Any) -> Any:
        ids, shares = original(logits, router, chosen, vectors)
        others = np.sort(logits, -1)
        found.append(ids)
        margins.append(float((others[:, -chosen] - others[:, -chosen - 1]).min()))
        return ids, shares

    monkeypatch.setattr(forward, "routes", routes)
    inputs: Any = make_inputs(parse(spec), seed=3)
    compute(inputs, 0)
    return inputs, found, margins


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "rest",
    [
        "step:model={},batch=5,context=6",
        "step:model={},batch=2,context=6,cache=prompt",
        "prefill:model={},tokens=7",
    ],
)
def test_every_planned_choice_is_taken(name: str, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, found, margins = choices(rest.format(name), monkeypatch)
    routed = [i for i, layer in enumerate(inputs.model.decoder.layers) if isinstance(layer.mlp, Experts)]
    if inputs.tokens is not None and "step" in rest:
        found, margins = found[-len(routed) :], margins[-len(routed) :]  # before them the prompt went through
    assert len(found) == len(routed)
    assert min(margins) > 8
    for index, ids in zip(routed, found, strict=True):
        assert np.array_equal(np.sort(ids), np.sort(inputs.plan.routes(index)))
        assert np.unique(ids).size == inputs.work.distinct


def test_a_deep_model_keeps_its_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = replace(EVERY["tiny-deepseek"], name="deep", layers=(EVERY["tiny-deepseek"].layers[1],) * 30)
    monkeypatch.setitem(models.SHAPES, "deep", deep)
    inputs, found, margins = choices("step:model=deep,batch=3,context=5", monkeypatch)
    assert min(margins) > 8
    assert all(np.array_equal(np.sort(ids), np.sort(inputs.plan.routes(i))) for i, ids in enumerate(found))
    assert len({tuple(inputs.plan.routes(i)[0]) for i in range(30)}) > 20


def test_groups_limit_how_many_experts_a_plan_may_spread_over(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = Experts(16, 4, Mlp(64), router=Router(groups=4, groups_chosen=1))
    assert [u for u in range(4, 13) if fits_groups(experts, 3, u)] == [4, 8, 12]
    assert default_distinct(experts, 3) == 8
    layer = replace(EVERY["tiny-qwen"].layers[0], mlp=experts)
    monkeypatch.setitem(models.SHAPES, "narrow", replace(EVERY["tiny-qwen"], name="narrow", layers=(layer,)))
    with pytest.raises(
        SpecError, match="step: with distinct=5 a row would take experts of more than 1 of 4 groups"
    ):
        parse("step:model=narrow,batch=2,distinct=5")


def test_tokens_get_the_codes_of_their_places() -> None:
    tokens = with_codes(np.array([[7, 299, 3], [10, 11, 298]]), 4, 300)
    assert (tokens % 4).tolist() == [[0, 1, 2], [3, 0, 1]]
    assert tokens.max() < 300
    assert np.abs(tokens - np.array([[7, 299, 3], [10, 11, 298]])).max() < 4


def test_experts_of_a_group_stand_next_to_each_other() -> None:
    plan = RoutePlan(EVERY["tiny-deepseek"], rows=4, distinct=16, seed=1)
    groups = plan.routes(1) // 4
    assert all(len(set(row)) == 1 for row in groups.tolist())
    assert {row[0] for row in groups.tolist()} == {0, 1, 2, 3}
