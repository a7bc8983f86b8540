"""`membound export-model`: a work's model as a folder that engines load.

membound export-model step:model=tiny,weight=f32,kv=f32 models/tiny
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from membound.bench.commands.options import Debug, Json, Seed, print_json, print_text
from membound.results.plain_text import in_one_line


def export_model(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="The step or prefill whose model is written.")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="An empty folder, or one that does not exist yet.")
    ],
    seed: Seed = 1,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a work's model as a Hugging Face folder, with the weights that every backend gets for it.

    It holds config.json, a small tokenizer and safetensors, so any engine can load it, and membound too, as model=DIR.
    """
    from membound.kernels.export import ExportError, export_model
    from membound.kernels.inputs import ModelInputs
    from membound.kernels.seeded import make_inputs
    from membound.kernels.work import parse

    inputs = make_inputs(parse(spec), seed)
    if not isinstance(inputs, ModelInputs):
        raise ExportError(f"{spec} has no model; name a step or a prefill")
    size = export_model(inputs, folder)
    if as_json:
        print_json({"path": str(folder), "bytes": size})
    else:
        print_text(f"{in_one_line(folder)}: {size} bytes of weights\n")
