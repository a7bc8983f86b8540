"""The torch backend: every format, act and variant against the float64 reference, and every refusal."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_runs import check, opened

from membound.backends.api import cpu_name
from membound.backends.background import Background
from membound.backends.pytorch import linear as torch_linear
from membound.backends.pytorch import variants as torch_variants
from membound.backends.pytorch.backend import PyTorch
from membound.bench.machine.environment import worker_environment
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.inputs import ModelInputs
from membound.kernels.models import MODELS, Model
from membound.kernels.reference import relative_error
from membound.kernels.rope import Rope, rope
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.formats import quantize
from membound.kernels.weights.generate import random_weight
from membound.kernels.weights.grouped import unpack_int4
from membound.kernels.work import parse

# A whole model in bf16 or int8 activations drifts from float64 layer by layer; a wrong head, token or
# scale gives an error near 1.
MODEL_LIMITS = {"f32": 1e-4, "f16": 0.01, "bf16": 0.05, "int8": 0.05, "int4g32": 0.05, "int4g128": 0.05}
INT8_ACTIVATIONS_LIMIT = 0.2


@pytest.mark.parametrize(("n", "k", "m"), [(37, 96, 1), (13, 32, 3), (130, 256, 9), (1, 128, 17)])
@pytest.mark.parametrize("weight", ["f32", "bf16", "f16", "int8", "int4g32"])
def test_linear_matches_the_reference(n: int, k: int, m: int, weight: str) -> None:
    check("cpu", f"linear:n={n},k={k},m={m},weight={weight}", seed=n + m)


@pytest.mark.parametrize(
    ("device", "kv"),
    [("cpu", "f32"), ("cpu", "bf16"), ("cpu", "f16"), ("cpu+matmul", "f32"), ("cpu+sdpa-gqa", "f32")],
)
def test_latent_attention(device: str, kv: str) -> None:
    check(device, f"mla:context=77,q_heads=16,batch=2,kv={kv}", seed=3)


@pytest.mark.parametrize(
    ("device", "kv"),
    [("cpu", "f32"), ("cpu", "bf16"), ("cpu", "f16"), ("cpu+matmul", "f32"), ("cpu+sdpa-gqa", "f32")],
)
def test_several_queries(device: str, kv: str) -> None:
    check(device, f"attention:context=77,q_heads=6,kv_heads=2,head_dim=32,batch=2,kv={kv},queries=5", seed=3)


@pytest.mark.parametrize(("n", "k", "m"), [(37, 128, 1), (200, 384, 5)])
def test_linear_int4_in_groups_of_128(n: int, k: int, m: int) -> None:
    check("cpu", f"linear:n={n},k={k},m={m},weight=int4g128", seed=5)


@pytest.mark.parametrize(
    ("n", "k", "m"), [(37, 96, 1), (13, 77, 3), (130, 256, 7), (64, 301, 8), (5, 64, 33)]
)
def test_linear_with_int8_activations(n: int, k: int, m: int) -> None:
    backend = check("cpu", f"linear:n={n},k={k},m={m},weight=int8,act=int8", seed=k)
    assert backend.stored_bytes() is None


def test_int8_sums_do_not_saturate_on_full_scale_inputs() -> None:
    weight = quantize(np.ones((16, 256), np.float32), "int8")
    x = np.full((2, 256), 3.0, np.float32)
    for rows in (1, 64):
        linear = torch_linear.make_linear([weight], None, "int8", rows)
        y = linear(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(y, np.full((2, 16), 768.0), rtol=0.01)


@pytest.mark.parametrize("rows", [1, 64], ids=["FBGEMM", "oneDNN"])
def test_int8_packed_in_the_background_is_packed_as_ever(rows: int) -> None:
    rng = np.random.default_rng()
    weights = [random_weight("int8", n, 96, int(rng.integers(1 << 60))) for n in (37, 12, 200, 5)]
    bias = rng.standard_normal(254, np.float32)
    x = torch.from_numpy(rng.standard_normal((rows, 96), np.float32))
    engine = torch.backends.quantized.engine
    with Background(2) as background:
        several = [
            torch_linear.make_linear([w], bias[: w.n], "int8", rows, background=background) for w in weights
        ]
        stacked = torch_linear.make_linear(weights, bias, "int8", rows, background=background)
    assert torch.backends.quantized.engine == engine
    for weight, linear in zip(weights, several, strict=True):
        values, stored_bias = torch.ops.quantized.linear_unpack(linear.packed)
        assert values.int_repr().numpy().tolist() == weight.values.tolist()
        assert values.q_per_channel_scales().tolist() == weight.scales.tolist()
        assert stored_bias.tolist() == bias[: weight.n].tolist()
        at_once = torch_linear.make_linear([weight], bias[: weight.n], "int8", rows)
        assert torch.equal(linear(x), at_once(x))
    assert torch.equal(stacked(x), torch_linear.make_linear(weights, bias, "int8", rows)(x))


@pytest.mark.parametrize(
    ("spec", "stored"),
    [
        ("linear:n=48,k=64,weight=bf16", None),
        ("linear:n=48,k=64,weight=int8", 48 * 64 + 48 * 2),  # bfloat16 scales in place of float32
        ("linear:n=37,k=64,weight=int4g32", 48 * 32 + 48 * 2 * 4),  # 48 rows, a zero beside each scale
        ("attention:context=9,q_heads=2,kv_heads=1,head_dim=16", None),
    ],
)
def test_stored_bytes_tell_what_torch_stores_otherwise(spec: str, stored: int | None) -> None:
    work = parse(spec)
    backend = opened()
    backend.prepare(work, make_inputs(work, 1, slots=2))
    assert backend.stored_bytes() == stored


def test_int4_packed_in_chunks_is_packed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = random_weight("int4g32", 160, 64, 3).values.astype(np.uint8)
    whole = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
        torch.from_numpy(unpack_int4(values).astype(np.int32)), 1
    )
    monkeypatch.setattr(torch_linear, "INT4_CHUNK_ROWS", 64)
    assert torch.equal(torch_linear._pack_int4(values, 160), whole)


def test_int4_with_int8_activations_computes_the_product() -> None:
    weight = random_weight("int4g32", 33, 64, 9)
    x = np.random.default_rng(2).standard_normal((1, 64), np.float32)
    linear = torch_linear.make_linear([weight], np.arange(33, dtype=np.float32), "int8", 1)
    expected = torch_linear.make_linear([weight], np.arange(33, dtype=np.float32), "float", 1)
    y, reference = linear(torch.from_numpy(x)), expected(torch.from_numpy(x).bfloat16())
    assert relative_error(y.numpy(), reference.double().numpy()) < 0.03


def test_stacked_matrices_with_bias_are_the_single_ones() -> None:
    rng = np.random.default_rng(4)
    bias = rng.standard_normal(48, np.float32)
    for fmt in ("f32", "bf16", "int8", "int4g32"):
        weights = [random_weight(fmt, n, 64, n) for n in (32, 16)]
        stacked = torch_linear.make_linear(weights, bias, "float", 2)
        x = torch.from_numpy(rng.standard_normal((2, 64), np.float32)).to(stacked.activation)
        parts = [torch_linear.make_linear([w], None, "float", 2)(x) for w in weights]
        expected = torch.cat(parts, 1).float() + torch.from_numpy(bias)
        torch.testing.assert_close(stacked(x).float(), expected, rtol=0.02, atol=0.02)


ATTENTION = "attention:context={},q_heads={},kv_heads={},head_dim={},batch={}"


@pytest.mark.parametrize("shape", [(77, 6, 2, 24, 3), (513, 8, 1, 64, 1), (1, 4, 4, 16, 2)])
@pytest.mark.parametrize(
    ("device", "kv"),
    [
        ("cpu", "f32"),
        ("cpu", "bf16"),
        ("cpu", "f16"),
        ("cpu+sdpa-gqa", "f32"),
        ("cpu+sdpa-gqa", "bf16"),
        ("cpu+matmul", "f32"),
    ],
)
def test_decode_attention_matches_the_reference(device: str, kv: str, shape: tuple[int, ...]) -> None:
    check(device, f"{ATTENTION.format(*shape)},kv={kv}", seed=shape[0])


FORMATS = [
    ("f32", "float", "f32"),
    ("f16", "float", "f32"),
    ("bf16", "float", "bf16"),
    ("bf16", "float", "f32"),
    ("int8", "float", "bf16"),
    ("int8", "int8", "f32"),
    ("int4g32", "float", "bf16"),
    ("int4g128", "float", "f32"),
    ("f16", "float", "f16"),
]


@pytest.mark.parametrize("kind", ["step:context=33", "prefill:tokens=19"])
@pytest.mark.parametrize(("weight", "act", "kv"), FORMATS)
def test_models_match_the_reference(kind: str, weight: str, act: str, kv: str) -> None:
    limit = INT8_ACTIVATIONS_LIMIT if act == "int8" else MODEL_LIMITS[weight]
    check("cpu", f"{kind},model=tiny,batch=3,weight={weight},act={act},kv={kv}", 3, limit)


@pytest.mark.parametrize("device", ["cpu+sdpa-gqa", "cpu+matmul"])
def test_a_step_takes_the_attention_variant(device: str) -> None:
    check(device, "step:context=5,model=tiny,batch=2,weight=f32,kv=f32", 8)


ODD = Model("odd", 96, 2, 6, 3, 16, 80, 51, qkv_bias=True, qk_norm=True, rope_scaling=(8.0, 1.0, 4.0, 16.0))
PLAIN = Model("plain", 64, 1, 4, 4, 16, 128, 33, gated=False)


@pytest.mark.parametrize("model", [ODD, PLAIN], ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["step:context=29", "prefill:tokens=21"])
def test_bias_head_norm_rope_scaling_and_plain_mlp(
    kind: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, model.name, model)
    backend = check("cpu", f"{kind},model={model.name},batch=2,weight=f32,kv=f32", 6, 1e-4)
    traffic = parse(f"{kind},model={model.name},batch=2,weight=f32,kv=f32").traffic
    # Gains of query and key heads are stored a head each; all else as asked.
    more = model.layers * (model.q_heads + model.kv_heads - 2) * model.head_dim * 4
    stored = traffic.weights_bytes + traffic.kv_read_bytes + more if model.qk_norm else None
    assert backend.stored_bytes() == stored


def test_a_step_appends_at_its_context_and_repeats_itself() -> None:
    work = parse("step:model=tiny,context=7,batch=2,weight=f32,kv=f32,layers=1")
    inputs = make_inputs(work, 2)
    assert isinstance(inputs, ModelInputs)
    backend = opened()
    backend.prepare(work, inputs)
    backend.launch(0)
    first = backend.output()
    backend.launch(0)
    np.testing.assert_array_equal(backend.output(), first)
    (attention,) = backend._runs[0].__wrapped__.func.attentions  # type: ignore[attr-defined]
    assert attention.k.shape == (2, 2, 8, 32)
    np.testing.assert_array_equal(attention.k[:, :, :7].numpy(), inputs.cache(0).k)
    assert np.abs(attention.v[:, :, 7].numpy()).min() > 0


def test_rope_table_is_the_reference_rotation() -> None:
    from membound.backends.pytorch.attention import RopeTable

    x = np.random.default_rng(1).standard_normal((2, 9, 6, 16), np.float32)
    turning = ODD.decoder.layers[0].mixer.rope
    for turns in (turning, Rope(dim=8), Rope(dim=12, neighbours=True)):
        expected = rope(x.transpose(0, 2, 1, 3).astype(np.float64), np.arange(9), turns, 9)
        y = RopeTable(turns, ODD.head_dim, range(9))(torch.from_numpy(x)).numpy().transpose(0, 2, 1, 3)
        np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "spec", "reason"),
    [
        ("cpu", "attention:context=9,kv=int8", "torch has no attention over an int8 cache"),
        ("cpu", "step:model=tiny,kv=int8", "torch has no attention over an int8 cache"),
        (
            "cpu",
            "linear:n=8,k=40,weight=int8",
            "torch's int8 weight-only op needs k=40 to be a multiple of 16",
        ),
        (
            "cpu",
            "step:model=tiny,weight=f32",
            "torch reads a bf16 cache with bf16 queries: less exact than f32",
        ),
        ("cpu+matmul", "linear:n=8,k=40", "the variant matmul changes decode attention only"),
        ("cpu+sdpa-gqa", "prefill:model=tiny", "the variant sdpa-gqa changes decode attention only"),
        ("cpu+matmul", "attention:context=9,kv=bf16", "scores rounded to bf16"),
        ("cpu+matmul", "attention:context=9,kv=f16", "scores rounded to f16"),
        ("cpu", "attention:context=9,kv=fp8", "torch has no attention over an fp8 cache"),
        ("cpu", "attention:context=9,page=16", "torch has no attention over a paged cache"),
        ("cpu", "mla:context=9,kv=int8", "torch has no attention over an int8 cache"),
        ("cpu", "mla:context=9,page=16", "torch has no attention over a paged cache"),
        ("cpu+compile", "linear:n=8,k=32,weight=int8,act=int8", "torch.compile cannot trace"),
        ("cpu+compile", "experts:hidden=64,width=32,weight=int8", "torch.compile cannot trace a loop"),
        ("cpu+compile", "experts:hidden=65,width=32,weight=f32", "torch.compile cannot trace a loop"),
        ("cpu+compile", "experts:hidden=64,width=32,weight=f32", "torch.compile takes grouped products in"),
        ("cpu+loop", "experts:hidden=64,width=32,weight=f16", "a loop is what runs these experts"),
        ("cpu+loop", "linear:n=8,k=32", "the variant loop changes routed experts only"),
        ("cpu+matmul", "experts:hidden=64,width=32", "the variant matmul changes decode attention only"),
        ("cpu", "experts:hidden=64,width=40,weight=int8", "torch's int8 weight-only op needs k=40"),
    ],
)
def test_what_torch_cannot_do_has_a_reason(
    device: str, spec: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_variants, "compiler", lambda: "sh")
    backend, work = opened(device), parse(spec)
    assert (backend.supports(work) or "").startswith(reason)
    with pytest.raises(Unsupported, match=reason):
        backend.prepare(work, make_inputs(work, 1))


def test_int4_with_int8_activations_needs_kleidiai(monkeypatch: pytest.MonkeyPatch) -> None:
    work = parse("linear:n=8,k=32,weight=int4g32,act=int8")
    monkeypatch.setattr(torch_linear, "_has_kleidiai", lambda: False)
    assert "KleidiAI" in (opened().supports(work) or "")
    monkeypatch.setattr(torch_linear, "_has_kleidiai", lambda: True)
    assert opened().supports(work) is None


def test_open_tells_device_threads_and_version() -> None:
    device = PyTorch().open("cpu", 1)
    assert (device.id, device.name, device.threads) == ("torch:cpu", cpu_name(), 1)
    assert device.versions == {"torch": torch.__version__}
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("cpu+fast", "unknown variant 'fast'; known: compile, graph, offload, loop, sdpa-gqa, matmul, flash"),
        ("cpu+matmul+sdpa-gqa", "do not go together"),
        ("cpu+loop+matmul", "do not go together"),
        ("cpu+compile+compile", "do not go together"),
        ("nonsense:3", "has no device 'nonsense:3' here; it has: cpu"),
        ("cpu:1", "has no device 'cpu:1' here"),
    ],
)
def test_open_refuses_what_is_not_there(device: str, reason: str) -> None:
    with pytest.raises(BackendUnavailable) as error:
        PyTorch().open(device, 1)
    assert reason in error.value.reason


def test_compile_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendUnavailable, match="no no-such-compiler") as error:
        PyTorch().open("cpu+compile", 1)
    assert "g++" in error.value.remedy
    assert not any(name.endswith("+compile") for name in PyTorch.devices())


def test_devices_start_with_the_cpu() -> None:
    names = PyTorch.devices()
    assert names[0] == "cpu"
    assert all(PyTorch().open(name, 1).id == f"torch:{name}" for name in names)


def test_missing_torch_is_unavailable_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_torch(name: str, *args: Any) -> Any:
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(BackendUnavailable, match="torch is not installed") as error:
        PyTorch().open("cpu", 1)
    assert error.value.remedy == 'pip install "membound[torch]"'


def test_close_drops_what_was_prepared() -> None:
    backend = check("cpu", "linear:n=8,k=32", seed=1)
    backend.close()
    assert backend._runs == []
    with pytest.raises(AssertionError, match="output before launch"):
        backend.output()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, while it compiles
@pytest.mark.skipif(not any(n.endswith("+compile") for n in PyTorch.devices()), reason="needs a C++ compiler")
def test_compiled_works_match_the_reference() -> None:
    check("cpu+compile", "linear:n=37,k=96,m=3,weight=int8", seed=1)
    check("cpu+compile", "linear:n=37,k=96,weight=int4g32", seed=2)
    check("cpu+compile", f"{ATTENTION.format(77, 6, 2, 24, 3)},kv=bf16", seed=3)
    check("cpu+compile", "step:context=33,model=tiny,batch=2,weight=f32,kv=f32", seed=4)


@pytest.mark.slow
@pytest.mark.skipif(not any(n.endswith("+compile") for n in PyTorch.devices()), reason="needs a C++ compiler")
def test_nothing_is_compiled_into_a_workers_own_temporary_folder(tmp_path: Path) -> None:
    """It goes with the worker, and what was compiled there would be compiled again in every process."""
    script = "import torch; print(float(torch.compile(lambda x: (x * 2 + 1).sum())(torch.ones(1000))))"
    (own := tmp_path / "own").mkdir()
    there = {"TMPDIR": str(own), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kept")}
    environment = worker_environment(1, os.environ) | there
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert float(told.stdout) == 3000
    assert list((tmp_path / "kept").rglob("*.so"))
    assert not [path for path in own.rglob("*") if path.is_file()]
