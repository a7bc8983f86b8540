"""Folders as people have them: what a silent config.json means, what is refused, and what a folder is known by."""

import json
import shutil
from math import log

import pytest
from checkpoints import CONFIG, folder_of

from membound.kernels.models import get_model
from membound.kernels.rope import LinearScaling, Rope, YarnScaling
from membound.kernels.work import SpecError, parse

PLAIN = {name: value for name, value in CONFIG.items() if name not in ("head_dim", "num_key_value_heads")}


def write(folder, **config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


# Where config.json is silent: huggingface/transformers, models/*/configuration_*.py


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama"}, (4, 32)),
        ({"model_type": "llama", "num_key_value_heads": None, "head_dim": None}, (4, 32)),
        ({"model_type": "mistral", "num_attention_heads": 16}, (8, 8)),
        ({"model_type": "mistral", "num_key_value_heads": None}, (4, 32)),
        ({"model_type": "qwen2", "num_attention_heads": 64}, (32, 2)),
        ({"model_type": "qwen3", "num_attention_heads": 32}, (32, 128)),
        ({"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 64}, (2, 64)),
    ],
    ids=str,
)
def test_missing_heads_are_those_that_transformers_takes(tmp_path, config, expected):
    model = get_model(write(tmp_path, **PLAIN | config))
    assert (model.kv_heads, model.head_dim) == expected


def test_what_was_assumed_is_said_where_the_weights_have_another_shape(tmp_path):
    from membound.kernels.weights.checkpoint import Checkpoint

    folder = folder_of(tmp_path, num_attention_heads=16, num_key_value_heads=4, head_dim=8)
    write(tmp_path, **PLAIN | {"model_type": "mistral", "num_attention_heads": 16, "head_dim": 8})
    with pytest.raises(
        ValueError,
        match=r"k_proj.weight has shape \[32, 128\], config.json says \[64, 128\] \(with num_key_value_he.*=8, T",
    ):
        Checkpoint(get_model(folder), "f32", 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"hidden_size": 520, "num_attention_heads": 8},
            r"heads of 65 numbers \(hidden_size=520 / num_attention",
        ),
        ({"head_dim": 33}, r"heads of 33 numbers \(head_dim\) are not supported: RoPE turns them in pairs"),
        (
            {"hidden_size": 130, "num_attention_heads": 4},
            "hidden_size=130 must be a multiple of num_attention_heads=4",
        ),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 must be a multiple of num_key_value_heads=3"),
        ({"model_type": "qwen2"}, "multiple of num_key_value_heads=32, Transformers' default for qwen2"),
        (
            {"model_type": "qwen3", "num_key_value_heads": 4, "head_dim": None},
            "head_dim=None must be a positive",
        ),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' must be true or false"),
        (
            {"vocab_size": 1 << 40},
            "vocab_size=1099511627776 must be a positive whole number up to 2147483648",
        ),
        (
            {"layer_types": ["full_attention"]},
            "layer_types=.* must be a list with one kind for each of num_hidden_la",
        ),
        (
            {"layer_types": ["linear_attention"] * 2},
            "layer_types has 'linear_attention', which is not supported",
        ),
        (
            {"layer_types": ["sliding_attention"] * 2},
            "layer_types has sliding_attention, which its model_type has not",
        ),
        (
            {"auto_map": {"AutoModelForCausalLM": "own.Model"}},
            "auto_map=.* is not supported; supported: models that T",
        ),
        (
            {"model_type": "mistral", "num_key_value_heads": 4, "attention_bias": True},
            "attention_bias=True is not supp",
        ),
        (
            {"compression_config": {"bits": 4}},
            "quantization_config with quant_method None is not supported; supported: gptq, awq, compressed-tensors, fp8",
        ),
        ({"n_routed_experts": 4}, "n_routed_experts=4 is not supported; supported: dense models"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "RoPE setting full_attention=.* is not supported; default has rope_type, type, rope_theta",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"rope_theta": 1e6}},
            "rope_parameters and rope_scaling differ in rope_theta: keep one of them",
        ),
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused_when_the_work_is_made(tmp_path, change, says):
    folder = write(tmp_path, **PLAIN | {"model_type": "llama"} | change)
    with pytest.raises(SpecError, match=rf"^step: .*config\.json.*{says}") as raised:
        parse(f"step:model={folder}")
    assert "\n" not in str(raised.value)


def test_code_for_the_tokenizer_alone_is_no_code_of_the_model(tmp_path):
    folder = write(
        tmp_path, **PLAIN | {"model_type": "llama", "auto_map": {"AutoTokenizer": "own.Tokenizer"}}
    )
    assert get_model(folder).hidden == 128


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("phi3", "modeling_phi3.Phi3ForCausalLM"),
        ("phi3", "microsoft/Phi-3.5-mini-instruct--modeling_phi3.Phi3ForCausalLM"),
        ("mimo", "modeling_mimo.MiMoForCausalLM"),
    ],
)
def test_published_code_that_transformers_has_taken_in_is_no_reason(tmp_path, kind, code):
    named = {"AutoConfig": "configuration.Config", "AutoModelForCausalLM": code}
    folder = write(tmp_path, **PLAIN | {"model_type": kind, "num_key_value_heads": 2, "auto_map": named})
    assert get_model(folder).hidden == 128


def test_code_of_a_text_part_is_refused_too(tmp_path):
    text = PLAIN | {"model_type": "qwen3_vl_text", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    folder = write(tmp_path, model_type="qwen3_vl", text_config=text)
    with pytest.raises(SpecError, match=r"auto_map=.*own\.Model.* is not supported"):
        parse(f"step:model={folder}")


def test_layers_are_not_cut_where_a_kind_would_be_lost(tmp_path):
    late = {
        "sliding_window": 40,
        "use_sliding_window": True,
        "max_window_layers": 1,
        "num_key_value_heads": 2,
    }
    folder = write(tmp_path, **PLAIN | {"model_type": "qwen2"} | late)
    assert parse(f"step:model={folder},context=200,layers=2").shape.decoder.least_layers == 2
    with pytest.raises(SpecError, match=r"has 2 kinds of layers; layers=1 must be 2 at least"):
        parse(f"step:model={folder},context=200,layers=1")


def test_a_folder_of_a_family_that_is_counted_alone_says_so(tmp_path):
    sizes = {"num_key_value_heads": 2}
    for kind, says in (
        ("cohere", "what model_type 'cohere' computes is not known here"),
        (
            "kimi_linear",
            "model_type 'kimi_linear' is not supported; supported: llama, mistral, qwen2, qwen3, gemma2",
        ),
    ):
        folder = write(tmp_path, **PLAIN | sizes | {"model_type": kind})
        with pytest.raises(SpecError, match=says) as raised:
            parse(f"step:model={folder}")
        assert "\n" not in str(raised.value)


def test_rope_is_read_as_transformers_reads_it(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    folder = write(
        tmp_path, **PLAIN | {"model_type": "qwen2", "num_key_value_heads": 2, "rope_scaling": yarn}
    )
    rope = get_model(folder).decoder.layers[0].mixer.rope
    assert rope.scaling == YarnScaling(4.0, 8.0, gain=pytest.approx(0.1 * log(4) + 1))
    assert get_model(folder).rope_scaling == ()
    linear = {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}
    folder = write(tmp_path, **PLAIN | linear)
    assert get_model(folder).decoder.layers[0].mixer.rope == Rope(scaling=LinearScaling(2.0))


@pytest.mark.parametrize("kind", ["default", "mrope", "yarn"])
def test_places_in_an_image_turn_no_text(tmp_path, kind):
    """Qwen3-VL and Qwen3.5 write mrope_interleaved beside rope_type default."""
    plain = {"rope_type": kind, "rope_theta": 5e6, "factor": 4.0, "original_max_position_embeddings": 8}
    block = plain if kind == "yarn" else {"rope_type": kind, "rope_theta": 5e6}
    places = {"mrope_section": [8, 4, 4], "mrope_interleaved": True}
    text = PLAIN | {"model_type": "qwen3_vl_text", "num_key_value_heads": 2, "head_dim": 32}
    ropes = [
        get_model(write(tmp_path, model_type="qwen3_vl", text_config=text | {"rope_parameters": rope}))
        for rope in (block, block | places)
    ]
    assert ropes[0].decoder.layers == ropes[1].decoder.layers


def test_a_text_part_within_a_folder_is_a_model(tmp_path):
    text = PLAIN | {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32}
    folder = write(
        tmp_path,
        model_type="qwen3_vl",
        text_config=text | {"model_type": "qwen3_vl_text"},
        vision_config={"depth": 2},
    )
    model = get_model(folder)
    assert (model.hidden, model.qk_norm, model.decoder.left_out) == (128, True, "vision")


def test_a_pointer_in_place_of_config_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 700\n"
    )
    with pytest.raises(ValueError, match=r"config\.json is a Git LFS pointer.*git lfs pull"):
        get_model(str(tmp_path))


# What a folder is known by


def test_a_folder_is_known_by_its_content_wherever_it_lies(tmp_path):
    here = folder_of(tmp_path / "here")
    work = parse(f"step:model={here},context=16,weight=f32")
    assert len(work.content) == 12
    assert work.spec.endswith(f",content={work.content}")
    assert parse(work.spec) == work
    there = shutil.move(here, str(tmp_path / "there"))
    assert parse(f"step:model={there},context=16,weight=f32").content == work.content


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"rope_theta": 5e5}, False),
        ({"num_hidden_layers": 1}, False),
        ({"transformers_version": "4.44.0", "_name_or_path": "/old/place"}, True),
    ],
    ids=str,
)
def test_a_folder_that_was_edited_is_read_again_and_is_another_model(tmp_path, change, same):
    folder = folder_of(tmp_path)
    before = parse(f"step:model={folder},context=16,weight=f32")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    after = parse(f"step:model={folder},context=16,weight=f32")
    assert after.shape.layers == change.get("num_hidden_layers", 2)
    assert before.shape.layers == 2  # a work is what it was when it was made
    assert (after.content == before.content) is same
    if same:
        assert parse(before.spec) == after
    else:
        with pytest.raises(
            SpecError, match=f"content={before.content} was asked for, and .* is {after.content} now"
        ):
            parse(before.spec)


def test_other_tensors_are_another_content(tmp_path):
    first = get_model(folder_of(tmp_path / "a")).content
    assert get_model(folder_of(tmp_path / "b")).content == first
    assert get_model(folder_of(tmp_path / "c", drop=("model.norm.weight",))).content != first


def test_a_built_in_model_has_no_content():
    assert "content" not in parse("step:model=tiny").spec
    with pytest.raises(SpecError, match="content=abc was asked for, and tiny is built in and has none"):
        parse("step:model=tiny,content=abc")


def test_a_folder_called_like_a_built_in_model_is_named_by_its_path(tmp_path, monkeypatch):
    folder_of(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert parse("step:model=tiny").shape.hidden == 256
    assert parse("step:model=./tiny").shape.hidden == 128
    assert parse("step:model=./tiny").spec != parse("step:model=tiny").spec
