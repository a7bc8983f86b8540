import pytest

from membound.kernels.models import MODELS
from membound.kernels.served import WEIGHT_BITS, ServedPrefill, ServedStep
from membound.kernels.shapes import ALIASES, SHAPES, shape_of
from membound.kernels.weights.formats import FORMATS
from membound.kernels.work import Prefill, SpecError, Step, parse_as


@pytest.mark.parametrize("name", [*MODELS])
@pytest.mark.parametrize("weight", ["bf16", "int4g32"])
def test_a_model_that_is_run_here_streams_what_its_step_does(name, weight):
    served, step = ServedStep(name, 3, 100, weight), Step(name, 3, 100, weight)
    norms = 4 * (2 * step.shape.layers + 1) * step.shape.hidden
    bias = 4 * step.shape.layers * (step.shape.q_dim + 2 * step.shape.kv_dim) * step.shape.qkv_bias
    traffic = step.traffic
    matrices = traffic.weights_bytes + traffic.scales_bytes - norms - bias
    assert served.streamed_bytes == matrices
    assert served.cache_bytes == traffic.kv_read_bytes + traffic.kv_written_bytes
    assert served.flops == step.flops


def test_a_prompt_has_the_flops_and_the_cache_of_its_work():
    served, work = ServedPrefill("llama-3-8b", 2, 100), Prefill("llama-3-8b", 2, 100)
    assert served.flops == work.flops
    assert served.cache_bytes == work.traffic.kv_read_bytes + work.traffic.kv_written_bytes


def test_scales_are_those_of_the_formats():
    for name, fmt in FORMATS.items():
        values, scales = fmt.matrix_bytes(1024, 4096)
        row_scales = 0 if name != "int8" else scales  # one a row: 0.01 % of the row, left out
        assert 1024 * 4096 * WEIGHT_BITS[name] / 8 == values + scales - row_scales


def test_experts_are_read_as_often_as_even_routing_takes_them():
    one = shape_of("qwen3-30b-a3b")
    expert = 3 * 2048 * 768
    rest = one.token_weights - 48 * 8 * expert
    for tokens, distinct in ((1, 8.0), (2, 128 * (1 - (1 - 8 / 128) ** 2)), (100_000, 128.0)):
        assert one.streamed_weights(tokens) == pytest.approx(rest + 48 * distinct * expert)


def test_the_latent_cache_holds_576_numbers_a_token():
    assert ServedStep("deepseek-r1", kv="bf16").token_cache_bytes == 61 * 576 * 2
    assert ServedStep("deepseek-r1").flops > 2 * 36.6e9


def test_aliases_lead_to_shapes_and_a_dense_model_streams_all_but_its_embedding():
    assert all(shape_of(name).name in (*SHAPES, *MODELS) for name in ALIASES)
    tied = MODELS["llama-3.2-1b"].decoder
    assert tied.stored_weights == tied.token_weights


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "step:model=deepseek-r2",
            "unknown model 'deepseek-r2'; nearest: deepseek-v2, deepseek-r1, deepseek-v3",
        ),
        ("step:model=deepseek-r1,weight=fp9", "weight='fp9' is unknown; allowed: f32, bf16"),
        ("step:model=deepseek-r1,kv=fp4", "kv='fp4' is unknown; allowed"),
        ("step:model=deepseek-r1,batch=0", "batch=0 must be a whole number from 1"),
        ("step:model=deepseek-r1,layers=62", "layers=62 must be from 1 to 61"),
        ("step:model=deepseek-r1,batsh=2", "unknown key 'batsh' (did you mean batch?)"),
    ],
)
def test_a_wrong_spec_is_refused_by_name(spec, said):
    with pytest.raises(SpecError) as error:
        parse_as(spec, {"step": ServedStep})
    assert said in str(error.value)


def test_fewer_layers_are_said_and_counted():
    whole, cut = ServedStep("deepseek-v3"), ServedStep("deepseek-v3", layers=4)
    assert "layers=4" in cut.spec
    assert [layer.mlp == whole.shape.layers[0].mlp for layer in cut.shape.layers] == [True] * 3 + [False]
    assert cut.streamed_bytes < whole.streamed_bytes / 10


@pytest.mark.parametrize(("model", "least"), [("deepseek-v3", 4), ("gemma-3-27b", 6), ("gpt-oss-20b", 2)])
def test_a_model_without_one_of_its_kinds_of_layers_is_refused(model, least):
    assert len(ServedStep(model, layers=least).shape.kinds) == 2
    with pytest.raises(
        SpecError, match=f"{model} has 2 kinds of layers; layers={least - 1} must be {least} at least"
    ):
        ServedStep(model, layers=least - 1)


def test_a_state_that_does_not_grow_is_counted_at_every_context() -> None:
    hybrid = shape_of("qwen3.5-9b")
    short, long = (ServedStep("qwen3.5-9b", batch=2, context=context) for context in (1000, 5000))
    assert long.cache_bytes - short.cache_bytes == 2 * 4000 * 8 * 2 * 4 * 256 * 2
    assert short.cache_bytes == 2 * (1001 * 8 * 2 * 4 * 256 * 2 + sum(hybrid.state_bytes))
    prompt = ServedPrefill("qwen3.5-9b", tokens=10)
    assert prompt.cache_bytes == 2 * 10 * prompt.token_cache_bytes + hybrid.state_bytes[1]
