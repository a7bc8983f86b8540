"""A thread's share of panels: several at once, far apart, then what is left one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.recipe import Recipe

MakeLoop = Callable[[Recipe, int], Any]
"""make(recipe, panels_at_once) gives the compiled loop(w, at, panels, first, far, k, scratch, y, stride): panels
first…first+far and, `far` panels further on each, as many others as are walked at once."""


def make_share(recipe: Recipe, make: MakeLoop) -> Any:
    """The compiled function share(w, at, panels, first, last, k, scratch, y, stride) for panels first…last.

    Rows of y are `stride` apart.
    """
    together = make(recipe, recipe.panels)
    single = make(recipe, 1) if recipe.panels > 1 else together
    PANELS = recipe.panels

    @linked
    def share(
        w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        far = (last - first) // PANELS
        together(w, at, panels, first, far, k, scratch, y, stride)
        if PANELS > 1:
            rest = first + far * PANELS
            single(w, at, panels, rest, last - rest, k, scratch, y, stride)

    return share
