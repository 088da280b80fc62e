"""The commands. Each turns strings into records, calls one function and prints its result.

Torch and friends are imported inside the commands: they take seconds, `--help` should not.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from egoctl.pipeline import teacher_training_command
from egoctl.pipeline.commands import extract as extract_command
from egoctl.pipeline.commands import manifest as manifest_commands
from egoctl.pipeline.commands import store as store_commands
from egoctl.pipeline.commands import teachers as teacher_commands
from egoctl.pipeline.commands.options import (
    FAILED_ITEMS,
    WRONG_USE,
    DeviceOption,
    EndpointOption,
    JsonOption,
    as_text,
    echo,
    say,
    stoppable,
)
from egoctl.pipeline.errors import EgoctlError
from egoctl.student.commands import analyse as analysis_command
from egoctl.student.commands import pretrain as pretrain_command
from egoctl.student.commands import submission as submission_command
from egoctl.student.commands import train as train_command
from egoctl.student.commands.options import InputsCopyOption, RunArg, TeacherCopyOption

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run the heavy video teacher once; train light students from what it said.",
)
demo_app = typer.Typer(no_args_is_help=True, help="The demo world, and the whole job on it.")
app.add_typer(manifest_commands.app, name="manifest")
app.add_typer(store_commands.app, name="store")
app.add_typer(teacher_commands.app, name="teachers")
app.add_typer(submission_command.app, name="submission")
app.add_typer(demo_app, name="demo")
app.command("finetune-teacher")(teacher_training_command.finetune_teacher)
app.command("extract-teacher")(extract_command.extract_teacher)
app.command("pretrain-imu")(pretrain_command.pretrain_imu)
app.command("train-student")(train_command.train_student)
app.command()(analysis_command.analyse)


@app.command()
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
        run, split=split, imu=imu, manifest=manifest, inputs=inputs, teacher=store
    )
    echo([as_text(metrics)] if as_json else metrics_lines(metrics))


@app.command()
def profile(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's student; else the options'.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="A teacher to put beside it.")] = None,
    method: Annotated[str | None, typer.Option(help="Default egodistill.")] = None,
    image_encoder: Annotated[str | None, typer.Option(help="Default resnet18.")] = None,
    frames: Annotated[int | None, typer.Option(help="Default 1.")] = None,
    imu_readout: Annotated[str | None, typer.Option(help="mean, last or flatten.")] = None,
    teacher_dim: Annotated[int | None, typer.Option(help="Feature width, default 768.")] = None,
    classes: Annotated[int | None, typer.Option(help="Default 97.")] = None,
    frame_px: Annotated[int, typer.Option(help="Side of the student's frames, pixels.")] = 224,
    batch: Annotated[str | None, typer.Option(help="Clips per batch, default 1,32.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Timings of each, default 5.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Batch 1, timed once, no memory.")] = False,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Parameters, GFLOPs, latency, throughput and memory of a student, beside a teacher's.

    Weights are random: none of it depends on them. A heavy teacher at batch 32 takes minutes on
    a CPU.

    Example: egoctl profile runs/first --teacher mvit_v2_s
    """
    from egoctl.pipeline.profiling.network_profile import ProfileConfig, machine_profile
    from egoctl.pipeline.profiling.network_profile import profile as profile_networks
    from egoctl.pipeline.profiling.profiled_teacher import ProfiledTeacher
    from egoctl.pipeline.profiling.report import profile_report, report_lines
    from egoctl.student.evaluation.profiled import profiled_student

    config = ProfileConfig.from_options(
        device=device, precision=precision, batch=batch, repeats=repeats, quick=quick
    )
    shape = {
        "method": method, "image_encoder": image_encoder, "num_frames": frames,
        "imu_readout": imu_readout, "teacher_dim": teacher_dim, "num_classes": classes,
    }  # fmt: skip
    student = profiled_student(run, shape, frame_px=frame_px)
    teachers = [] if teacher is None else [ProfiledTeacher(name=teacher)]
    with stoppable("Stopped."):
        found = profile_networks([student, *teachers], config)
    report = profile_report(machine_profile(config), found)
    echo([as_text(report)] if as_json else report_lines(report))


@app.command()
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
        bool, typer.Option("--dry-run", help="Only say what there is to do.")
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
    from egoctl.student.studies.plan_file import read_plan
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


@demo_app.command("run")
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


@demo_app.command("world")
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
    from egoctl.pipeline.datasets.rendered.trajectories import write_trajectories
    from egoctl.pipeline.datasets.rendered.world import WorldConfig
    from egoctl.pipeline.progress import Progress

    head = CouplingConfig() if coupling == "normal" else CouplingConfig.zero()
    config = WorldConfig(seed=seed, segments_per_participant=segments, coupling=head)
    with Progress(0, title="render", unit="video") as progress:
        ann_csv = render_world(config, out, on_progress=progress.reach)
    if trajectories:
        more = dataclasses.replace(config, segments_per_participant=trajectories)
        write_trajectories(more, out / "trajectories.npz")
    typer.echo(f"{ann_csv} and what it names.")


def main() -> None:
    """Run a command; a user's mistake or a full disk becomes one line and exit code 2."""
    try:
        app()
    except (EgoctlError, OSError) as error:
        typer.secho(f"egoctl: {error}", fg="red", err=True)
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    main()
