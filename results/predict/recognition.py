"""Which device of the catalogue a machine has, by what it calls itself.

>>> from membound.results.predict.catalogue import load_catalogue
>>> recognised("AMD EPYC", "family 26, model 2, stepping 1", load_catalogue()).id
'epyc_9005'
"""

from __future__ import annotations

import re

from membound.results.predict.catalogue import Catalogue, HardwareError
from membound.results.predict.device import Device

PROCESSORS = {
    (25, 1): "epyc_7003",
    (25, 17): "epyc_9004",
    (26, 2): "epyc_9005",
    (6, 106): "xeon_icx",
    (6, 143): "xeon_spr",
    (6, 207): "xeon_emr",
    (6, 173): "xeon6_gnr",
}
"""Family and model of server processors. Sources: Linux, arch/x86/include/asm/intel-family.h; coreboot's AMD CPUIDs."""


def recognised(name: str, cpu_model: str, catalogue: Catalogue) -> Device | None:
    """A device by its own name or, of a processor, by ``family …, model …``; None where the catalogue has none."""
    numbers = [int(one) for one in re.findall(r"\d+", cpu_model)]
    known = PROCESSORS.get((numbers[0], numbers[1])) if len(numbers) > 1 else None
    if known:
        return catalogue.find(known)
    try:
        return catalogue.find(name)
    except HardwareError:
        return None
