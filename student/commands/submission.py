"""`egoctl submission ...`: files for challenges."""

from pathlib import Path
from typing import Annotated

import typer

from egoctl.pipeline.commands.options import FAILED_ITEMS, EndpointOption, echo

app = typer.Typer(no_args_is_help=True, help="Files for challenges.")


@app.callback()
def submission() -> None:
    """Without this a group of one command would be that command."""


@app.command("epic")
def submission_epic(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="A run of verbs and a run of nouns.")
    ],
    out: Annotated[Path, typer.Option(help="The zip to write.")],
    sls_pt: Annotated[int, typer.Option(help="Supervision level of pretraining, 0 to 5.")],
    sls_tl: Annotated[int, typer.Option(help="Supervision level of training labels, 0 to 5.")],
    sls_td: Annotated[int, typer.Option(help="Supervision level of training data, 0 to 5.")],
    split: Annotated[str, typer.Option(help="Split that both runs were evaluated on.")] = "test",
    manifest: Annotated[
        str | None, typer.Option(help="The manifest, if not where the run of verbs found it.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Official annotations: prints accuracies, if labelled.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the zip.")] = False,
    endpoint: EndpointOption = None,
) -> None:
    """Write two students' scores as EPIC-KITCHENS' action recognition challenge takes them.

    Example: egoctl submission epic runs/verbs runs/nouns --sls-pt 2 --sls-tl 3 --sls-td 3
    --out submission.zip
    """
    from egoctl.student.epic.metrics import metric_lines, official_metrics, read_groups
    from egoctl.student.epic.scores import read_epic_scores
    from egoctl.student.epic.submission import SupervisionLevels, write_submission

    levels = SupervisionLevels(pretraining=sls_pt, training_labels=sls_tl, training_data=sls_td)
    scores = read_epic_scores(runs, split=split, manifest=manifest)
    groups = None if annotations is None else read_groups(annotations)
    write_submission(scores, levels, out, overwrite=force)
    typer.echo(f"{out}: {len(scores.segments):,} segments of split {split}")
    if groups is not None:
        echo(metric_lines(official_metrics(scores, groups)))
    echo(scores.missing_lines())
    raise typer.Exit(FAILED_ITEMS if scores.missing else 0)
