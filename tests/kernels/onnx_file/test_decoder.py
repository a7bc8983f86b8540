"""What inputs and outputs of a decoder mean, under the names that exporters give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_decoders
import pytest
from onnx import TensorProto, helper

from membound.kernels.model import ModelError
from membound.kernels.onnx_file.decoder import OnnxDecoder, decoder_of
from membound.kernels.onnx_file.feeds import cache_values, small_feeds
from membound.kernels.onnx_file.operators import ghost
from membound.kernels.onnx_file.read import read


def decoder(model: onnx.ModelProto, folder: Path) -> OnnxDecoder:
    return decoder_of(read(onnx_decoders.saved(model, folder / "m.onnx")))


def declared(name: str, kind: int, dims: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def test_tokens_masks_and_caches(tmp_path: Path) -> None:
    one = decoder(onnx_decoders.gqa_model(), tmp_path)
    assert (one.layers, one.vocab, one.logits) == (2, 50, "logits")
    assert [(c.layer, c.part, c.axis, c.present) for c in one.caches][:2] == [
        (0, "key", 2, "present.0.key"),
        (0, "value", 2, "present.0.value"),
    ]
    fed = small_feeds(one, batch=3, context=7, seed=4)
    assert sorted(fed) == ["attention_mask", "input_ids"]
    assert fed["attention_mask"].tolist() == [[1] * 8] * 3
    assert fed["input_ids"].shape == (3, 1)
    assert len(set(fed["input_ids"].reshape(-1).tolist())) == 3
    assert 0 <= fed["input_ids"].min() <= fed["input_ids"].max() < 50
    assert (small_feeds(one, 3, 7, 5)["input_ids"] != fed["input_ids"]).any()
    keys, values = (cache_values(cache, 3, 7, 4) for cache in one.caches[:2])
    assert keys.shape == values.shape == (3, 1, 7, 16)
    assert (keys != values).any()
    np.testing.assert_array_equal(cache_values(one.caches[0], 3, 7, 4), keys)


@pytest.mark.parametrize(
    ("name", "layer", "part"),
    [
        ("past_key_values.3.key", 3, "key"),
        ("past_key_values.3.value", 3, "value"),
        ("past_key_values_key_cache_1", 1, "key"),
        ("past_key_values_value_cache_1", 1, "value"),
        ("past_key_2", 2, "key"),
        ("past_value_2", 2, "value"),
        ("key_cache.5", 5, "key"),
        ("v_cache_5", 5, "value"),
        ("past.4.value", 4, "value"),
        ("past_key_values_7_0", 7, "key"),
        ("past_key_values_7_1", 7, "value"),
    ],
)
def test_names_of_caches(name: str, layer: int, part: str, tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    model.graph.input.append(declared(name, TensorProto.FLOAT, ["b", 1, "past_length", 16]))
    cache = next(c for c in decoder(model, tmp_path).caches if c.name == name)
    assert (cache.layer, cache.part) == (layer, part)


def test_logits_without_their_name_are_what_has_not_the_shape_of_a_cache(tmp_path: Path) -> None:
    """torch.onnx.export calls outputs linear_14 and cat_7 unless it is given names."""
    model = onnx_decoders.plain_model()
    names = {one.name: f"cat_{place}" for place, one in enumerate(model.graph.output)}
    for one in model.graph.output:
        one.name = names[one.name]
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            node.output[place] = names.get(name, name)
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    assert decoder(model, tmp_path).logits == names["logits"]


@pytest.mark.parametrize(
    ("name", "kind", "dims", "found"),
    [
        ("position_ids", TensorProto.INT64, ["b", "s"], [[9], [9]]),
        ("position_ids", TensorProto.INT64, [3, "b", "s"], [[[9], [9]]] * 3),
        ("cache_position", TensorProto.INT64, ["s"], [9]),
        ("use_cache_branch", TensorProto.BOOL, [1], [True]),
        ("num_logits_to_keep", TensorProto.INT64, [], 1),
        ("past_seq_len", TensorProto.INT32, ["b", 1], [[9], [9]]),
        ("total_seq_len", TensorProto.INT32, [1], [10]),
        ("total_sequence_length", TensorProto.INT32, [], 10),
    ],
)
def test_other_inputs_of_exporters(name: str, kind: int, dims: list[Any], found: Any, tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    model.graph.input.append(declared(name, kind, dims))
    fed = small_feeds(decoder(model, tmp_path), batch=2, context=9, seed=1)[name]
    assert fed.tolist() == found
    assert fed.dtype == helper.tensor_dtype_to_np_dtype(kind)


def test_a_mask_of_fixed_length_hides_what_is_behind_the_step(tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    model.graph.input[1].CopyFrom(declared("attention_mask", TensorProto.INT64, ["b", 12]))
    one = decoder(model, tmp_path)
    assert small_feeds(one, 1, 9, 1)["attention_mask"].tolist() == [[1] * 10 + [0] * 2]
    with pytest.raises(ModelError, match="declares 'attention_mask' as"):
        one.shapes(1, 12)


def test_a_mask_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    model.graph.input[1].CopyFrom(declared("attention_mask", TensorProto.INT64, ["b", 1 << 31]))
    with pytest.raises(ModelError, match="has a mask of 2147483648 tokens, more than the 16777216"):
        decoder(model, tmp_path).shapes(1, 12)


def test_a_cache_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    for number in (2, 3):
        shape = ["b", 1 << 40, "past", 1 << 40]
        model.graph.input[number].CopyFrom(declared(model.graph.input[number].name, TensorProto.FLOAT, shape))
    words = r"has a cache 'past_key_values\.0\.key' of \[1, 1099511627776, 12, 1099511627776\] numbers"
    with pytest.raises(ModelError, match=words):
        decoder(model, tmp_path).shapes(1, 12)


@pytest.mark.parametrize("shape", [(1 << 40, 1 << 40), (2, -1)])
def test_a_value_that_no_step_has_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match=r"asks for a value of the shape \[.*\], which no step has"):
        ghost(shape)


def test_a_cache_of_fixed_length_has_room_for_the_step(tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    for number in (2, 3):
        model.graph.input[number].CopyFrom(
            declared(model.graph.input[number].name, TensorProto.FLOAT, ["b", 1, 12, 16])
        )
    one = decoder(model, tmp_path)
    assert {cache.capacity for cache in one.caches} == {12}
    values = cache_values(one.caches[0], 1, 9, 1)
    assert values.shape == (1, 1, 12, 16)
    assert not values[:, :, 9:].any()
    assert values[:, :, :9].all()
    with pytest.raises(
        ModelError, match=r"has room for 12 tokens in 'past_key_values\.0\.key': context=12 is too long"
    ):
        one.shapes(1, 12)


def test_tokens_in_another_axis(tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    model.graph.input.append(declared("past_key_9", TensorProto.FLOAT, ["b", "past_length", 1, 16]))
    cache = decoder(model, tmp_path).caches[-1]
    assert cache.axis == 1
    assert cache_values(cache, 2, 5, 1).shape == (2, 5, 1, 16)


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(declared("input_ids", TensorProto.INT64, [4, 1]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: [m.graph.input.pop() for _ in range(2)],
            "is no decoder with a cache: none of its inputs is a cache",
        ),
        (
            lambda m: m.graph.input.append(declared("pixel_values", 1, [1, 3, 8, 8])),
            "has the input 'pixel_values', which no rule knows",
        ),
        (lambda m: m.graph.input.pop(0), "has neither input_ids nor inputs_embeds"),
        (
            lambda m: m.graph.input[0].CopyFrom(declared("input_ids", 1, ["b", "s"])),
            "'input_ids' of type float, which it cannot be",
        ),
        (
            lambda m: m.graph.input[2].CopyFrom(declared("past_key_values.0.key", 3, ["b", 1, "p", 16])),
            "in int8, which is not supported",
        ),
        (
            lambda m: m.graph.input[2].CopyFrom(declared("past_key_values.0.key", 1, ["b"])),
            "as [b], which is no cache",
        ),
        (
            lambda m: m.graph.input[2].CopyFrom(declared("past_key_values.0.key", 1, ["b", "x", "y", 16])),
            "which axis is that of tokens?",
        ),
        (lambda m: m.graph.output[0].CopyFrom(declared("hidden", 7, ["b"])), "has no output 'logits'"),
        (fixed_batch, "declares 'input_ids' as [4, 1], and a step of batch=1"),
    ],
)
def test_what_is_no_decoder_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    change(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as refused:
        decoder_of(read(path)).shapes(1, 20)
    assert said in str(refused.value)
    assert str(refused.value).startswith(str(path))


def test_embeddings_in_place_of_tokens(tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    model.graph.input[0].CopyFrom(declared("inputs_embeds", TensorProto.FLOAT, ["b", "s", 32]))
    gather = model.graph.node[0]
    gather.CopyFrom(helper.make_node("Identity", ["inputs_embeds"], ["x"]))
    fed = small_feeds(decoder(model, tmp_path), 2, 5, 1)["inputs_embeds"]
    assert fed.shape == (2, 1, 32)
    assert fed.dtype == np.float32
