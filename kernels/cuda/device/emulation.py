"""The operations of ptx.py in NumPy, one double of the same name for each; the simulator's half of ptx.py."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.cuda.compile import WARP
from membound.kernels.cuda.ptx import MOST_GROUPS
from membound.kernels.weights import fp8

Exchange = Callable[[str, Any], tuple[list[Any], int]]
"""(operation, value) -> the values of all threads of the warp, and the caller's lane."""

F32 = npt.NDArray[np.float32]
Widen = Callable[[npt.NDArray[np.uint32]], F32]


def widen_bf16(words: npt.NDArray[np.uint32]) -> F32:
    """Words [...] as float32 [..., 2]: the two bfloat16 of each."""
    bits = words.view(np.uint16).astype(np.uint32) << np.uint32(16)
    pairs: F32 = bits.view(np.float32).reshape(*words.shape, 2)
    return pairs


def widen_f16(words: npt.NDArray[np.uint32]) -> F32:
    """Words [...] as float32 [..., 2]: the two float16 of each."""
    pairs: F32 = words.view(np.float16).astype(np.float32).reshape(*words.shape, 2)
    return pairs


_WORD, _WORDS, _FLOAT, _FLOATS, _HALVES = (Struct(f"<{each}") for each in ("I", "2I", "f", "2f", "2e"))
_E4M3 = fp8.VALUES.astype(np.float16).view(np.uint16).tolist()
"""The float16 bits of each of the 256 codes; all are exact."""


def _f16_pair(word: Any) -> tuple[float, float]:
    """A word's two float16. Python's own numbers: of two, NumPy's arrays take ten times as long."""
    low, high = _HALVES.unpack(_WORD.pack(word))
    return low, high


def _from_f16_pair(low: Any, high: Any) -> np.uint32:
    """A word of two float16, rounded to nearest even; infinite beyond them."""
    try:
        return np.uint32(_WORD.unpack(_HALVES.pack(low, high))[0])
    except OverflowError:
        with np.errstate(over="ignore"):
            word: np.uint32 = np.array([low, high], np.float64).astype(np.float16).view(np.uint32)[0]
        return word


def _mma(widen: Widen, operands: list[tuple[Any, ...]]) -> F32:
    """The four sums of each of the 32 lanes [32, 4] out of what they hold, placed as ptx.py's docstring says."""
    words = np.array([held[:6] for held in operands], np.uint32)
    values = widen(words).reshape(8, 4, 6, 2)  # g, t, register, element
    # Registers of A: upper columns · 2 + lower rows; of B: lower rows; of C: lower rows, then columns.
    a = values[:, :, :4].reshape(8, 4, 2, 2, 2).transpose(3, 0, 2, 1, 4).reshape(16, 16)
    b = values[:, :, 4:].transpose(2, 1, 3, 0).reshape(16, 8)
    sums = np.array([held[6:] for held in operands], np.float32).reshape(8, 4, 2, 2)
    d = sums.transpose(2, 0, 1, 3).reshape(16, 8) + a @ b
    lanes: F32 = d.reshape(2, 8, 4, 2).transpose(1, 2, 0, 3).reshape(WARP, 4)
    return lanes


class Doubles:
    """One method for each operation; those of a whole warp go through `exchange`."""

    def __init__(self, exchange: Exchange, thread: Callable[[], int]) -> None:
        self._exchange = exchange
        self._thread = thread
        self._ticks = 0
        self._copies: dict[int, list[list[tuple[Any, Any]]]] = {}

    # Memory (an argument is a simulator.Memory)

    @staticmethod
    def load4(memory: Any, index: Any) -> tuple[Any, ...]:
        """Four words of any element type."""
        return tuple(memory.group(index).view(np.uint32))

    load4_coherent = stream4 = stream4_ordered = load4

    @staticmethod
    def stream2_ordered(memory: Any, index: Any) -> tuple[Any, ...]:
        """Two words of any element type."""
        return tuple(memory.group(index, size_bytes=8).view(np.uint32).copy())

    @staticmethod
    def store4(memory: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> None:
        """Writes four words."""
        memory.group(index).view(np.uint32)[:] = (a, b, c, d)

    @staticmethod
    def load4_shared(shared: Any, index: Any) -> tuple[Any, ...]:
        """Four words."""
        return tuple(shared.group(index).view(np.uint32))

    def copy4_async(self, shared: Any, to: Any, memory: Any, index: Any) -> None:
        """Notes the copy: it arrives when it is waited for, as late as on a GPU that is slow."""
        copy = (shared.group(to).view(np.uint32), memory.group(index).view(np.uint32))
        self._copies.setdefault(self._thread(), [[]])[-1].append(copy)

    def commit_copies(self) -> None:
        """Opens a group for the next copies."""
        self._copies.setdefault(self._thread(), [[]]).append([])

    def wait_copies(self) -> None:
        """Lets all closed groups arrive."""
        self.wait_copies_but(0)

    def wait_copies_but(self, groups: int) -> None:
        """Lets closed groups arrive but for the last ones. Raises ValueError for more than the instruction takes here."""
        if not 0 <= groups <= MOST_GROUPS:
            raise ValueError(f"wait_copies_but takes a constant from 0 to {MOST_GROUPS}, not {groups}")
        pending = self._copies.setdefault(self._thread(), [[]])
        while len(pending) - 1 > groups:
            for target, source in pending.pop(0):
                target[:] = source

    # Words of the host

    @staticmethod
    def load_host(memory: Any, index: Any) -> Any:
        """A word."""
        return memory[index]

    @staticmethod
    def store_host(memory: Any, index: Any, value: Any) -> None:
        """Writes a word."""
        memory[index] = value

    def microseconds(self) -> Any:
        """A clock that ticks when it is read."""
        self._ticks += 1
        return np.uint32(self._ticks)

    # Bits and packed pairs

    @staticmethod
    def as_f32(word: Any) -> Any:
        """The float32 of these bits."""
        return np.uint32(word).view(np.float32)

    @staticmethod
    def as_u32(value: Any) -> Any:
        """The bits of a float32."""
        return np.float32(value).view(np.uint32)

    @staticmethod
    def low_bf16(word: Any) -> Any:
        """The first of a pair."""
        return np.float32(_FLOAT.unpack(_WORD.pack(int(word) << 16 & 0xFFFFFFFF))[0])

    @staticmethod
    def high_bf16(word: Any) -> Any:
        """The second of a pair."""
        return np.float32(_FLOAT.unpack(_WORD.pack(int(word) & 0xFFFF0000))[0])

    @staticmethod
    def low_f16(word: Any) -> Any:
        """The first of a pair."""
        return np.float32(_f16_pair(word)[0])

    @staticmethod
    def high_f16(word: Any) -> Any:
        """The second of a pair."""
        return np.float32(_f16_pair(word)[1])

    @staticmethod
    def pack_bf16(low: Any, high: Any) -> Any:
        """Two float32 as a pair, each rounded to nearest even."""
        first, second = (
            (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF
            for bits in _WORDS.unpack(_FLOATS.pack(low, high))
        )
        return np.uint32(first | second << 16)

    @staticmethod
    def pack_f16(low: Any, high: Any) -> Any:
        """Two float32 as a pair."""
        return _from_f16_pair(low, high)

    @staticmethod
    def subtract_f16(a: Any, b: Any) -> Any:
        """The difference of two pairs, exact in float64 before it is rounded."""
        (low, high), (low_b, high_b) = _f16_pair(a), _f16_pair(b)
        return _from_f16_pair(low - low_b, high - high_b)

    @staticmethod
    def fma_f16(a: Any, b: Any, c: Any) -> Any:
        """a·b + c of pairs; the product is exact in float64."""
        (low, high), (low_b, high_b), (low_c, high_c) = _f16_pair(a), _f16_pair(b), _f16_pair(c)
        return _from_f16_pair(low * low_b + low_c, high * high_b + high_c)

    @staticmethod
    def pick_bytes(a: Any, b: Any, selector: Any) -> Any:
        """Bytes by the low three bits of each nibble of the selector; its sign bit is not supported."""
        nibbles = int(selector)
        if nibbles & 0x8888:
            raise ValueError(f"selector {nibbles:#x} asks for signs, which no kernel here uses")
        source = int(a) | int(b) << 32
        first, second = source >> 8 * (nibbles & 7) & 0xFF, source >> 8 * (nibbles >> 4 & 7) & 0xFF
        third, fourth = source >> 8 * (nibbles >> 8 & 7) & 0xFF, source >> 8 * (nibbles >> 12 & 7) & 0xFF
        return np.uint32(first | second << 8 | third << 16 | fourth << 24)

    @staticmethod
    def set_bits(word: Any, mask: Any, bits: Any) -> Any:
        """(word & mask) | bits."""
        return np.uint32(word) & np.uint32(mask) | np.uint32(bits)

    @staticmethod
    def unpack_e4m3(pair: Any) -> Any:
        """Two fp8 as a pair of float16."""
        codes = int(pair)
        return np.uint32(_E4M3[codes & 0xFF] | _E4M3[codes >> 8 & 0xFF] << 16)

    @staticmethod
    def pack_e4m3(low: Any, high: Any) -> Any:
        """Two float32 as fp8, twice, as the instruction sequence leaves them."""
        codes = fp8.encode(np.array([low, high, low, high], np.float32))
        return codes.view(np.uint32)[0]

    # Arithmetic

    @staticmethod
    def fma_f32(a: Any, b: Any, c: Any) -> Any:
        """a·b + c; the product is exact in float64."""
        return np.float32(float(a) * float(b) + float(c))

    @staticmethod
    def exp2_fast(x: Any) -> Any:
        """2^x, infinite beyond float32."""
        with np.errstate(over="ignore"):
            return np.exp2(np.float32(x))

    @staticmethod
    def log2_fast(x: Any) -> Any:
        """log2(x); of zero minus infinity."""
        return np.log2(np.float32(x)) if x else np.float32(-np.inf)

    @staticmethod
    def rsqrt_fast(x: Any) -> Any:
        """1 / sqrt(x)."""
        return np.float32(1) / np.sqrt(np.float32(x))

    def transpose8(self, word: Any) -> Any:
        """The warp's matrix of 16 bits, transposed."""
        given, lane = self._exchange("transpose8", word)
        matrix = np.array(given, np.uint32).view(np.uint16).reshape(8, 8)
        return np.ascontiguousarray(matrix[:, lane // 4][2 * (lane % 4) :][:2]).view(np.uint32)[0]

    def mma_bf16(self, *operands: Any) -> tuple[Any, ...]:
        """C + A·B of the warp."""
        return self._multiply("mma_bf16", widen_bf16, operands)

    def mma_f16(self, *operands: Any) -> tuple[Any, ...]:
        """C + A·B of the warp."""
        return self._multiply("mma_f16", widen_f16, operands)

    def _multiply(self, name: str, widen: Widen, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        given, lane = self._exchange(name, operands)
        if len(given) == WARP:
            given.append(_mma(widen, given))  # once for the warp: all its threads hold the same list
        return tuple(given[WARP][lane])


NAMES = tuple(name for name in vars(Doubles) if not name.startswith("_"))
