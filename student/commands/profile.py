"""`egoctl profile`: a student's size, speed and memory beside a teacher's."""

from typing import Annotated, Any

import typer

from egoctl.pipeline.commands.options import (
    DeviceOption,
    EndpointOption,
    JsonOption,
    as_text,
    echo,
    stoppable,
)
from egoctl.pipeline.commands.record_options import options_of
from egoctl.student.model.student_config import StudentConfig

OF_WEIGHTS = ("image_weights", "freeze_image_encoder", "frame_selection", "imu_last_form",
              "imu_out", "imu_samples", "fusion_hidden")  # fmt: skip
"""What no option sets: it changes no cost, or a run's own is profiled."""


@options_of(StudentConfig, left_out=OF_WEIGHTS, only_given=True)
def profile(
    shape: dict[str, Any],
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's student; else the options'.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="A teacher to put beside it.")] = None,
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
    student = profiled_student(run, shape, frame_px=frame_px)
    teachers = [] if teacher is None else [ProfiledTeacher(name=teacher)]
    with stoppable("Stopped."):
        found = profile_networks([student, *teachers], config)
    report = profile_report(machine_profile(config), found)
    echo([as_text(report)] if as_json else report_lines(report))
