"""ggml's types and GGUF files against llama.cpp's own Python package."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from membound.kernels.gguf_header import KINDS, OTHERS, read_header
from membound.kernels.weights.formats import dequantize, quantize
from membound.kernels.weights.generate import random_weight
from membound.kernels.weights.ggml import blocks, widen_q4_k, widen_q6_k
from membound.kernels.weights.stored.facts import stored_facts

pytestmark = pytest.mark.skipif(
    find_spec("gguf") is None, reason="no gguf: pip install -c constraints.txt ./examples/llamacpp"
)
ROWS = np.random.default_rng(3)


@pytest.mark.parametrize("fmt", ["q8_0", "q4_0"])
def test_blocks_are_its_own(fmt: str) -> None:
    from gguf import GGMLQuantizationType, quants

    w = ROWS.standard_normal((64, 512), np.float32)
    w[3, 64:128] = 0
    stored = quantize(w, fmt)
    kind = GGMLQuantizationType[fmt.upper()]
    made = blocks(stored.values, stored.scales)
    np.testing.assert_array_equal(made, quants.quantize(w, kind))
    np.testing.assert_allclose(dequantize(stored), quants.dequantize(made, kind), rtol=1e-6)


def test_quantised_super_blocks_mean_what_it_says() -> None:
    from gguf import GGMLQuantizationType, quants

    w = ROWS.standard_normal((64, 512), np.float32)
    w[3, 64:128] = 0
    w[4, :256] = 0
    for stored in (quantize(w, "q4_k"), random_weight("q4_k", 64, 512, 5)):
        meant = quants.dequantize(stored.values, GGMLQuantizationType.Q4_K)
        np.testing.assert_allclose(dequantize(stored), meant, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "widen", "scales"), [("Q4_K", widen_q4_k, (0, 2)), ("Q6_K", widen_q6_k, (208,))]
)
def test_super_blocks_mean_what_it_says(name: str, widen: object, scales: tuple[int, ...]) -> None:
    from gguf import GGMLQuantizationType, quants

    size = next(kind.size for kind in KINDS.values() if kind.name == name)
    rows = ROWS.integers(0, 256, (5, 3 * size), np.uint8)
    for block in range(3):
        for at in scales:
            rows[:, block * size + at : block * size + at + 2] = np.float16([0.21]).view(np.uint8)
    assert callable(widen)
    np.testing.assert_allclose(
        widen(rows), quants.dequantize(rows, GGMLQuantizationType[name]), rtol=1e-5, atol=1e-6
    )


def test_headers_are_read_as_it_reads_them(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

    path = tmp_path / "model.gguf"
    file = GGUFWriter(path, "llama")
    file.add_block_count(3)
    file.add_token_list(["a", "Ġb", "<s>"])
    file.add_rope_freq_base(5e5)
    stored = quantize(ROWS.standard_normal((6, 64), np.float32), "q4_0")
    file.add_tensor("one", np.arange(7, dtype=np.float32))
    file.add_tensor("two", blocks(stored.values, stored.scales), raw_dtype=GGMLQuantizationType.Q4_0)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    header = read_header(path)
    assert (header.count("llama.block_count"), header.real("llama.rope.freq_base")) == (3, 5e5)
    assert header.fields["tokenizer.ggml.tokens"] == ["a", "Ġb", "<s>"]
    for tensor in GGUFReader(path).tensors:
        entry = header.tensors[tensor.name]
        assert entry.shape == tuple(reversed(tensor.shape.tolist()))
        assert (entry.offset, entry.nbytes) == (tensor.data_offset, tensor.n_bytes)
        assert KINDS[entry.number].name == tensor.tensor_type.name


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="no xllamacpp: pip install ./examples/llamacpp")
def test_quantised_super_blocks_are_those_of_its_c_code() -> None:
    (path,) = Path(str(find_spec("xllamacpp").origin)).parent.glob("xllamacpp*.so")  # type: ignore[union-attr]
    w = ROWS.standard_normal((64, 1024), np.float32)
    w[:32] = np.abs(w[:32])
    w[3, 64:128] = 0
    theirs = np.empty((64, 4 * 144), np.uint8)
    count = ctypes.c_int64(w.size)
    ctypes.CDLL(str(path)).quantize_row_q4_K_ref(
        w.ctypes.data_as(ctypes.c_void_p), theirs.ctypes.data_as(ctypes.c_void_p), count
    )
    ours = quantize(w, "q4_k").values
    differ = (ours.reshape(-1, 144) != theirs.reshape(-1, 144)).any(1)
    assert differ.mean() < 0.05  # where its compiler fused a product and a sum
    error, least = (np.linalg.norm(widen_q4_k(rows) - w) for rows in (ours, theirs))
    assert error == pytest.approx(least, rel=1e-4)


def test_types_have_the_bytes_that_it_says() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for number, kind in (KINDS | OTHERS).items():
        assert GGMLQuantizationType(number).name == kind.name
        assert GGML_QUANT_SIZES[GGMLQuantizationType(number)] == (kind.block, kind.size)


def test_bytes_of_types_that_are_not_read_are_counted(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

    path = tmp_path / "model.gguf"
    file = GGUFWriter(path, "llama")
    file.add_block_count(1)
    for name, kind in (("token_embd.weight", "Q5_K"), ("output.weight", "IQ4_XS")):
        size = next(one.size for one in OTHERS.values() if one.name == kind)
        file.add_tensor(name, np.zeros((6, 2 * size), np.uint8), raw_dtype=GGMLQuantizationType[kind])
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    table, head = (int(tensor.n_bytes) for tensor in GGUFReader(path).tensors)
    facts = stored_facts(str(path))
    assert facts is not None
    assert (facts.nbytes, facts.streamed_bytes) == (table + head, head)
