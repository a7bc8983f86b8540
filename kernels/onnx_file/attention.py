"""Attention and rotary positions as operators, over the cache that a decoder gets and gives back.

>>> ATTENTION["com.microsoft.GroupQueryAttention"].compute(call)

Sources: onnx/docs/Operators.md (Attention, RotaryEmbedding since opset 23); onnxruntime/docs/ContribOperators.md
(GroupQueryAttention with windows, softcap, sinks and window-sized caches; MultiHeadAttention; RotaryEmbedding).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from membound.kernels.onnx_file.elementwise import softmax
from membound.kernels.onnx_file.moving import count_rows
from membound.kernels.onnx_file.numbers import Array
from membound.kernels.onnx_file.operators import F64, Call, Operator, ghost, nothing, whole, widened

PAST_KEY, PAST_VALUE, LENGTHS, COS, SIN, POSITIONS, BIAS, SINKS = 3, 4, 5, 7, 8, 9, 10, 11
"""Places of GroupQueryAttention's inputs."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scores are made: times `scale`, capped, plus a bias; a window of 0 sees everything."""

    scale: float
    softcap: float = 0.0
    window: int = 0
    causal: bool = True
    smooth: bool = False


def attended(
    q: F64,
    k: Array,
    v: Array,
    first: int,
    start: int,
    how: Scoring,
    bias: F64 | None = None,
    sinks: F64 | None = None,
) -> F64:
    """Attention of q [B, Hq, T, D] over k, v [B, Hkv, S, ·], query t at position first + t, key s at start + s.

    `bias` [B or 1, Hq or 1, T, S] is added to scores; `sinks` [Hq] are logits that take part in the sum alone.
    """
    batch, heads, tokens, _ = q.shape
    group = heads // k.shape[1]
    y = np.empty((batch, heads, tokens, v.shape[-1]))
    at, seen = first + np.arange(tokens)[:, None], start + np.arange(k.shape[2])
    hidden = np.zeros((tokens, k.shape[2]), bool)
    if how.causal:
        hidden |= seen > at
    if how.window:
        hidden |= seen <= at - how.window
    for b, h in np.ndindex(batch, k.shape[1]):
        keys, values = widened(k[b, h]), widened(v[b, h])
        for head in range(h * group, (h + 1) * group):
            scores = q[b, head] @ keys.T * how.scale
            if how.softcap:
                scores = how.softcap * np.tanh(scores / how.softcap)
            if bias is not None:
                scores = scores + bias[min(b, len(bias) - 1), min(head, bias.shape[1] - 1)]
            scores = np.where(hidden, -np.inf, scores)
            if sinks is not None or how.smooth:
                column = np.full((tokens, 1), sinks[head] if sinks is not None else 0.0)
                y[b, head] = softmax(np.concatenate([scores, column], 1))[:, :-1] @ values
            else:
                y[b, head] = softmax(scores) @ values
    return y


def rotated(x: F64, cos: F64, sin: F64, interleaved: bool) -> F64:
    """x [B, H, T, D] turned by cos and sin [B or 1, T, d/2]: its first d columns, in halves or in neighbours."""
    half = cos.shape[-1]
    c, s = cos[:, None], sin[:, None]
    part, rest = x[..., : 2 * half], x[..., 2 * half :]
    a, b = (part[..., 0::2], part[..., 1::2]) if interleaved else (part[..., :half], part[..., half:])
    turned = (a * c - b * s, b * c + a * s)
    whole_part = np.stack(turned, -1).reshape(part.shape) if interleaved else np.concatenate(turned, -1)
    return np.concatenate([whole_part, rest], -1)


def _heads(x: Array, count: int) -> F64:
    """[B, T, H·D] as [B, H, T, D]."""
    batch, tokens, width = x.shape
    return widened(x).reshape(batch, tokens, count, width // count).transpose(0, 2, 1, 3)


def _merged(x: F64) -> F64:
    """[B, H, T, D] as [B, T, H·D]."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def _count(call: Call, batch: int, heads: int, tokens: int, seen: int, widths: int) -> None:
    """FLOPs of both products; activations of attention are not counted."""
    call.tally.product((), 2 * batch * heads * tokens * seen * widths, 0, 0)


def _rows_at(call: Call, index: int, positions: Array) -> F64:
    """Rows of a table at positions [B or 1, T], which are what is read of it."""
    table = call.get(index)
    part = Call(
        call.node, [table, positions], [True, True], [call.origins[index], ()], call.tally, call.numbers
    )
    count_rows(part, table.shape[0], positions)
    return widened(table[positions])


def resident(total: int, window: int, capacity: int) -> int:
    """Tokens that a window-sized cache holds after `total` tokens (ContribOperators.md, Windowed KV Cache)."""
    slack = capacity - window + 1
    return total if total <= capacity else total - slack * -(-(total - capacity) // slack)


def _split_heads(call: Call) -> tuple[F64, F64, F64]:
    """q, k and v [B, H, T, D], apart or packed in the first input."""
    heads, kv_heads, q = call.whole("num_heads"), call.whole("kv_num_heads"), call.get(0)
    if call.has(1):
        return _heads(q, heads), _heads(call.get(1), kv_heads), _heads(call.get(2), kv_heads)
    width = q.shape[-1] // (heads + 2 * kv_heads)
    parts = np.split(q, [heads * width, (heads + kv_heads) * width], -1)
    return _heads(parts[0], heads), _heads(parts[1], kv_heads), _heads(parts[2], kv_heads)


def _normed_heads(call: Call, x: F64, index: int) -> F64:
    if not call.has(index):
        return x
    eps = call.attribute("qk_norm_epsilon", 1e-6)
    y: F64 = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * call.wide(index)
    return y


def _group_query(call: Call) -> list[Array]:
    """One step of grouped-query attention: the new rows join the cache, and attention is over what is seen."""
    for name in ("k_quant_type", "v_quant_type"):
        if call.attribute(name, "NONE") != "NONE":
            raise call.refuse("over a quantised cache is not supported")
    if call.whole("qk_output", 0):
        raise call.refuse("that gives scores away is not supported")
    q, k, v = _split_heads(call)
    q, k = _normed_heads(call, q, 14), _normed_heads(call, k, 15)
    batch, heads, tokens, width = q.shape
    lengths = call.need(LENGTHS).reshape(-1)
    if len(set(lengths.tolist())) != 1:
        raise call.refuse("of sequences that differ in length is not supported")
    past = int(lengths[0]) + 1 - tokens
    window, capacity = max(0, call.whole("local_window_size", -1)), 0
    if call.whole("sliding_window_cache", 0):
        capacity = call.get(PAST_KEY).shape[2]
        if capacity < window or not window:
            raise call.refuse(f"with a window of {window} in a cache of {capacity} is not supported")
    held = resident(past, window, capacity) if capacity else past
    if call.has(PAST_KEY) and held > call.get(PAST_KEY).shape[2]:
        raise ValueError(f"the cache holds {call.get(PAST_KEY).shape[2]} tokens of {held}")
    if call.whole("do_rotary", 0):
        positions = call.get(POSITIONS) if call.has(POSITIONS) else past + np.arange(tokens)[None]
        cos, sin = _rows_at(call, COS, positions), _rows_at(call, SIN, positions)
        flag = bool(call.whole("rotary_interleaved", 0))
        q, k = rotated(q, cos, sin, flag), rotated(k, cos, sin, flag)
    seen = min(past + tokens, window) if window else past + tokens
    _count(call, batch, heads, tokens, seen, 2 * width)
    places = capacity or max(past + tokens, call.get(PAST_KEY).shape[2] if call.has(PAST_KEY) else 0)
    cache = (batch, k.shape[1], places, width)
    if not call.numbers:
        return [ghost((batch, tokens, heads * width)), ghost(cache), ghost(cache)]
    keys, values = (_joined(call, index, new, held) for index, new in ((PAST_KEY, k), (PAST_VALUE, v)))
    scale = call.attribute("scale", 0.0) or width**-0.5
    smooth = bool(call.whole("smooth_softmax", 0) > 0)
    how = Scoring(scale, call.attribute("softcap", 0.0), window, bool(call.whole("causal", 1)), smooth)
    bias = call.wide(BIAS) if call.has(BIAS) else None
    sinks = call.wide(SINKS).reshape(-1) if call.has(SINKS) else None
    y = attended(q, keys, values, past, past - held, how, bias, sinks)
    kept = resident(past + tokens, window, capacity) if capacity else past + tokens
    return [_merged(y), *(_placed(x[:, :, -kept:], places) for x in (keys, values))]


def _joined(call: Call, index: int, new: F64, held: int) -> F64:
    """What the cache holds, and the new rows behind it."""
    if not call.has(index):
        return new
    return np.concatenate([widened(call.get(index)[:, :, :held]), new], 2)


def _behind(call: Call, index: int, new: Array) -> Array:
    """Past rows and new ones behind them."""
    past = call.get(index)
    if not call.numbers:
        return ghost((*new.shape[:2], past.shape[2] + new.shape[2], new.shape[3]))
    return np.concatenate([past, new], 2)


def _placed(x: F64, places: int) -> F64:
    """Rows in a cache with more places."""
    y = np.zeros((*x.shape[:2], places, x.shape[3]))
    y[:, :, : x.shape[2]] = x
    return y


def _multi_head(call: Call) -> list[Array]:
    """MultiHeadAttention: as many key as query heads, past and new rows joined."""
    heads, q = call.whole("num_heads"), call.get(0)
    if q.ndim != 3 or not call.has(1) or not call.has(2) or call.has(8) or call.has(9):
        raise call.refuse("of packed heads or over a shared buffer is not supported")
    bias = call.wide(3) if call.has(3) else None
    parts = []
    for index in range(3):
        x = call.get(index)
        if x.ndim == 4:
            parts.append(widened(x))
            continue
        at = 0 if index == 0 else q.shape[-1] * index
        parts.append(_heads(widened(x) + (bias[at : at + x.shape[-1]] if bias is not None else 0), heads))
    q4, k, v = parts
    if call.has(6):
        k, v = _behind(call, 6, k), _behind(call, 7, v)
    batch, _, tokens, width = q4.shape
    seen = k.shape[2]
    _count(call, batch, heads, tokens, seen, width + v.shape[-1])
    if not call.numbers:
        return [ghost((batch, tokens, heads * v.shape[-1])), ghost(k.shape), ghost(v.shape)]
    how = Scoring(call.attribute("scale", 0.0) or width**-0.5, causal=bool(call.whole("unidirectional", 0)))
    added = call.wide(5) if call.has(5) else None
    if call.has(4):
        mask = call.need(4)
        if mask.ndim != 2 or mask.shape[-1] != seen:
            raise call.refuse("with lengths in place of a mask is not supported")
        low = np.where(mask[:, None, None] == 0, call.attribute("mask_filter_value", -10000.0), 0.0)
        added = low if added is None else added + low
    return [_merged(attended(q4, k, v, seen - tokens, 0, how, added)), k, v]


def _attention(call: Call) -> list[Array]:
    """Attention of opset 23: heads apart or merged, past and new rows joined, a mask of booleans or added."""
    q, k, v = call.get(0), call.get(1), call.get(2)
    merged = q.ndim == 3
    if merged:
        heads, kv_heads = call.whole("q_num_heads"), call.whole("kv_num_heads")
        q, k, v = _heads(q, heads), _heads(k, kv_heads), _heads(v, kv_heads)
    if call.has(4):
        k, v = _behind(call, 4, k), _behind(call, 5, v)
    if call.whole("qk_matmul_output_mode", 0) or len(call.node.outputs) > 3:
        raise call.refuse("that gives scores away is not supported")
    batch, heads, tokens, width = q.shape
    seen = k.shape[2]
    valid = call.need(6).reshape(-1) if call.has(6) else None
    if valid is not None and len(set(valid.tolist())) != 1:
        raise call.refuse("of sequences that differ in length is not supported")
    used = seen if valid is None else int(valid[0])
    _count(call, batch, heads, tokens, used, width + v.shape[-1])
    if not call.numbers:
        shape = (batch, tokens, heads * v.shape[-1]) if merged else (batch, heads, tokens, v.shape[-1])
        return [ghost(shape), ghost(k.shape), ghost(v.shape)][: len(call.node.outputs)]
    scale = call.attribute("scale", 0.0) or width**-0.5
    how = Scoring(scale, call.attribute("softcap", 0.0), causal=bool(call.whole("is_causal", 0)))
    added = _mask(call, used) if call.has(3) else None
    past = used - tokens if call.has(4) or valid is not None else 0
    y = attended(widened(q), k[:, :, :used], v[:, :, :used], past, 0, how, added)
    return [_merged(y) if merged else y, k, v][: len(call.node.outputs)]


def _mask(call: Call, seen: int) -> F64:
    """What is added to scores, [B or 1, H or 1, T, seen]."""
    mask = call.get(3)
    added = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else widened(mask)
    return added.reshape((1,) * (4 - added.ndim) + added.shape)[..., :seen]


def _rotary_contrib(call: Call) -> list[Array]:
    """RotaryEmbedding of ONNX Runtime: x, positions [B, T] or where the first stands, tables [places, d/2]."""
    positions = call.need(1)
    x = call.get(0)
    tokens = x.shape[2] if x.ndim == 4 else x.shape[1]
    if positions.size == 1 and positions.ndim < 2:
        positions = positions.reshape(1, 1) + np.arange(tokens)
    return [_rotary(call, x, positions, (2, 3))]


def _rotary_onnx(call: Call) -> list[Array]:
    """RotaryEmbedding of opset 23: x, tables [places, d/2] with positions, or [B, T, d/2] without."""
    return [_rotary(call, call.get(0), call.need(3) if call.has(3) else None, (1, 2))]


def _rotary(call: Call, x: Array, positions: Array | None, tables: tuple[int, int]) -> Array:
    heads = call.whole("num_heads", 0)
    if call.attribute("scale", 1.0) != 1.0 or call.whole("is_packed_batching", 0):
        raise call.refuse("with a scale or packed sequences is not supported")
    rows = []
    for index in tables:
        if positions is None:
            call.tally.read(call.origins[index])
            rows.append(call.wide(index))
        else:
            rows.append(_rows_at(call, index, positions))
    if x.ndim == 3:
        width = 2 * rows[0].shape[-1]
        split = _heads(x, heads or x.shape[-1] // width)
    else:
        split = widened(x)
    y = rotated(split, rows[0], rows[1], bool(call.whole("interleaved", 0)))
    return _merged(y) if x.ndim == 3 else y


def _group_query_reads(call: Call) -> None:
    """Norms and sinks are read whole; of the tables, the rows of the positions (`_rows_at`)."""
    for index, origins in enumerate(call.origins):
        if index not in (COS, SIN):
            call.tally.read(origins)


ATTENTION: dict[str, Operator] = {
    "Attention": Operator(_attention, whole, lazy=True),
    "RotaryEmbedding": Operator(_rotary_onnx, nothing),
    "com.microsoft.GroupQueryAttention": Operator(_group_query, _group_query_reads, lazy=True),
    "com.microsoft.MultiHeadAttention": Operator(_multi_head, whole, lazy=True),
    "com.microsoft.RotaryEmbedding": Operator(_rotary_contrib, nothing),
}
