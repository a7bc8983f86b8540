import numpy as np
import pytest

from membound.kernels.seeded import make_inputs
from membound.kernels.weights.pages import paged
from membound.kernels.work import parse


@pytest.mark.parametrize(("context", "page"), [(1, 1), (7, 3), (32, 16), (33, 16), (5, 64)])
def test_every_token_lies_where_the_table_says(context, page):
    inputs = make_inputs(parse(f"attention:context={context},batch=3,page={page},kv=int8,head_dim=8"), 2)
    cache, table = inputs.cache(0), inputs.page_table(0)
    k, scales = paged(cache.k, table, page), paged(cache.k_scales, table, page)
    assert k.shape == (table.size, page, 8, 8)
    assert scales.shape == (table.size, page, 8)
    for b, t in np.ndindex(3, context):
        place = table[b, t // page], t % page
        assert np.array_equal(k[place], cache.k[b, :, t])
        assert np.array_equal(scales[place], cache.k_scales[b, :, t])
    assert np.abs(k.astype(int)).sum() == np.abs(cache.k.astype(int)).sum()


def test_a_table_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"a page table of shape \(1, 2\) does not hold 1 times 3 pages"):
        paged(np.zeros((1, 2, 9, 4)), np.zeros((1, 2), np.int32), 4)
