"""Numba's file of settings in the current folder: what it says workers do without.

>>> ignore_settings_file()

Workers unset the variables that make kernels slow, such as NUMBA_OPT. The file says the same without any of them, and no row
would tell of it.
"""

from __future__ import annotations

import os
from contextlib import suppress

SETTINGS_FILE = ".numba_config.yaml"
"""Numba takes it for what its variables would say, and reads it again for every kernel that it compiles."""


def ignore_settings_file() -> None:
    """Have Numba, in this process, go by its variables alone. Nothing happens in an interpreter without Numba."""
    with suppress(ImportError):
        from numba.core import config

        config._config_fname = os.devnull  # which Numba takes for no file
        config.reload_config()
