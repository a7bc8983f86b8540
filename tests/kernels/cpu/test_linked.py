"""Functions that only compiled code calls: linked into a kernel, with no machine code and no entry of their own."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from numba.core.codegen import JITCodeLibrary
from numba.extending import overload

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import LINKED, linked


@linked
def add_number(x: Any, i: Any) -> None:
    x[i] += np.float32(i + 1)


@linked(parallel=True)
def add_numbers(x: Any) -> None:
    for i in numba.prange(x.size):
        add_number(x, np.intp(i))


def count_up(x: Any) -> None:
    raise TypeError("count_up is for compiled code")


@overload(count_up, jit_options=LINKED)
def _count_up_in_kernels(x: Any) -> Any:
    def implementation(x: Any) -> None:
        add_numbers(x)

    return implementation


def test_a_kernel_is_all_that_becomes_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    finalize = JITCodeLibrary._finalize_specific
    monkeypatch.setattr(
        JITCodeLibrary, "_finalize_specific", lambda self: (made.append(self.name), finalize(self))
    )

    @kernel()
    def count_twice(x: Any) -> None:
        count_up(x)
        count_up(x)

    x = np.zeros(5, np.float32)
    count_twice(x)
    assert x.tolist() == [2, 4, 6, 8, 10]
    parts = (
        "count_twice",
        "implementation",
        "add_number",
        "gufunc",
    )  # the last as Numba names parallel loops
    assert [part for name in made for part in parts if part in name] == ["count_twice"]


@pytest.mark.parametrize("function", [add_number, add_numbers])
def test_python_cannot_call_one(function: Any) -> None:
    x = np.zeros(3, np.float32)
    with pytest.raises(TypeError, match="not callable"):
        function(*([x, 1] if function is add_number else [x]))
    assert not x.any()


def test_functions_outside_of_kernels_may_call_one() -> None:
    @numba.njit
    def plain(x: Any) -> None:
        add_numbers(x)

    x = np.zeros(4, np.float32)
    plain(x)
    assert x.tolist() == [1, 2, 3, 4]
