"""The `egoctl teachers` commands: which networks there are, and what each is."""

from typing import Annotated, Literal

import typer

from egoctl.pipeline.commands.options import (
    FAILED_ITEMS,
    DeviceOption,
    EndpointOption,
    JsonOption,
    ManifestArg,
    WeightsOption,
    as_text,
    echo,
    stoppable,
)
from egoctl.pipeline.commands.record_options import options_of
from egoctl.pipeline.finetuning.config import FinetuneConfig

app = typer.Typer(no_args_is_help=True, help="Which teachers there are, and what each is.")


@app.command("list")
def list_teachers(
    cost: Annotated[
        bool, typer.Option("--cost", help="Count parameters and GFLOPs, too: some minutes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Every teacher in a line: its input, its targets, the licence of its weights.

    Exit code 1 if a plug-in cannot be used.

    Example: egoctl teachers list
    """
    from egoctl.pipeline.teachers import card

    found = card.list_teachers(with_cost=cost)
    echo([card.json_text(found)] if as_json else card.list_lines(found))
    raise typer.Exit(FAILED_ITEMS if found.failed_plugins else 0)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in NAME or NAME,KEY=VALUE.")],
    cost: Annotated[
        bool, typer.Option(help="Count parameters and GFLOPs, on the CPU: seconds.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """What a teacher looks at and gives back, its cost, its licences, its weights, its options.

    Example: egoctl teachers show mvit_v2_s
    """
    from egoctl.pipeline.teachers.card import card_lines, json_text, teacher_card

    found = teacher_card(name, with_cost=cost)
    echo([json_text(found)] if as_json else card_lines(found))


@app.command("evaluate")
def evaluate(
    manifest: ManifestArg,
    teacher: Annotated[str, typer.Option(help="Name of the network, such as motionformer.")],
    weights: WeightsOption = "default",
    split: Annotated[str, typer.Option(help="Split of the manifest to evaluate.")] = "test",
    views: Annotated[
        str, typer.Option(help="WINDOWSxCROPS of each segment: 1x1, or 10x3 as published.")
    ] = "1x1",
    device: DeviceOption = "auto",
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="bf16 is quicker on GPUs that have it.")
    ] = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Accuracy of a teacher itself on labelled segments, softmax summed over views.

    Exit code 1 if a segment could not be read.

    Example: egoctl teachers evaluate clips.parquet --teacher motionformer --views 10x3
    """
    from egoctl.pipeline.devices import pick_device
    from egoctl.pipeline.finetuning.teacher_scores import Views, score_teacher
    from egoctl.pipeline.manifest import read_manifest
    from egoctl.pipeline.teachers.lineup import load_teacher

    # What is quick to refuse comes before weights are loaded.
    looks, segments, chosen = Views.from_text(views), read_manifest(manifest), pick_device(device)
    loaded = load_teacher(teacher, weights=weights, device=chosen)
    if loaded.weights.misfits:
        typer.secho(f"WARNING: weights loaded in part: {loaded.weights.misfits}.", err=True)
    found = score_teacher(
        segments, loaded, split=split, views=looks, device=chosen, precision=precision
    )
    echo([as_text(found)] if as_json else found.lines())
    raise typer.Exit(FAILED_ITEMS if found.failures else 0)


@options_of(FinetuneConfig, asked={"manifest": ManifestArg})
def finetune_teacher(
    config: FinetuneConfig, endpoint: EndpointOption = None, as_json: JsonOption = False
) -> None:
    """Fit a teacher to the labels of MANIFEST, and write RUN/teacher.safetensors.

    The weights are for 'extract-teacher --weights RUN/teacher.safetensors'; they contain
    class names and what they were fitted to. A video that cannot be read is named at the end, and
    the exit code is 1. Run it again to go on after an interruption; the result is the same.

    Example: egoctl finetune-teacher clips.parquet --teacher mvit_v2_s --run runs/teacher
    """
    from egoctl.pipeline.finetuning.finetune import finetune

    with stoppable("Stopped. Run the same command to go on from the last checkpoint."):
        report = finetune(config)
    if report is None:  # a helper process of --devices; the first one reports
        raise typer.Exit(0)
    echo([as_text(report)] if as_json else report.lines())
    raise typer.Exit(0 if report.is_clean else FAILED_ITEMS)
