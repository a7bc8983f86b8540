"""Where each instruction that the executor knows is defined: sections of the PTX ISA 9.0, as its anchors name them.

>>> ISA + SECTIONS["movmatrix"][0]
'https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-instructions-movmatrix'

An opcode of several types has several. How the text is read where it leaves two readings stands beside the meaning.
"""

from __future__ import annotations

ISA = "https://docs.nvidia.com/cuda/parallel-thread-execution/#"
_INTEGER = "integer-arithmetic-instructions-"
_FLOAT = "floating-point-instructions-"
_HALF = "half-precision-floating-point-instructions-"
_PICK = "comparison-and-selection-instructions-"
_LOGIC = "logic-and-shift-instructions-"
_MOVE = "data-movement-and-conversion-instructions-"
_CONTROL = "control-flow-instructions-"
_MEET = "parallel-synchronization-and-communication-instructions-"
_MATRIX = "warp-level-matrix-instructions-"

SECTIONS: dict[str, tuple[str, ...]] = {
    "add": (_INTEGER + "add", _FLOAT + "add"),
    "sub": (_INTEGER + "sub", _FLOAT + "sub", _HALF + "sub"),
    "mul": (_INTEGER + "mul", _FLOAT + "mul"),
    "mad": (_INTEGER + "mad",),
    "fma": (_FLOAT + "fma", _HALF + "fma"),
    "min": (_INTEGER + "min", _FLOAT + "min"),
    "max": (_INTEGER + "max", _FLOAT + "max"),
    "div": (_INTEGER + "div", _FLOAT + "div"),
    "rem": (_INTEGER + "rem",),
    "neg": (_INTEGER + "neg", _FLOAT + "neg"),
    "abs": (_INTEGER + "abs", _FLOAT + "abs"),
    **{name: (_FLOAT + name,) for name in ("rcp", "sqrt", "rsqrt", "lg2", "ex2")},
    **{name: (_PICK + name,) for name in ("setp", "selp")},
    **{name: (_LOGIC + name,) for name in ("and", "or", "xor", "not", "lop3", "shl", "shr", "shf")},
    "mov": (_MOVE + "mov", _MOVE + "mov-2"),
    **{name: (_MOVE + name,) for name in ("prmt", "cvt", "st", "cvta")},
    "ld": (_MOVE + "ld", _MOVE + "ld-global-nc"),
    "cp": (_MOVE + "cp-async", _MOVE + "cp-async-commit-group", _MOVE + "cp-async-wait-group"),
    "shfl": (_MOVE + "shfl-sync",),
    "movmatrix": (_MATRIX + "movmatrix",),
    "mma": (_MATRIX + "mma",),
    "bar": (_MEET + "bar", _MEET + "bar-warp-sync"),
    "barrier": (_MEET + "bar",),
    **{name: (_CONTROL + name,) for name in ("bra", "ret", "exit")},
    "nanosleep": ("miscellaneous-instructions-nanosleep",),
}
