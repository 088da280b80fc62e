"""`egoctl study`: a grid of students from one plan."""

import json
from pathlib import Path
from typing import Annotated

import typer

from egoctl.pipeline.commands.options import (
    FAILED_ITEMS,
    EndpointOption,
    JsonOption,
    echo,
    stoppable,
)


def study(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="TOML of rows, seeds and tables.")],
    only: Annotated[
        list[str] | None, typer.Option(help="A row or table to run; may be repeated.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Of the plan, as teachers.mvit=S.store."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at the same time, a process each.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what there is to do.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Write what follows from the numbers, as Markdown.")
    ] = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a grid of students (rows x teachers x seeds) from the same stores, and make tables.

    Finished runs are kept: run it again to go on, or after adding rows or seeds to the plan. Exit
    code 1 if a run failed; the others are in the tables.

    Example: egoctl study manifests/studies/demo.toml --jobs 2
    """
    from egoctl.pipeline.flop_count import counted_gflops
    from egoctl.student.studies.plan import read_plan
    from egoctl.student.studies.report import plan_lines, report_study
    from egoctl.student.studies.study import run_study, study_states

    studied = read_plan(plan, changes or ())
    if dry_run:
        echo(plan_lines(studied, study_states(studied), only or ()))
        return
    with stoppable("Stopped. Finished runs are kept; run the same command to go on."):
        states = run_study(
            studied, only=only or (), jobs=jobs, say=lambda text: typer.echo(text, err=True)
        )
        result = report_study(studied, states, counted_gflops, page=page)
    echo([json.dumps(result.to_dict(), indent=1)] if as_json else result.lines())
    raise typer.Exit(FAILED_ITEMS if result.failed else 0)
