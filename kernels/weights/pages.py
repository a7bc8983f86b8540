"""Paged caches: the same tokens in pages that lie in any order, as serving engines keep them.

>>> table = inputs.page_table(0)                    # [batch, pages of a sequence], shuffled
>>> k = paged(inputs.cache(0).k, table, page=16)    # [pages, 16, kv_heads, head_dim]

Within a page tokens follow each other with all their heads, the layout of vLLM's and FlashInfer's
caches ("NHD"). Tokens beyond the context, in the last page of a sequence, are zeros.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)


def paged(values: npt.NDArray[Scalar], table: npt.NDArray[np.integer[Any]], page: int) -> npt.NDArray[Scalar]:
    """[batch, kv_heads, tokens, …] to [pages, page, kv_heads, …], each page where `table` says.

    `table` [batch, pages of a sequence] holds every page's number once. Scales without a last axis
    are laid out like values. Raises ValueError if the table has another size than the tokens need.
    """
    batch, heads, tokens, *rest = values.shape
    count = -(-tokens // page)
    if table.shape != (batch, count):
        raise ValueError(f"a page table of shape {table.shape} does not hold {batch} times {count} pages")
    whole = np.zeros((batch, heads, count * page, *rest), values.dtype)
    whole[:, :, :tokens] = values
    split = whole.reshape(batch, heads, count, page, *rest)
    out = np.empty((table.size, page, heads, *rest), values.dtype)
    out[table] = np.moveaxis(split, 1, 3)
    return out
