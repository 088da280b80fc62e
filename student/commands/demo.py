"""The `egoctl demo` commands: the demo world, and the whole job on it."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from egoctl.pipeline.commands.options import (
    FAILED_ITEMS,
    echo,
    say,
    stoppable,
)

app = typer.Typer(no_args_is_help=True, help="The demo world, and the whole job on it.")


@app.command("run")
def demo_run(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")],
    seeds: Annotated[int, typer.Option(help="Students of each method.")] = 3,
    segments: Annotated[int, typer.Option(help="Segments of each of ten participants.")] = 200,
    control_segments: Annotated[int, typer.Option(help="The same, in the control world.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the world and the teacher.")] = 0,
) -> None:
    """Render the demo world, extract its teacher, train and evaluate students, print the table.

    Exit code 1 if a check of the demo fails. Run it again to go on after an interruption.

    Example: egoctl demo run --out runs/demo
    """
    from egoctl.student.demo.demo import DemoConfig, run_demo

    config = DemoConfig(
        out=out, seed=seed, num_seeds=seeds, segments=segments, control_segments=control_segments
    )
    with stoppable("Stopped. Finished steps are kept; run the same command to go on."):
        result = run_demo(config, say)
    echo(result.lines())
    raise typer.Exit(0 if all(check.is_met for check in result.checks()) else FAILED_ITEMS)


@app.command("world")
def demo_world(
    out: Annotated[Path, typer.Option(help="Folder for videos/, imu/ and ANN.csv.")],
    segments: Annotated[int, typer.Option(help="Segments of each of ten participants.")] = 200,
    coupling: Annotated[
        Literal["normal", "zero"], typer.Option(help="zero: heads do not follow the hand.")
    ] = "normal",
    trajectories: Annotated[int, typer.Option(help="Segments to simulate undrawn as well.")] = 0,
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 0,
) -> None:
    """Render egocentric videos and the IMU of the heads that saw them.

    Example: egoctl demo world --out world
    """
    from egoctl.pipeline.datasets.rendered.motion import CouplingConfig
    from egoctl.pipeline.datasets.rendered.render import render_world
    from egoctl.pipeline.datasets.rendered.world import WorldConfig, write_trajectories
    from egoctl.pipeline.progress import Progress

    head = CouplingConfig() if coupling == "normal" else CouplingConfig.zero()
    config = WorldConfig(seed=seed, segments_per_participant=segments, coupling=head)
    with Progress(0, title="render", unit="video") as progress:
        ann_csv = render_world(config, out, on_progress=progress.reach)
    if trajectories:
        more = dataclasses.replace(config, segments_per_participant=trajectories)
        write_trajectories(more, out / "trajectories.npz")
    typer.echo(f"{ann_csv} and what it names.")
