"""The engine backend on an engine that is none: requests, steps, tokens, sizes, what is refused."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import fake_vllm
import numpy as np
import pytest

from membound.backends.vllm_engine import start as vllm_start
from membound.backends.vllm_engine.backend import VLLMEngine
from membound.backends.vllm_engine.installed import ENVIRONMENT
from membound.backends.vllm_engine.requests import EngineStepError
from membound.backends.vllm_engine.start import chunk_of, sizes_of
from membound.bench.measure.check import error_of
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels import reference
from membound.kernels.export import POSITIONS
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

STEP = "step:model=tiny,batch=3,context=12,weight=f32,kv=f32,cache=prompt"


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")
    fake_vllm.install(monkeypatch)


def opened(device="cpu"):
    backend = VLLMEngine()
    backend.open(device, 2)
    return backend


def prepared(spec, device="cpu", seed=1):
    backend, work = opened(device), parse(spec)
    inputs = make_inputs(work, seed)
    backend.prepare(work, inputs)
    return backend, inputs


# Steps and prompts


def test_launches_of_a_step_are_the_work_and_what_follows_it():
    backend, inputs = prepared(STEP, seed=int(np.random.default_rng().integers(1 << 31)))
    expected = reference.compute(inputs, 0)
    backend.launch(0)
    backend.sync()
    first = backend.output()
    assert np.array_equal(first.chosen[:, 0], expected.argmax(-1))
    assert error_of(first, inputs, expected) < 1e-6
    for _ in range(4):
        backend.launch(0)
    output = backend.output()
    assert output.shape == (3, 5)
    assert np.array_equal(output.chosen[:, :1], first.chosen)
    assert error_of(output, inputs, expected) < 1e-6
    settings = backend.settings()
    assert (settings["context_first"], settings["context_last"]) == (12, 16)
    assert (settings["weights_stored"], settings["dtype_computed"]) == ("f32", "float32")
    assert not settings["prefix_cache"]


def test_long_prompts_are_run_in_pieces_up_to_their_last_token(monkeypatch):
    monkeypatch.setattr(vllm_start, "PROMPT_TOKENS", 3 * 65)
    backend, inputs = prepared(STEP.replace("=12", "=130"))
    arguments = fake_vllm.LLMEngine.latest.arguments
    assert (arguments.long_prefill_token_threshold, arguments.max_num_batched_tokens) == (65, 195)
    assert [request.done for request in fake_vllm.LLMEngine.latest.requests] == [130] * 3
    backend.launch(0)
    assert np.array_equal(backend.output().chosen[:, 0], reference.compute(inputs, 0).argmax(-1))


def test_every_launch_of_a_prompt_is_the_same():
    backend, inputs = prepared("prefill:model=tiny,batch=2,tokens=9,weight=bf16")
    expected = reference.compute(inputs, 0)
    for _ in range(3):
        backend.launch(0)
        output = backend.output()
        assert output.shape == (2, 1)
        assert error_of(output, inputs, expected) < 1e-6
    assert "context_first" not in backend.settings()


def test_weights_are_widened_only_where_the_variant_says_so():
    spec = STEP.replace("f32", "bf16")
    plain, _ = prepared(spec)
    assert fake_vllm.LLMEngine.latest.arguments.dtype == "bfloat16"
    assert plain.stored_bytes() is None
    wide, _ = prepared(spec, "cpu+f32")
    assert fake_vllm.LLMEngine.latest.arguments.dtype == "float32"
    assert wide.settings()["weights_stored"] == "bf16"
    assert wide.settings()["dtype_computed"] == "float32"
    assert wide.stored_bytes() == parse(STEP).traffic.total_bytes


def test_the_engine_is_offline_reports_nothing_and_caches_no_prefix(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    prepared(STEP)
    assert {name: os.environ[name] for name in ENVIRONMENT} == ENVIRONMENT
    assert {"HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"} <= set(ENVIRONMENT)
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ
    arguments = fake_vllm.LLMEngine.latest.arguments
    assert not arguments.enable_prefix_caching
    assert arguments.skip_tokenizer_init
    assert "config.json" in fake_vllm.LLMEngine.latest.files
    assert not os.path.exists(arguments.model)


# Engines that go wrong


def test_another_token_or_a_sequence_left_out_shows(monkeypatch):
    monkeypatch.setattr(fake_vllm.LLMEngine, "pick", lambda self, logits: int(logits.argsort()[-40]))
    backend, inputs = prepared(STEP)
    backend.launch(0)
    assert error_of(backend.output(), inputs, reference.compute(inputs, 0)) > reference.tolerance(inputs.work)
    fake_vllm.LLMEngine.latest.requests.pop()  # as where a sequence is preempted
    with pytest.raises(EngineStepError, match="gave 2 of 3 sequences a token"):
        backend.launch(0)


def test_sequences_grow_no_further_than_their_cache(monkeypatch):
    monkeypatch.setattr(vllm_start, "FEWEST_STEPS", 2)
    monkeypatch.setattr(vllm_start, "MOST_STEPS", 2)
    backend, _ = prepared(STEP)
    backend.launch(0)
    backend.launch(0)
    with pytest.raises(EngineStepError, match="grown by 2 tokens"):
        backend.launch(0)


def test_an_engine_that_dies_while_loading_leaves_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def die(arguments):
        assert list(tmp_path.iterdir())
        raise RuntimeError("Engine core initialization failed")

    monkeypatch.setattr(fake_vllm.LLMEngine, "from_engine_args", die)
    with pytest.raises(RuntimeError, match="Engine core initialization failed"):
        prepared(STEP)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (
            ValueError("head_size 8 not\nsupported"),
            Unsupported,
            "vLLM refuses the model: head_size 8 not supported",
        ),
        (NotImplementedError(), Unsupported, "vLLM refuses the model: NotImplementedError"),
        (ValueError("No available memory for the cache blocks"), ValueError, "No available memory"),
    ],
    ids=["head", "other", "memory"],
)
def test_a_shape_that_the_engine_has_no_kernel_for_is_unsupported(monkeypatch, error, raised, says):
    def refuse(*_):
        raise error

    monkeypatch.setattr(fake_vllm.LLMEngine, "from_engine_args", refuse)
    with pytest.raises(raised, match=says):
        prepared(STEP)


def test_what_does_not_fit_memory_is_told_in_bytes_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(
        vllm_start.psutil, "virtual_memory", lambda: fake_vllm.SimpleNamespace(available=1000)
    )
    with pytest.raises(
        MemoryError, match=r"needs \d+ bytes for weights and cache, 1000 are available; layers=N"
    ):
        prepared(STEP)
    assert not list(tmp_path.iterdir())


# What it takes


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("linear:n=8,k=32", "whole steps and prompts only"),
        ("attention:context=8", "whole steps and prompts only"),
        ("step:model=tiny", "ask for cache=prompt"),
        ("step:model=tiny,weight=int8,cache=prompt", "exported for engines in f32, bf16, f16 only"),
        ("step:model=tiny,weight=f32,kv=bf16,cache=prompt", "ask for kv=f32"),
        ("prefill:model=gpt-3-175b,layers=1", "without a gate"),
        ("prefill:model=gemma-3-1b,layers=6", "the export for vLLM: gemma-3-1b has"),
        ("prefill:model=glm-4.5-air,layers=2", "the export for vLLM: glm-4.5-air has"),
        ("prefill:model=qwen3-30b-a3b,layers=1", "not compared with the reference there yet"),
        ("prefill:model=deepseek-v2-lite,layers=2", "not compared with the reference there yet"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_with_the_reason(spec, reason):
    backend, work = opened(), parse(spec)
    assert reason in backend.supports(work)
    with pytest.raises(Unsupported) as refused:
        backend.prepare(work, None)
    assert reason in str(refused.value)


def test_what_an_engine_can_do():
    for spec in (STEP, STEP.replace("f32", "bf16"), STEP.replace("f32", "f16"), "prefill:model=qwen2.5-0.5b"):
        assert opened().supports(parse(spec)) is None
    assert "float32 already: vllm:cpu" in opened("cpu+f32").supports(parse(STEP))


# Devices


@pytest.mark.parametrize(
    ("kind", "devices"), [("cpu", ["cpu", "cpu+f32"]), ("cuda", ["cuda", "cuda+f32", "cuda+eager"])]
)
def test_devices_are_those_of_the_build(monkeypatch, kind, devices):
    fake_vllm.install(monkeypatch, kind)
    assert VLLMEngine.devices() == devices


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("cuda", "built for cpu, not for 'cuda'"),
        ("cpu+fast", "unknown variant 'fast' of vllm:cpu; known: f32"),
        ("cpu+f32+f32", "unknown variant 'f32'"),
    ],
)
def test_other_devices_are_refused(device, reason):
    with pytest.raises(BackendUnavailable, match=reason.replace("+", r"\+")):
        VLLMEngine().open(device, 1)


def test_missing_and_broken_are_told_apart_each_with_its_remedy(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BackendUnavailable, match="vllm is not installed") as missing:
        VLLMEngine.devices()
    assert missing.value.remedy == "membound env create vllm"
    package = tmp_path / "vllm"
    package.mkdir()
    for text, reason in (
        ("import no_such_part", "import failed with ModuleNotFoundError: No module named 'no_such_part'"),
        (
            "raise RuntimeError('operator nms does not exist')",
            "failed with RuntimeError: operator nms does not",
        ),
    ):
        (package / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(BackendUnavailable, match=reason) as broken:
            VLLMEngine.devices()
        assert broken.value.remedy == "membound env create vllm --force"


# Sizes


def test_prompts_are_cut_into_equal_pieces_that_leave_the_last_token():
    assert chunk_of(1024, 8192) == 1024
    assert chunk_of(32768, 2048) == 2048
    assert chunk_of(3000, 2048) == 1500
    assert chunk_of(1021, 512) == 1021  # a prime
    assert chunk_of(10, 4) == 5 or chunk_of(10, 4) == 10
    for context in np.random.default_rng().integers(1, 5000, 20).tolist():
        assert context % chunk_of(context, 700) == 0


def test_the_cache_holds_every_sequence_with_room_to_grow():
    work = parse("step:model=llama-3.2-1b,batch=4,context=1000,weight=bf16,kv=bf16,cache=prompt")
    sizes = sizes_of(work)
    token_bytes = 16 * 2 * 512 * 2
    assert sizes.growth == (256 << 20) // (4 * token_bytes) == 2048
    assert sizes.positions == 1001 + 2048
    assert sizes.cache_bytes == (4 * 24 + 2) * 128 * token_bytes
    assert sizes.weights_bytes == 2 * work.shape.parameters
    untied = parse("prefill:model=llama-3-8b,tokens=64,batch=2,layers=1")
    assert sizes_of(untied).weights_bytes == 2 * (untied.shape.parameters + 128256 * 4096)
    assert sizes_of(untied).chunk == 64
    with pytest.raises(Unsupported, match=f"more than the {POSITIONS}"):
        sizes_of(replace(work, context=POSITIONS))
