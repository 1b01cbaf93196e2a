"""The command ``balred inspect``: what a checkpoint holds, layer by layer, without the code of its model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from balred.cli.options import Json, Picture
from balred.cli.output import counted, emit_json, print_table, reported, tell
from balred.cli.pictures import check_picture, draw
from balred.files.inspecting import TAUS, Inspected
from balred.files.inspecting import inspect as inspected


def inspect(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A .safetensors or .pt file, or a folder of Hugging Face.", show_default=False
        ),
    ],
    plot: Picture = None,
    as_json: Json = False,
) -> None:
    """List the state-space layers of a checkpoint, and how many states keep 90 to 99.99 % of the sum of its Hankel singular values."""
    with reported("inspect", f"reading {checkpoint}") as progress:
        check_picture(plot)
        layers = inspected(checkpoint, keep=plot is not None, tell=progress)
        if plot is not None:
            analyses = {layer.name or layer.type: layer.analysis for layer in layers if layer.analysis is not None}
            if not analyses:
                raise ValueError(f"{checkpoint}: a picture needs a layer with Hankel singular values, got none")
            from balred.adapters.matplotlib import plot_hsv

            draw(plot_hsv(analyses), plot)
    if as_json:
        emit_json({"file": str(checkpoint), "layers": [_described(layer) for layer in layers]})
        return
    tell(f"{checkpoint}: {counted(len(layers), 'state-space layer')}")
    rows = [
        (layer.name or "-", layer.type, str(layer.states), *(_cell(layer, tau) for tau in TAUS)) for layer in layers
    ]
    print_table(("layer", "type", "states", *(f"{tau:.0e}".replace("e-0", "e-") for tau in TAUS)), rows, left=2)
    if any(layer.ranks for layer in layers):
        tell("each column: the states that keep all but this share of the sum of the values (H-infinity error bound)")
    remarks: dict[str, list[str]] = {}
    for layer in layers:
        remarks.setdefault(layer.note, []).append(layer.name or layer.type)
    for note, names in remarks.items():
        if note:
            tell(f"{names[0] if len(names) == 1 else f'{names[0]} and {len(names) - 1} more'}: {note}")


def _cell(layer: Inspected, tau: float) -> str:
    return f"{layer.ranks[tau]} ({layer.bounds[tau]:.2g})" if tau in layer.ranks else "-"


def _described(layer: Inspected) -> dict[str, object]:
    numbers = [{"tau": tau, "rank": layer.ranks[tau], "bound": layer.bounds[tau]} for tau in layer.ranks]
    return {
        "layer": layer.name, "type": layer.type, "states": layer.states, "ranks": numbers, "note": layer.note,
    }  # fmt: skip
