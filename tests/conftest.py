"""Shared by all tests: two threads at most, set before Numba and the BLAS libraries are loaded; what is left out."""

import os

import pytest

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, str(min(2, os.cpu_count() or 1)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need what is not installed are skipped with the command that would install it."""
    compiled = [item for item in items if item.get_closest_marker("cuda_compile")]
    if compiled:
        import sass

        missing = sass.missing()
        reason = f"no {missing[0]}: pip install -e '.[cuda-compile]'" if missing else ""
        for item in compiled if missing else ():
            item.add_marker(pytest.mark.skip(reason=reason))
