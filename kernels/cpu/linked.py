"""How functions are compiled that only compiled code calls: optimised and linked into their callers, never run by themselves.

>>> @linked
... def add_part(whole, part): ...

Numba makes machine code, and an entry for Python, of each function that it compiles, and those of a kernel are nested
eight deep: seven times the machine code of its loops would be made and thrown away, a third of the time that a kernel
takes to compile. What is left is what its callers inline, which is what it would be otherwise.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, PassManager
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering, NativeParforLowering

from membound.no_collections import no_collections

_NOT_CALLABLE = ctypes.cast(ctypes.pythonapi.PyObject_Call, ctypes.c_void_p).value
"""What Python runs where it calls such a function: a call of something that cannot be called, which is a TypeError."""


PARALLEL_BODY = "__numba_parfor_gufunc"
"""How Numba begins the name of the body of a parallel loop, which it puts into a wrapper at once."""


class LinkedLibrary(JITCodeLibrary):  # type: ignore[misc]
    """Optimised code of one function, as the libraries of its callers take it in; not known to the JIT.

    What `passes_on` holds little more than a call: what it calls is optimised already, and once more in its callers.
    """

    def __init__(self, codegen: Any, name: str, passes_on: bool = False) -> None:
        super().__init__(codegen, name)
        self._passes_on = passes_on or name.startswith(PARALLEL_BODY)

    def _optimize_final_module(self) -> None:
        if not self._passes_on:
            super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int | None:
        """The address that stands for an entry for Python; the code itself has none."""
        self._ensure_finalized()
        return _NOT_CALLABLE

    @property
    def codegen(self) -> Any:
        """What Numba would set the function's environment in, after asking for its entry."""
        return _NoEnvironments


class _NoEnvironments:
    @staticmethod
    def set_env(name: str, environment: Any) -> None:
        """Nothing: the environment holds Python objects for compiled code, of which ours uses none."""


@contextmanager
def _linking(codegen: Any) -> Iterator[None]:
    """Make linked libraries of what is compiled meanwhile: parallel loops. Numba holds its global lock."""
    before = codegen._library_class
    codegen._library_class = LinkedLibrary
    try:
        yield
    finally:
        codegen._library_class = before


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(NativeParforLowering):  # type: ignore[misc]
    _name = "kernel_lowering"

    def library(self, state: Any, codegen: Any, name: str) -> JITCodeLibrary:
        return JITCodeLibrary(codegen, name)

    def run_pass(self, state: Any) -> bool:
        codegen = state.targetctx.codegen()
        state.library = self.library(state, codegen, state.func_id.func_qualname)
        state.library.enable_object_caching()
        with _linking(codegen):
            return bool(super().run_pass(state))


@register_pass(mutates_CFG=True, analysis_only=False)
class _LinkedLowering(_KernelLowering):
    _name = "linked_lowering"

    def library(self, state: Any, codegen: Any, name: str) -> LinkedLibrary:
        return LinkedLibrary(codegen, name, passes_on=state.flags.auto_parallel.enabled)


@register_pass(mutates_CFG=True, analysis_only=False)
class _OverloadLowering(_KernelLowering):
    _name = "overload_lowering"

    def library(self, state: Any, codegen: Any, name: str) -> LinkedLibrary:
        return LinkedLibrary(codegen, name, passes_on=True)


def _pipeline(lowering: type[_KernelLowering], state: Any) -> list[Any]:
    """Numba's own, but for that pass."""
    usual = DefaultPassBuilder.define_nopython_pipeline(state)
    changed = PassManager(lowering._name)
    for each, description in usual.passes:
        changed.add_pass(lowering if each in (NativeLowering, NativeParforLowering) else each, description)
    changed.finalize()
    return [changed]


class KernelCompiler(CompilerBase):  # type: ignore[misc]
    """Compiles a function that Python calls, and links the loops in it that run in parallel."""

    def define_pipelines(self) -> list[Any]:
        """Numba's passes and our last."""
        return _pipeline(_KernelLowering, self.state)

    def compile_extra(self, func: Any) -> Any:
        """Compile, as the base class does."""
        with no_collections():  # which would look for circles among all of the IR, 15 % of the time
            return super().compile_extra(func)


class LinkedCompiler(CompilerBase):  # type: ignore[misc]
    """Compiles a function that is linked into its callers."""

    def define_pipelines(self) -> list[Any]:
        """Numba's passes and our last."""
        return _pipeline(_LinkedLowering, self.state)


class OverloadCompiler(CompilerBase):  # type: ignore[misc]
    """Compiles an implementation that calls one linked function."""

    def define_pipelines(self) -> list[Any]:
        """Numba's passes and our last."""
        return _pipeline(_OverloadLowering, self.state)


linked = partial(numba.njit, pipeline_class=LinkedCompiler, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""`numba.njit`, bare or with its options (parallel, fastmath), for what only compiled code calls; Python gets a TypeError."""

LINKED = {"pipeline_class": OverloadCompiler, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""`jit_options` of `numba.extending.overload`, for implementations that do little but call a linked function."""
