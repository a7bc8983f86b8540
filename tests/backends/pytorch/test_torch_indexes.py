"""Steps and prompts of models whose attention sees selected tokens, in torch, against the float64 reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hybrid_models import INDEXED, hybrid_models
from torch import Tensor
from transformers_answers import CASES, folder_of, inputs_of, routed_folder

from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.latent_layer import CausalIndexed, IndexedLatent
from membound.backends.pytorch.support import unsupported
from membound.backends.pytorch.variants import Variants
from membound.kernels import indexing, models, own_routes
from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import Indexer, Latent
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("hybrid_models")
__all__ = ["hybrid_models"]


def run(spec: str) -> tuple[float, ModelInputs, Any]:
    work, backend = parse(spec), PyTorch()
    inputs = make_inputs(work, seed=4)
    assert isinstance(inputs, ModelInputs)
    backend.open("cpu", 1)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):  # the second launch is the same step
        backend.launch(0)
    error = relative_error(backend.output(), compute(inputs, 0))
    return error, inputs, backend


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize(("batch", "context"), [(1, 40), (3, 23), (2, 5), (1, 8)])
def test_float32_is_the_reference(name: str, batch: int, context: int) -> None:
    error, inputs, backend = run(f"step:model={name},batch={batch},context={context},weight=f32,kv=f32")
    backend.close()
    assert error < 1e-5
    chosen = [inputs.selection(index) for index in range(4)]
    assert {one.shape for one in chosen} == {(batch, min(9, context + 1))}
    assert np.array_equal(chosen[1], chosen[2])
    assert all((np.diff(one) > 0).all() and one.max() <= context for one in chosen)


def test_its_own_choice_is_that_of_the_reference_in_float32() -> None:
    _, inputs, backend = run("step:model=tiny-index,batch=2,context=40,weight=f32,kv=f32")
    own = [one for one in backend._decoder.modules() if isinstance(one, IndexedLatent)]
    for index in (0, 1, 3):
        assert np.array_equal(np.sort(own[index].ids.numpy(), -1), inputs.selection(index))
    assert own[2].ids.numel() == 0
    backend.close()


@pytest.mark.parametrize("weight", ["bf16", "f16"])
def test_other_formats_keep_the_tolerance(weight: str) -> None:
    spec = f"step:model=tiny-index-moe,batch=2,context=40,weight={weight},kv={weight}"
    error, _, backend = run(spec)
    backend.close()
    assert error < tolerance(parse(spec))


def test_a_step_reads_every_key_and_the_rows_that_are_selected() -> None:
    short, long = (parse(f"step:model=tiny-index,batch=3,context={c},kv=bf16") for c in (100, 900))
    for step in (short, long):
        (index,) = (one for one in step.operations if one.name == "index")
        assert (index.count, index.flops) == (3, 3 * (step.context + 1) * 2 * 5 * 21)
        assert index.traffic.kv_read_bytes == 3 * step.context * 20 * 2
        assert index.traffic.kv_written_bytes == 3 * 20 * 2
        (attention,) = (one for one in step.operations if one.name == "attention to 8 tokens")
        assert (attention.count, attention.traffic.kv_read_bytes) == (4, 3 * 8 * 52 * 2)
    assert long.traffic.total_bytes - short.traffic.total_bytes == 3 * 3 * 800 * 20 * 2
    assert long.footprint_bytes - short.footprint_bytes == 3 * 800 * (3 * 20 + 4 * 52) * 2


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 40), (3, 23), (2, 10), (1, 9), (2, 5), (1, 1)])
def test_a_prompt_in_float32_is_the_reference(name: str, batch: int, tokens: int) -> None:
    """The index selects 9: prompts are longer, one longer, as long and shorter."""
    error, inputs, backend = run(f"prefill:model={name},batch={batch},tokens={tokens},weight=f32,kv=f32")
    backend.close()
    assert error < 1e-5
    seen = [inputs.seen(index) for index in range(4)]
    counts = np.broadcast_to(np.minimum(np.arange(tokens) + 1, 9), (batch, tokens))
    assert all(np.array_equal(one.sum(-1), counts) for one in seen)
    assert not any(np.triu(one, 1).any() for one in seen)
    assert np.array_equal(seen[1], seen[2])
    assert tokens < 11 or not np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize("weight", ["bf16", "f16"])
def test_a_prompt_in_other_formats_keeps_the_tolerance(weight: str) -> None:
    spec = f"prefill:model=tiny-index-moe,batch=2,tokens=40,weight={weight},kv={weight}"
    error, _, backend = run(spec)
    backend.close()
    assert error < tolerance(parse(spec))


@pytest.mark.parametrize("name", INDEXED)
def test_a_prompt_sees_other_tokens_than_one_without_an_index(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared above depends on the choice."""
    whole = INDEXED[name]
    layers = tuple(replace(one, mixer=replace(one.mixer, index=None)) for one in whole.layers)
    spec = "prefill:model={},batch=2,tokens=40,weight=f32,kv=f32"
    chosen = compute(make_inputs(parse(spec.format(name)), seed=4), 0)
    monkeypatch.setitem(models.SHAPES, "tiny-whole", replace(whole, name="tiny-whole", layers=layers))
    assert relative_error(compute(make_inputs(parse(spec.format("tiny-whole")), seed=4), 0), chosen) > 0.05


@pytest.mark.parametrize("block", [7, 16, 64])
def test_a_prompt_s_own_choice_is_that_of_the_reference_in_float32(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, inputs, backend = run("prefill:model=tiny-index,batch=2,tokens=40,weight=f32,kv=f32")
    layers = [one for one in backend._decoder.modules() if isinstance(one, CausalIndexed)]
    own: dict[int, np.ndarray] = {}
    select = CausalIndexed.select

    def told(layer: CausalIndexed, *made: Tensor) -> list[Tensor]:
        chosen, seen, first = select(layer, *made), np.zeros((2, 40, 40), np.bool_), 0
        for ids in chosen:
            rows = seen[:, first : first + ids.shape[1]]
            np.put_along_axis(rows, ids.numpy(), True, -1)
            first += ids.shape[1]
        own[layers.index(layer)] = np.tril(seen)  # behind fewer than 9 tokens later ones fill a choice up
        return chosen

    monkeypatch.setattr(CausalIndexed, "select", told)
    for layer in layers:
        layer.block = block
    backend.launch(0)
    assert sorted(own) == [0, 1, 3]
    for index, seen in own.items():  # two tokens of nearly equal scores may be swapped
        assert np.count_nonzero(seen != inputs.seen(index)) <= 2
    keys = [one.keys for one in layers]
    assert keys[2] is None
    assert all(one.abs().amax(-1).min() > 0 for one in keys if one is not None)
    backend.close()


def test_which_tokens_a_prompt_s_index_selects_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One head of one column without RoPE: scores are the products with earlier keys, as the cache holds them."""
    mixer = Latent(1, 1, rope_dim=0, index=Indexer(1, 1, 2))
    keys = np.array([0.5, -3.0, 2.001, 2.0, 2.002])
    made = {"q_down": np.ones(5), "index_q": np.ones(5), "index_k": keys, "index_weights": np.ones(5)}
    vectors = {"q_norm": np.ones(1), "index_k_norm": np.ones(1), "index_k_norm_bias": np.zeros(1)}

    def seen(kv: str) -> list[list[int]]:
        away = indexing.left_out(
            np.ones((5, 1)),
            mixer,
            np.arange(5),
            5,
            lambda name, x: made[name][:, None],
            vectors,
            kv,
            lambda k: k,
        )
        return [np.flatnonzero(~row).tolist() for row in away[0]]

    monkeypatch.setattr(indexing, "layer_norm", lambda x, *rest: x)
    assert seen("f32") == [[0], [0, 1], [0, 2], [2, 3], [2, 4]]
    assert seen("bf16") == [
        [0],
        [0, 1],
        [0, 2],
        [2, 3],
        [2, 3],
    ]  # all three are 2 then, and the first are taken


def test_the_choice_of_a_prompt_is_kept_for_other_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = parse("prefill:model=tiny-index,batch=2,tokens=21,weight=f32,kv=f32")
    first = make_inputs(work, seed=4, folder=tmp_path).seen(3)
    monkeypatch.setattr(own_routes, "prefill", None)
    assert np.array_equal(make_inputs(work, seed=4, folder=tmp_path).seen(3), first)
    with pytest.raises(TypeError):
        make_inputs(work, seed=5, folder=tmp_path).seen(3)


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa"])
@pytest.mark.parametrize("write", [routed_folder, folder_of], ids=["published", "stacked"])
def test_a_folder_answers_as_in_transformers(kind: str, write: Any, tmp_path: Path) -> None:
    case = next(case for case in CASES if case["config"]["model_type"] == kind)
    context, backend = len(case["tokens"]) - 1, PyTorch()
    assert context > case["config"]["index_topk"]
    spec = f"step:model={write(case, tmp_path)},context={context},cache=prompt,weight=f32,kv=f32"
    inputs = inputs_of(spec, case)
    backend.open("cpu", 1)
    assert backend.supports(inputs.work) is None
    backend.prepare(inputs.work, inputs)
    backend.launch(0)
    assert relative_error(backend.output()[0], np.array(case["logits"])) < 1e-5
    assert backend.settings()["routes"] == "own"
    backend.close()


@pytest.mark.parametrize("weight", ["f32", "bf16"])
def test_a_step_behind_a_prompt_keeps_the_tolerance(weight: str) -> None:
    spec = f"step:model=tiny-index,batch=2,context=40,weight={weight},kv={weight},cache=prompt"
    error, _, backend = run(spec)
    backend.close()
    assert error < (1e-5 if weight == "f32" else tolerance(parse(spec)))


def test_what_is_not_run_is_one_line() -> None:
    for kind in ("step", "prefill"):
        work = parse(f"{kind}:model=tiny-index")
        assert unsupported(work, Variants(compiled=True), "cpu") == (
            "attention with an indexer runs as it is, without torch.compile and offload"
        )
        assert unsupported(work, Variants(), "cpu") is None
