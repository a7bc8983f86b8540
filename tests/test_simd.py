"""No vector operation is left untested: test_simd_*.py call each of them, on every instruction set."""

from __future__ import annotations

import re
from pathlib import Path

from membound.kernels.cpu import simd

HERE = Path(__file__).parent


def test_every_operation_is_tested() -> None:
    sources = (path.read_text() for path in sorted(HERE.glob("test_simd_*.py")))
    body = "".join(re.sub(r"^from membound.*?^\)", "", source, flags=re.M | re.S) for source in sources)
    names = {name for name, value in vars(simd).items() if type(value).__name__ == "_Intrinsic"}
    assert names
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", body)) == []
