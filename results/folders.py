"""Where rows lie unless another folder is named, all under the current one.

>>> DEFAULT_OUT
PosixPath('results/runs')
"""

from pathlib import Path

DEFAULT_OUT = Path("results/runs")
"""Of runs."""
GATES, NOISE = Path("results/gates"), Path("results/noise")
"""Of `membound gate`, and of `membound noise`."""
SOAKS = Path("results/soaks")
"""Of `membound soak`: a folder each."""
FLEETS = Path("results/fleets")
"""Of `membound fleet`: a row file each."""
PUBLISHED = "published"
"""What runs are called that ship with the package: ``published``, or ``published/`` and the start of a name."""
