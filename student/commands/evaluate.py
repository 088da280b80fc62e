"""`egoctl evaluate`: a run, scored on a split."""

from typing import Annotated, Literal

import typer

from egoctl.pipeline.commands.options import (
    DeviceOption,
    EndpointOption,
    JsonOption,
    as_text,
    echo,
)
from egoctl.student.commands.options import InputsCopyOption, RunArg, TeacherCopyOption


def evaluate(
    run: RunArg,
    split: Annotated[str, typer.Option(help="Split of the manifest to evaluate.")] = "test",
    imu: Annotated[
        Literal["own", "other", "zero"],
        typer.Option(help="other (another segment's) and zero show what the IMU is worth."),
    ] = "own",
    manifest: Annotated[
        str | None, typer.Option(help="The manifest, if not where the run found it.")
    ] = None,
    inputs: InputsCopyOption = None,
    store: TeacherCopyOption = None,
    device: DeviceOption = "auto",
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accuracy of a run per segment, agreement with its teacher, a table per class.

    Writes metrics.json and predictions.parquet into the run (metrics-SPLIT.json for others than
    test).

    Example: egoctl evaluate runs/first --split test
    """
    from egoctl.student.evaluation.evaluate import evaluate as evaluate_run
    from egoctl.student.evaluation.report import metrics_lines

    metrics = evaluate_run(
        run, split=split, imu=imu, device=device, manifest=manifest, inputs=inputs, teacher=store
    )
    echo([as_text(metrics)] if as_json else metrics_lines(metrics))
