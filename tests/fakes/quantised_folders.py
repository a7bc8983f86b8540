"""Model folders with quantised matrices, packed number by number as each format's documentation says.

>>> expected = write_folder(tmp_path, "gptq")          # module -> the matrix [n, k] that its tensors mean, float32

Nothing of membound's readers is used: this is what they are judged by.
"""

import json

import numpy as np
from checkpoints import CONFIG, tensors_of

from membound.kernels.models import get_model

GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
CONFIGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False},
    "gptq_ordered": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True, "sym": False},
    "gptq_v2": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq_v2"},
    "gptq_8": {"quant_method": "gptq", "bits": 8, "group_size": GROUP, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
}


def compressed(kind, ignore=("lm_head",), **weights):
    """A quantization_config of compressed-tensors with one group."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "config_groups": {"group_0": group},
        "ignore": list(ignore),
    }


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
CONFIGS |= {
    "packed": compressed("pack-quantized", **INT4, symmetric=True),
    "packed_zeros": compressed("pack-quantized", **INT4, symmetric=False),
    "packed_ordered": compressed("pack-quantized", **INT4, symmetric=True, actorder="group"),
    "int8": compressed("int-quantized", num_bits=8, type="int", symmetric=True, strategy="channel"),
    "fp8_rows": compressed("float-quantized", num_bits=8, type="float", symmetric=True, strategy="channel"),
    "fp8_blocks": {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
}
DTYPES = {np.dtype(name): told for name, told in
          (("<i4", "I32"), ("<i8", "I64"), ("<f2", "F16"), ("<f4", "F32"), ("i1", "I8"), ("u1", "F8_E4M3"))}  # fmt: skip


def words(nibbles, bits, axis):
    """Numbers packed into int32 along an axis, the first in the lowest bits."""
    moved = np.moveaxis(nibbles.astype(np.uint64), axis, -1)
    parts = moved.reshape(*moved.shape[:-1], -1, 32 // bits)
    packed = np.zeros(parts.shape[:-1], np.uint64)
    for i in range(32 // bits):
        packed |= parts[..., i] << np.uint64(bits * i)
    return np.ascontiguousarray(np.moveaxis(packed.astype(np.uint32).view(np.int32), -1, axis))


def gptq(rng, n, k, bits=4, offset=1, ordered=False):
    """(tensors of a module, the matrix that they mean)."""
    groups, top = k // GROUP, (1 << bits) - 1
    q = rng.integers(0, top + 1, (k, n))
    z = np.full((groups, n), 128) if bits == 8 else rng.integers(1, top + 1, (groups, n))
    scales = (rng.random((groups, n)) / (300 if bits == 8 else 20)).astype(np.float16)
    group = rng.permutation(np.arange(k) // GROUP) if ordered else np.arange(k) // GROUP
    tensors = {
        "qweight": words(q, bits, 0),
        "qzeros": words(z - offset, bits, 1),
        "scales": scales,
        "g_idx": group.astype(np.int32),
    }
    return tensors, ((q - z[group]) * scales[group].astype(np.float32)).T


def awq(rng, n, k):
    """As `gptq`: eight neighbouring rows of W share a word, nibble i being row AWQ_ORDER[i]."""
    groups = k // GROUP
    q, z = rng.integers(0, 16, (k, n)), rng.integers(0, 16, (groups, n))
    scales = (rng.random((groups, n)) / 20).astype(np.float16)

    def packed(numbers):
        out = np.zeros((len(numbers), n // 8), np.uint32)
        for word in range(n // 8):
            for i, row in enumerate(AWQ_ORDER):
                out[:, word] |= (numbers[:, 8 * word + row] << (4 * i)).astype(np.uint32)
        return out.view(np.int32)

    of = np.arange(k) // GROUP
    return {"qweight": packed(q), "qzeros": packed(z), "scales": scales}, (
        (q - z[of]) * scales[of].astype(np.float32)
    ).T


def packed(rng, n, k, symmetric=True, ordered=False):
    """As `gptq`: int4 of −8 to 7, stored + 8 along the columns; zero points along the rows."""
    groups = k // GROUP
    q = rng.integers(-8, 8, (n, k))
    z = np.zeros((n, groups), int) if symmetric else rng.integers(-8, 8, (n, groups))
    scales = (rng.random((n, groups)) / 20).astype(np.float16)
    group = rng.permutation(np.arange(k) // GROUP) if ordered else np.arange(k) // GROUP
    tensors = {"weight_packed": words(q + 8, 4, 1), "weight_scale": scales, "weight_shape": np.array([n, k])}
    if not symmetric:
        tensors["weight_zero_point"] = words(z + 8, 4, 0)
    if ordered:
        tensors["weight_g_idx"] = group.astype(np.int32)
    return tensors, (q - z[:, group]) * scales[:, group].astype(np.float32)


def int8_rows(rng, n, k):
    """As `gptq`: int8 with a scale a row."""
    q, scales = rng.integers(-127, 128, (n, k)), (rng.random((n, 1)) / 300).astype(np.float16)
    return {"weight": q.astype(np.int8), "weight_scale": scales}, q * scales.astype(np.float32)


def e4m3(codes):
    """Numbers of codes, bit by bit."""
    sign = np.where(codes & 128, -1.0, 1.0)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    small = mantissa / 8 * 2.0**-6
    return sign * np.where(exponent == 0, small, (1 + mantissa / 8) * 2.0 ** (exponent.astype(int) - 7))


def fp8(rng, n, k, blocks):
    """As `gptq`: e4m3 with a scale for each row, or for each block of 128 × 128."""
    codes = (rng.integers(0, 120, (n, k)) | (rng.integers(0, 2, (n, k)) << 7)).astype(np.uint8)
    if not blocks:
        scales = (rng.random((n, 1)) / 900).astype(np.float16)
        return {"weight": codes, "weight_scale": scales}, e4m3(codes) * scales.astype(np.float32)
    scales = (rng.random((-(-n // 128), -(-k // 128))) / 900).astype(np.float32)
    whole = scales.repeat(128, 0)[:n].repeat(128, 1)[:, :k]
    return {"weight": codes, "weight_scale_inv": scales}, e4m3(codes) * whole


MAKERS = {
    "gptq": gptq,
    "gptq_ordered": lambda rng, n, k: gptq(rng, n, k, ordered=True),
    "gptq_v2": lambda rng, n, k: gptq(rng, n, k, offset=0),
    "gptq_8": lambda rng, n, k: gptq(rng, n, k, bits=8),
    "awq": awq,
    "packed": packed,
    "packed_zeros": lambda rng, n, k: packed(rng, n, k, symmetric=False),
    "packed_ordered": lambda rng, n, k: packed(rng, n, k, ordered=True),
    "int8": int8_rows,
    "fp8_rows": lambda rng, n, k: fp8(rng, n, k, blocks=False),
    "fp8_blocks": lambda rng, n, k: fp8(rng, n, k, blocks=True),
}
INPUTS = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "up", "up": "up"}
"""Matrices that share their input: GPTQ orders the columns of all of them alike."""


def write_folder(folder, kind, edit=None, seed=5, **config):
    """A folder of CONFIG whose layers' matrices are stored as `kind`; `edit` changes its tensors in place.

    Returns module -> the matrix [n, k] that its tensors mean, float64.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = CONFIG | {"model_type": "llama"} | config
    (folder / "config.json").write_text(json.dumps(fields))
    model = get_model(str(folder))
    tensors = {name: values.astype(np.float16) for name, values in tensors_of(model).items()}
    (folder / "config.json").write_text(json.dumps({"quantization_config": CONFIGS[kind]} | fields))
    expected = {}
    for index in range(model.layers):
        for name, (n, k) in model.layer_matrices.items():
            block = "self_attn" if name in "qkvo" else "mlp"
            module = f"model.layers.{index}.{block}.{name}_proj"
            del tensors[f"{module}.weight"]
            order = np.random.default_rng([seed, index, *INPUTS.get(name, name).encode()])
            made, expected[module] = make(
                kind, order, np.random.default_rng([seed, index, *name.encode()]), n, k
            )
            tensors |= {f"{module}.{suffix}": values for suffix, values in made.items()}
    if edit:
        edit(tensors)
    save(tensors, folder / "model.safetensors")
    return expected


def make(kind, order, rng, n, k):
    """Tensors of a module as a kind of `MAKERS`; those that permute columns draw their order first, from a generator that sharers have alike."""
    if not kind.endswith("_ordered"):
        return MAKERS[kind](rng, n, k)

    class Shared:
        permutation = staticmethod(order.permutation)
        integers, random = rng.integers, rng.random

    return MAKERS[kind](Shared, n, k)


def save(tensors, path):
    """safetensors' layout by hand: NumPy has no e4m3 to hand to the library; uint8 stands for it."""
    header, data = {}, []
    at = 0
    for name, values in tensors.items():
        values = np.ascontiguousarray(values)
        header[name] = {
            "dtype": DTYPES[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [at, at + values.nbytes],
        }
        data.append(values.tobytes())
        at += values.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
