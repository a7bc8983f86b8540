"""A callable over input sets that rotate, so that each call finds its operands in memory and not in a cache.

>>> rotation = Rotation(np.matmul, [(x, w) for w in weights], sync=None, output=lambda: rotation.result)
>>> rotation.launch()                   # the next set; rotation.slot and rotation.result say which and what
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any


class Rotation:
    """A callable over its input sets: each `launch` takes the next one and waits until it is done."""

    def __init__(
        self,
        function: Callable[..., Any],
        sets: list[tuple[Any, ...]],
        sync: Callable[[], object] | None,
        output: Callable[[], Any],
    ) -> None:
        self.sets, self.output = sets, output
        self.slot, self.result = -1, None
        turns = cycle(enumerate(sets)).__next__

        def launch() -> Any:
            self.slot, arguments = turns()
            self.result = function(*arguments)
            return self.result

        def launch_and_wait() -> Any:
            result = launch()
            if sync is None:
                raise AssertionError("no sync")
            sync()
            return result

        self.launch = launch if sync is None else launch_and_wait
