"""The commands that use a run's final model: predict, export."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from quorate.cli_shared import Data, RunFolder, err_console, out_console

Whose = Annotated[
    int | None,
    typer.Option("--client", metavar="I", help="A client's own model, where a federation's clients have some."),
]


class Form(StrEnum):
    """What a model is exported as."""

    SAFETENSORS = "safetensors"
    TORCH_EXPORT = "torch-export"


def predict(
    run: RunFolder,
    inputs: Annotated[
        Path | None,
        typer.Argument(
            help="`.npy`, or `.npz` or `.safetensors` with `x` and perhaps `y`; the task's test data if not given.",
            show_default=False,
        ),
    ] = None,
    client: Whose = None,
    out: Annotated[
        Path | None, typer.Option(help="Write `output` and `prediction` to this .npz file.", show_default=False)
    ] = None,
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a line a sample.")] = False,
) -> None:
    """Predict with a run's final model: a line on standard output for each input; measures on standard error."""
    from quorate import final_model, inputs_file

    final = final_model.load(run, data, client)
    x, y = (final.task.test.x, final.task.test.y) if inputs is None else inputs_file.read(inputs)
    output = final_model.outputs(final, x)
    prediction = final_model.predictions(final, output)
    measures = {} if y is None else final_model.measures(final, output, y)
    if out is not None:
        inputs_file.write(out, output, prediction)
        err_console.print(f"written: {out}", markup=False)
    if measures:
        told = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
        err_console.print(f"{told}, on {len(x)} samples", markup=False)
    if as_json:
        print(json.dumps({"measures": measures, "prediction": prediction.tolist()}))
    elif out is None:
        for each in prediction.flatten(1) if prediction.dim() > 1 else prediction[:, None]:
            print(*each.tolist())


def export(
    run: RunFolder,
    form: Annotated[Form, typer.Option("--format", help="What the model is written as.")] = Form.SAFETENSORS,
    client: Whose = None,
    out: Annotated[Path | None, typer.Option(help="File; in the run's folder if not given.")] = None,
    data: Data = None,
) -> None:
    """Write a run's final model to a file: its tensors by name, or a program that runs without quorate."""
    from quorate import final_model

    final = final_model.load(run, data, client)
    name = "model" if client is None else f"model-{client}"
    if form == Form.SAFETENSORS:
        where = final_model.to_safetensors(final, out or run / f"{name}.safetensors")
    else:
        where = final_model.to_torch_export(final, out or run / f"{name}.pt2")
    out_console.print(f"{form.value}: {where}", markup=False)
