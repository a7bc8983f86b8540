"""A matrix in each weight format as a torch module, through the op that torch offers for that format.

>>> linear = make_linear([weight], bias=None, act="float", rows=1)
>>> y = linear(x.to(linear.activation))        # x [rows, k] -> y [rows, n]

Imported only where torch is; `membound.backends.pytorch.backend` and the ONNX exporter build on it.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from membound.backends.background import Background
from membound.backends.pytorch.device import has_operator
from membound.kernels.weights.formats import (
    F32,
    FORMATS,
    Weight,
    common_order,
    in_kernel_format,
    kernel_format,
)
from membound.kernels.weights.grouped import unpack_int4

FLOATS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
QUANTISED = ("int8", "int4g32", "int4g128")
"""Quantised formats that torch's operators take as they are."""

# From this many rows on oneDNN is the faster of torch's int8 engines, below it FBGEMM ("x86"). Measured
# on 4096 x 4096 with AVX-512: FBGEMM ahead at 1 and 4 rows, oneDNN 2 x ahead at 16, 64 and 256.
ONEDNN_ROWS = 8
# `_convert_weight_to_int4pack_for_cpu` packs blocks of 16, 32 or 64 rows, so whole blocks can be packed separately.
INT4_ROWS = 16
# `_weight_int8pack_mm` takes this many columns at a time and reads past the end of other rows.
INT8_COLUMNS = 16
INT4_CHUNK_ROWS = 4096
# `_weight_int4pack_mm`, the op for accelerators, takes rows and columns in whole tiles.
INT4_TILE_ROWS = 8
INT4_TILE_COLUMNS = 16


class FormatLinear(nn.Module):
    """What the formats have in common: `activation` is the dtype of x, `stored_bytes` the bytes that a call streams."""

    activation: torch.dtype
    stored_bytes: int
    bias: Tensor | None
    order: Tensor | None

    def __init__(self, n: int, k: int, bias: Tensor | None) -> None:
        super().__init__()
        self.n, self.k = n, k
        self.register_buffer("bias", bias)
        self.register_buffer("order", None)

    def keep_order(self, order: npt.NDArray[np.int32]) -> None:
        """Take the columns of x in that order, in which those of the matrix lie."""
        self.order = torch.from_numpy(order.astype(np.int32))
        self.stored_bytes += self.order.nbytes

    def in_order(self, x: Tensor) -> Tensor:
        """The columns of x as those of the matrix lie."""
        return x if self.order is None else x[..., self.order]

    def add_bias(self, y: Tensor) -> Tensor:
        """Y [rows, n] plus the bias, if there is one."""
        return y if self.bias is None else y + self.bias


class FloatLinear(FormatLinear):
    """F.linear in the dtype of the weight: f32, bf16, f16."""

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[0], weight.shape[1], None if bias is None else bias.to(weight.dtype))
        self.register_buffer("weight", weight)
        self.activation = weight.dtype
        self.stored_bytes = weight.nbytes + _bytes(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, k] -> y [rows, n]."""
        return functional.linear(x, self.weight, self.bias)


class Int8WeightLinear(FormatLinear):
    """int8 weights, bfloat16 activations and scales: `aten::_weight_int8pack_mm`.

    In float32 and float16 the same op is a scalar loop, 15 times slower.
    """

    weight: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[0], weight.shape[1], bias)
        self.activation = torch.bfloat16
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales.to(torch.bfloat16))
        self.stored_bytes = weight.nbytes + self.scales.nbytes + _bytes(bias)

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, k] bfloat16 -> y [rows, n] bfloat16."""
        y: Tensor = torch.ops.aten._weight_int8pack_mm(x, self.weight, self.scales)
        return self.add_bias(y)


class Int4WeightLinear(FormatLinear):
    """int4 weights in groups, bfloat16 activations: `aten::_weight_int4pack_mm_for_cpu`.

    The op stores a bfloat16 zero with each bfloat16 scale and needs 16 rows at a time, so it stores more than
    was asked for. Missing rows are filled up with weights of 0, which the output leaves out.
    """

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, values: Tensor, scales: Tensor, group: int, bias: Tensor | None) -> None:
        n, half = values.shape
        super().__init__(n, 2 * half, bias)
        self.activation = torch.bfloat16
        self.group = group
        rows = -(-n // INT4_ROWS) * INT4_ROWS
        self.register_buffer("packed", _pack_int4(values.numpy(), rows))
        # W = (q - 8)·scale + zero, as stored [k / group, n, 2].
        pairs = torch.zeros(scales.shape[1], rows, 2, dtype=torch.bfloat16)
        pairs[:, :n, 0] = scales.t().to(torch.bfloat16)
        self.register_buffer("scales_and_zeros", pairs)
        self.stored_bytes = self.packed.nbytes + pairs.nbytes + _bytes(bias)

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, k] bfloat16 -> y [rows, n] bfloat16."""
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            self.in_order(x), self.packed, self.group, self.scales_and_zeros
        )
        return self.add_bias(y[:, : self.n])


class Int4TileLinear(FormatLinear):
    """int4 weights in groups, bfloat16 activations, on an accelerator: `aten::_weight_int4pack_mm`.

    The op expects the even column in the high nibble and stores a bfloat16 zero with each bfloat16 scale.
    """

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, values: Tensor, scales: Tensor, group: int, bias: Tensor | None, device: str) -> None:
        n, half = values.shape
        super().__init__(n, 2 * half, bias)
        self.activation = torch.bfloat16
        self.group = group
        rows = -(-n // INT4_TILE_ROWS) * INT4_TILE_ROWS
        swapped = torch.full((rows, half), 0x88, dtype=torch.uint8)  # 8 means 0
        swapped[:n] = (values << 4) | (values >> 4)
        tiles = next(t for t in (8, 4, 2) if self.k % (t * INT4_TILE_COLUMNS) == 0)
        packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(swapped.to(device), tiles)
        self.register_buffer("packed", packed)
        pairs = torch.zeros(scales.shape[1], rows, 2, dtype=torch.bfloat16)
        pairs[:, :n, 0] = scales.t().to(torch.bfloat16)
        self.register_buffer("scales_and_zeros", pairs)
        self.stored_bytes = packed.nbytes + pairs.nbytes + _bytes(bias)

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, k] bfloat16 -> y [rows, n] bfloat16."""
        y: Tensor = torch.ops.aten._weight_int4pack_mm(
            self.in_order(x), self.packed, self.group, self.scales_and_zeros
        )
        return self.add_bias(y[:, : self.n])


class Int8DynamicLinear(FormatLinear):
    """int8 weights and activations quantised on the way: `quantized::linear_dynamic`, x and y float32.

    torch uses one scale and zero point for all rows of x, and an unsigned byte for each element. The weights are
    packed by FBGEMM or oneDNN, whichever is faster at this many rows.
    """

    packed: torch.ScriptObject

    def __init__(
        self, weight: Tensor, scales: Tensor, bias: Tensor | None, rows: int, background: Background | None
    ) -> None:
        super().__init__(weight.shape[0], weight.shape[1], None)
        self.activation = torch.float32
        self.stored_bytes = weight.nbytes + scales.nbytes + _bytes(bias)
        self.reduce_range = _int8_sums_saturate()
        pack = partial(self._pack, _quantized(weight, scales), bias)
        engine, default = _int8_engine(rows), torch.backends.quantized.engine
        if background is not None and engine == default:
            background.submit(pack)  # FBGEMM packs in one thread
            return
        if background is not None:
            background.wait()  # the engine is set for all threads
        torch.backends.quantized.engine = engine
        try:
            pack()
        finally:
            torch.backends.quantized.engine = default

    def _pack(self, quantized: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.quantized.linear_prepack(quantized, bias)

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, k] float32 -> y [rows, n] float32."""
        y: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
        return y


class Int4DynamicLinear(FormatLinear):
    """int4 weights, activations quantised to int8 by row: `aten::_dyn_quant_matmul_4bit`, x and y float32."""

    packed: Tensor

    def __init__(self, values: Tensor, scales: Tensor, group: int, bias: Tensor | None) -> None:
        n, half = values.shape
        super().__init__(n, 2 * half, None)
        self.activation = torch.float32
        self.group = group
        packed: Tensor = torch.ops.aten._dyn_quant_pack_4bit_weight(
            values, scales.to(torch.bfloat16), bias, group, self.k, n
        )
        self.register_buffer("packed", packed)
        self.stored_bytes = packed.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, k] float32 -> y [rows, n] float32."""
        y: Tensor = torch.ops.aten._dyn_quant_matmul_4bit(
            self.in_order(x), self.packed, self.group, self.k, self.n
        )
        return y


def make_linear(
    weights: Sequence[Weight],
    bias: F32 | None,
    act: str,
    rows: int,
    device: str = "cpu",
    background: Background | None = None,
) -> FormatLinear:
    """The module for matrices of one format that share their input, stacked to one: y [rows, sum of n].

    `rows` is the number of rows that x will have, and `device` is where the module goes. They decide between
    engines and do not change what is computed. With a `background` a module is ready only when that has ended. Raises Unsupported
    where the matrices have their columns in orders that differ.
    """
    weights = [in_kernel_format(w) for w in weights]
    fmt = weights[0].format
    values = _stack([as_tensor(w.values, fmt) for w in weights])
    bias_tensor = None if bias is None else as_tensor(bias, "f32")
    if fmt in FLOATS:
        return FloatLinear(values, bias_tensor)
    scales = _stack([_scales(w) for w in weights])
    if fmt == "int8":
        if act == "int8":
            return Int8DynamicLinear(values, scales, bias_tensor, rows, background)
        return Int8WeightLinear(values, scales, bias_tensor)
    made: FormatLinear
    if device != "cpu":
        made = Int4TileLinear(values, scales, FORMATS[fmt].group, bias_tensor, device)
    else:
        kind = Int4DynamicLinear if act == "int8" else Int4WeightLinear
        made = kind(values, scales, FORMATS[fmt].group, bias_tensor)
    if (order := common_order(weights)) is not None:
        made.keep_order(order)
    return made


def linear_unsupported(weight: str, act: str, widths: Sequence[int], device: str) -> str | None:
    """Why torch cannot multiply by this format with rows of these `widths` (k) on `device`, or None."""
    if weight in FLOATS:
        return None
    if kernel_format(weight) not in QUANTISED:
        return f"torch has no matmul over {weight} weights"
    if device != "cpu":
        return _accelerator_unsupported(weight, act, widths, device)
    if weight == "int8":
        wrong = [k for k in widths if k % INT8_COLUMNS] if act == "float" else []
        return f"torch's int8 weight-only op needs k={wrong[0]} to be a multiple of 16" if wrong else None
    if act == "int8" and not _has_kleidiai():
        return "without KleidiAI (Arm) torch multiplies int4 by int8 in a plain loop, 50 times too slow"
    return None


def _accelerator_unsupported(weight: str, act: str, widths: Sequence[int], device: str) -> str | None:
    if act == "int8":
        return f"torch's {weight} matmuls with int8 activations are used on CPUs only"
    operator = "_weight_int8pack_mm" if weight == "int8" else "_weight_int4pack_mm"
    if not has_operator(operator, device):
        return f"this torch has no {operator} for {device.partition(':')[0]}"
    wrong = [k for k in widths if k % (2 * INT4_TILE_COLUMNS)]
    return f"torch's {weight} matmul needs k={wrong[0]} to be a multiple of 32" if wrong else None


def as_tensor(values: npt.NDArray[np.generic], fmt: str) -> Tensor:
    """The array as a tensor of that format, without a copy if it can be written to."""
    array = np.ascontiguousarray(values)
    if not array.flags.writeable:
        array = array.copy()
    if fmt == "bf16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _scales(weight: Weight) -> Tensor:
    if weight.scales is None:
        raise AssertionError("no weight.scales")
    return as_tensor(weight.scales, "")


def _quantized(weight: Tensor, scales: Tensor) -> Tensor:
    """int8 values [n, k] and scales [n] as a tensor of torch's own quantised kind, in the same memory."""
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():
        # Deprecated with no successor that prepacks for FBGEMM (pytorch issue 184982).
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor", UserWarning)
        quantized = torch._empty_per_channel_affine_quantized(
            weight.shape, scales=scales.double(), zero_points=zeros, axis=0, dtype=torch.qint8
        )
    return quantized.set_(weight.untyped_storage(), weight.storage_offset(), weight.shape, weight.stride())


def _bytes(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.nbytes


def _stack(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _pack_int4(values: npt.NDArray[np.uint8], rows: int) -> Tensor:
    """Nibbles [n, k/2] in the CPU op's layout [rows, k/2], a few thousand rows at a time, since the op takes int32."""
    packed = torch.empty(rows, values.shape[1], dtype=torch.uint8)
    for start in range(0, rows, INT4_CHUNK_ROWS):
        chunk = unpack_int4(values[start : start + INT4_CHUNK_ROWS]).astype(np.int32)
        missing = min(INT4_CHUNK_ROWS, rows - start) - len(chunk)
        chunk = np.pad(chunk, ((0, missing), (0, 0)), constant_values=8)
        packed[start : start + len(chunk)] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            torch.from_numpy(chunk), 1
        )
    return packed


def _int8_engine(rows: int) -> str:
    """The name of the quantised engine to pack for, among those of this build."""
    engines = torch.backends.quantized.supported_engines
    wanted = "onednn" if rows >= ONEDNN_ROWS else "x86"
    return wanted if wanted in engines else torch.backends.quantized.engine


def _has_kleidiai() -> bool:
    available: Callable[[], bool] = torch.backends.kleidiai.is_available
    return available()


def _int8_sums_saturate() -> bool:
    """Whether operands must be limited to 7 bits: x86 without VNNI adds two products in 16 bits."""
    return platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_vnni_supported()
