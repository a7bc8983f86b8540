import json

import pytest

from membound.kernels.dose_models import DOSES, unheld
from membound.kernels.models import MODELS, Model, get_model
from membound.kernels.shapes import shape_of
from membound.kernels.work import SpecError, parse

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 50,
    "rms_norm_eps": 1e-5,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def write(folder, config):
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    return str(folder)


def write_beside(folder, config):
    other = folder / "other"
    other.mkdir()
    return write(other, config)


# Parameters as published, in matrices that a step streams (without input embeddings unless tied).
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-3.2-1b", 1.236),
        ("llama-3-8b", 7.505),
        ("llama-3-70b", 69.50),
        ("llama-2-7b", 6.607),
        ("llama-2-13b", 12.85),
        ("llama-30b", 32.31),
        ("qwen2.5-0.5b", 0.494),
        ("qwen2.5-1.5b", 1.543),
        ("qwen2.5-7b", 7.070),
        ("gpt-3-175b", 174.6),
    ],
)
def test_parameters_are_those_of_the_published_model(name, billions):
    assert get_model(name).parameters / 1e9 == pytest.approx(billions, rel=1e-3)


def test_shapes():
    model = get_model("qwen2.5-0.5b")
    assert (model.q_dim, model.kv_dim) == (896, 128)
    assert list(model.layer_matrices) == ["q", "k", "v", "o", "gate", "up", "down"]
    assert "gate" not in MODELS["gpt-3-175b"].layer_matrices
    assert model.with_layers(3).layers == 3
    assert model.with_layers(0) is model
    for name, known in MODELS.items():
        assert known.name == name
        assert known.q_heads % known.kv_heads == 0
        assert known.head_dim % 2 == 0


def test_a_folder_is_a_model(tmp_path):
    model = get_model(write(tmp_path, LLAMA))
    assert model == Model(str(tmp_path), 64, 2, 4, 2, 16, 96, 50, 10000.0, 1e-5, folder=str(tmp_path))
    work = parse(f"step:model={tmp_path},layers=1")
    assert work.shape.folder == str(tmp_path)
    assert work.shape.layers == 1


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"model_type": "qwen2"}, "qkv_bias", True),
        ({"attention_bias": True}, "qkv_bias", True),
        ({"model_type": "qwen3", "head_dim": 32}, "qk_norm", True),
        ({"model_type": "qwen3", "head_dim": 32}, "q_dim", 128),
        ({"model_type": "mistral", "head_dim": None}, "head_dim", 16),
        ({"num_key_value_heads": None}, "kv_heads", 4),
        ({"tie_word_embeddings": True}, "tied", True),
        ({"rope_theta": 5e5}, "rope_theta", 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_theta", 1e6),
        ({"rope_scaling": LLAMA3_ROPE}, "rope_scaling", (8.0, 1.0, 4.0, 8192.0)),
        ({"rope_scaling": {"type": "default"}}, "rope_scaling", ()),
    ],
)
def test_folder_fields(tmp_path, change, field, value):
    assert getattr(get_model(write(tmp_path, LLAMA | change)), field) == value


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "config.json cannot be read"),
        ("[" * 200_000, "config.json cannot be read: maximum recursion depth"),
        (LLAMA | {"rope_theta": 10**400}, "rope_theta=10+ must be a positive number"),
        (LLAMA | {"rope_theta": float("inf")}, "rope_theta=inf must be a positive number"),
        (LLAMA | {"model_type": "bert"}, "model_type 'bert' is not supported; supported: llama, mistral"),
        ({}, "model_type None is not supported"),
        ({k: v for k, v in LLAMA.items() if k != "vocab_size"}, "config.json lacks 'vocab_size'"),
        ([LLAMA], "config.json is not a JSON object"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\] is not supported"),
        (LLAMA | {"hidden_size": None}, "hidden_size=None must be a positive whole number"),
        (LLAMA | {"hidden_size": "64"}, "hidden_size='64' must be a positive whole number"),
        (LLAMA | {"num_attention_heads": 0}, "num_attention_heads=0 must be a positive whole number"),
        (LLAMA | {"num_key_value_heads": 2.0}, "num_key_value_heads=2.0 must be a positive whole number"),
        (LLAMA | {"rms_norm_eps": "small"}, "rms_norm_eps='small' must be a positive number"),
        (LLAMA | {"rope_scaling": 8}, "RoPE settings 8 are not a JSON object"),
        (LLAMA | {"rope_scaling": LLAMA3_ROPE | {"factor": -8}}, "factor=-8 must be a positive number"),
        (LLAMA | {"rope_scaling": {"type": "dynamic"}}, "RoPE scaling 'dynamic' is not supported"),
        (LLAMA | {"rope_scaling": {"type": "yarn"}}, "config.json lacks 'max_position_embeddings'"),
        (LLAMA | {"rope_scaling": {"rope_type": "llama3"}}, "config.json lacks 'factor'"),
    ],
)
def test_folder_errors_name_file_and_field(tmp_path, config, says):
    with pytest.raises(ValueError, match=says) as caught:
        get_model(write(tmp_path, config))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "supported"),
    [
        ({"hidden_act": "gelu"}, "silu"),
        ({"hidden_act": ["silu"]}, "silu"),
        ({"partial_rotary_factor": 0.5}, "1, all of a head is rotated"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "1, all of a head"),
        ({"num_local_experts": 8}, "dense models"),
        ({"num_experts": 64}, "dense models"),
        ({"mlp_bias": True}, "an MLP without biases"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "LlamaForCausalLM"),
        ({"architectures": []}, "LlamaForCausalLM"),
        ({"architectures": "LlamaForCausalLM"}, "LlamaForCausalLM"),
    ],
    ids=str,
)
def test_foreign_arithmetic_under_a_known_model_type_is_refused(tmp_path, change, supported):
    name, value = next(iter(change.items()))
    name = "partial_rotary_factor" if isinstance(value, dict) and name == "rope_parameters" else name
    with pytest.raises(
        SpecError, match=rf"^step: .*config\.json: {name}=.* is not supported; supported.*: {supported}"
    ) as raised:
        parse(f"step:model={write(tmp_path, LLAMA | change)}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_plain_values_of_a_family_are_taken(tmp_path, family):
    plain = {
        "hidden_act": "silu",
        "mlp_bias": False,
        "partial_rotary_factor": 1.0,
        "quantization_config": None,
    }
    named = {
        "model_type": family,
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "num_experts": None,
    }
    assert get_model(write(tmp_path, LLAMA | plain | named)).hidden == 64


@pytest.mark.parametrize("name", ["hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size"])
def test_counts_beyond_any_dimension_are_refused(tmp_path, name):
    with pytest.raises(
        SpecError, match=rf"config\.json: {name}=10+ must be a positive whole number up to 2147483648"
    ) as raised:
        parse(f"step:model={write(tmp_path, LLAMA | {name: 10**400})}")
    assert len(str(raised.value)) < 300


def test_more_columns_of_heads_than_any_dimension_are_refused(tmp_path):
    config = LLAMA | {"head_dim": 1 << 31}
    with pytest.raises(SpecError, match="heads of 2147483648 make more than 2147483648 columns"):
        parse(f"step:model={write(tmp_path, config)}")


def test_unknown_models(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"unknown model 'gpt-5'; known: tiny, .*or a folder with config.json, or a file in GGUF",
    ):
        get_model("gpt-5")
    with pytest.raises(ValueError, match=f"model folder {tmp_path} has no config.json"):
        get_model(str(tmp_path))
    with pytest.raises(SpecError, match="step: model folder"):
        parse(f"step:model={tmp_path}")
    with pytest.raises(
        SpecError, match=r"step: model folder 'm{60}' cannot be looked up: File name too long"
    ):
        parse(f"step:model={'m' * 300}")


# Sliding windows


@pytest.mark.parametrize(
    ("family", "config", "window"),
    [
        ("llama", {}, 0),
        ("mistral", {"sliding_window": None}, 0),
        ("mistral", {"sliding_window": 40}, 40),
        ("mistral", {"sliding_window": 40, "layer_types": ["full_attention"] * 2}, 40),
        ("mistral", {}, 4096),
        ("qwen2", {}, 0),
        ("qwen2", {"sliding_window": 40, "use_sliding_window": False}, 0),
        ("qwen2", {"sliding_window": 40, "use_sliding_window": True}, 0),  # from layer 28 on
        ("qwen2", {"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 2}, 0),
        ("qwen2", {"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 1}, 40),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 0}, 4096),
        ("qwen3", {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0}, 0),
        ("qwen2", {"sliding_window": 40, "layer_types": ["sliding_attention"] * 2}, 0),
        ("qwen3", {"sliding_window": 40, "layer_types": ["full_attention", "sliding_attention"]}, 0),
        (
            "qwen3",
            {"sliding_window": 40, "layer_types": ["sliding_attention"] * 2, "use_sliding_window": False},
            0,
        ),
        (
            "qwen3",
            {
                "sliding_window": 40,
                "layer_types": ["full_attention", "sliding_attention"],
                "use_sliding_window": True,
            },
            40,
        ),
        (
            "qwen3",
            {"sliding_window": 40, "layer_types": ["full_attention"] * 2, "use_sliding_window": True},
            0,
        ),
    ],
)
def test_sliding_windows_are_found(tmp_path, family, config, window):
    assert get_model(write(tmp_path, LLAMA | {"model_type": family} | config)).window == window


def test_a_window_that_is_no_number_is_refused(tmp_path):
    folder = write(tmp_path, LLAMA | {"model_type": "mistral", "sliding_window": "wide"})
    with pytest.raises(
        ValueError, match=r"config\.json: sliding_window='wide' must be a positive whole number"
    ):
        get_model(folder)


def test_a_window_bounds_what_a_step_and_a_prompt_read(tmp_path):
    folder = write(tmp_path, LLAMA | {"model_type": "mistral", "sliding_window": 40})
    full = write_beside(tmp_path, LLAMA | {"model_type": "mistral", "sliding_window": None})
    short, long = (parse(f"step:model={folder},context={n}") for n in (39, 4000))
    assert short.traffic == long.traffic == parse(f"step:model={full},context=39").traffic
    assert short.flops == long.flops
    assert long.footprint_bytes - short.footprint_bytes == 2 * (4000 - 39) * 2 * 2 * 16 * 2
    assert [one.name for one in long.operations][-2] == "attention to 39 tokens"
    prompt, whole = (parse(f"prefill:model={name},tokens=50") for name in (folder, full))
    hidden = 10 * 11 // 2  # pairs more than 39 tokens apart
    assert whole.flops - prompt.flops == 2 * hidden * 4 * 4 * 16
    assert whole.traffic == prompt.traffic


def test_layers_with_and_without_a_window_follow_layer_types(tmp_path):
    kinds = ["sliding_attention", "full_attention"]
    windowed = {"sliding_window": 40, "layer_types": kinds, "use_sliding_window": True}
    folder = write(tmp_path, LLAMA | {"model_type": "qwen3"} | windowed)
    work = parse(f"step:model={folder},context=100")
    assert [layer.mixer.seen(100) for layer in work.shape.decoder.layers] == [39, 100]
    assert [(one.name, one.count) for one in work.operations][-3:-1] == [
        ("attention to 39 tokens", 1),
        ("attention", 1),
    ]


@pytest.mark.parametrize("name", DOSES)
def test_models_made_for_an_experiment_are_known_and_hold_what_depends_on_the_context(name):
    model = get_model(name)
    assert shape_of(name) == model.decoder == DOSES[name]
    whole = unheld(model.decoder)
    short, long = 1024, 8192
    held, unbounded = (one.cached_numbers(long) - one.cached_numbers(short) for one in (model.decoder, whole))
    assert unbounded == (long - short) * whole.token_numbers
    assert held <= unbounded / 4
