"""What there is to measure with: backends and devices, models, and the ceilings of the latest run.

>>> inventory = Inventory.gather(threads=2, pythons={}, out=Path("results/runs"))
>>> [device.id for device in inventory.devices if device.available]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.backends import registry
from membound.bench.planning.choice import told
from membound.bench.planning.probe import Found, probe
from membound.kernels.models import MODELS, PUBLISHED, get_model
from membound.results.roofline import best_ceilings
from membound.results.row import Row
from membound.results.store import load_rows
from membound.results.stored_runs import stored_runs
from membound.results.wording import amount, rate


@dataclass(frozen=True, slots=True)
class Inventory:
    """Devices, present or absent, and (value, row) of the ceilings measured last; `run` is the path of their file."""

    devices: tuple[Found, ...]
    ceilings: tuple[tuple[float, Row], ...]
    run: str

    @classmethod
    def gather(cls, threads: int, pythons: Mapping[str, str], out: Path) -> Inventory:
        """Ask every backend, each in a separate worker, and read the latest run in `out` that measured ceilings.

        Raises RowError or StoreError if a run cannot be read.
        """
        devices = tuple(probe(registry.entries(), threads, pythons))
        for path in reversed(stored_runs(out)):
            ceilings = tuple(best_ceilings(load_rows(path)))
            if ceilings:
                return cls(devices, ceilings, str(path))
        return cls(devices, (), "")

    def as_json(self) -> dict[str, Any]:
        """backends, models and ceilings, each a list of objects; sizes in bytes."""
        return {
            "backends": [asdict(device) for device in self.devices],
            "models": models_as_json(),
            "ceilings": [
                {"name": row.work, "backend": row.backend, "value": value, "unit": row.unit, "run": self.run}
                for value, row in self.ceilings
            ],
        }


def inventory_view(inventory: Inventory) -> Group:
    """The inventory for people."""
    parts: list[RenderableType] = [_devices(inventory), Text(), models_view(), Text()]
    if not inventory.ceilings:
        return Group(*parts, Text("ceilings: none known yet; `membound run` measures them"))
    table = _table("ceiling", "measured", "through")
    for value, row in inventory.ceilings:
        table.add_row(row.work, rate(value, row.unit), row.backend)
    return Group(*parts, table, Text(f"from {inventory.run}", style="dim"))


def _devices(inventory: Inventory) -> Table:
    table = _table("backend", "here", "device, or why not and what would help")
    for found in inventory.devices:
        if found.available:
            versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
            table.add_row(found.id, "yes", Text("; ".join(filter(None, (found.name, versions)))))
        else:
            table.add_row(found.id, "no", Text(told(found)))
    return table


def _as_json(name: str) -> dict[str, Any]:
    """The numbers of a model, parameters as a token streams them and in all; `membound list --model` has its parts."""
    model = get_model(name)
    numbers = asdict(replace(model, parts=None)) | {
        "parameters": model.parameters,
        "total_parameters": model.decoder.parameters,
    }
    del numbers["parts"]
    return numbers


def models_as_json() -> list[dict[str, Any]]:
    """Every model that has a name here."""
    return [_as_json(name) for name in (*MODELS, *PUBLISHED)]


def models_view() -> Group:
    """The same for people."""
    table = _table("model", "in all", "a token", "layers", "hidden", "heads (KV)", "in bf16")
    table.columns[0].no_wrap = True  # it is there to be copied
    for m in (get_model(name) for name in (*MODELS, *PUBLISHED)):
        table.add_row(
            m.name,
            _billions(m.decoder.parameters),
            _billions(m.parameters),
            str(m.layers),
            str(m.hidden),
            f"{m.q_heads} ({m.kv_heads})",
            amount(2 * m.decoder.parameters, "B"),
        )
    told = "1e9 parameters, in all and as a token streams them; more by --model NAME"
    return Group(table, Text(told, style="dim"))


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.4g}" if parameters >= 1e12 else f"{parameters / 1e9:.3g}"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
