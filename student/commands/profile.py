"""`egoctl profile`: a student's size, speed and memory beside a teacher's."""

from typing import Annotated

import typer

from egoctl.pipeline.commands.options import (
    DeviceOption,
    EndpointOption,
    JsonOption,
    as_text,
    echo,
    stoppable,
)


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
