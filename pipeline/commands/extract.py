"""`egoctl extract-teacher`: options to a job and where it runs."""

from typing import Annotated, Literal

import typer

from egoctl.pipeline.commands.options import (
    FAILED_ITEMS,
    DeviceOption,
    EndpointOption,
    JsonOption,
    ManifestArg,
    as_text,
    echo,
    stoppable,
    warn,
)


def extract_teacher(
    manifest: ManifestArg,
    store: Annotated[
        list[str],
        typer.Option(help="Store of the teacher's targets: path or URL; one for each --teacher."),
    ],
    teacher: Annotated[
        list[str],
        typer.Option(
            help="Name of the network; 'egoctl teachers list' lists them. Repeat it with --store "
            "to fill several stores in one pass over the videos."
        ),
    ] = ["motionformer"],  # noqa: B006
    weights: Annotated[
        list[str],
        typer.Option(
            help="'default' (published), a checkpoint file, or 'random:SEED'; once, or one for "
            "each --teacher."
        ),
    ] = ["default"],  # noqa: B006
    inputs: Annotated[str | None, typer.Option(help="Store of the student's inputs.")] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(
            help="MANIFEST[#SPLIT] the weights were fitted to, if they do not record it; once, or "
            "one for each --teacher."
        ),
    ] = None,
    reuse: Annotated[
        list[str] | None, typer.Option(help="Store to copy known rows from; may be repeated.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what there is to do.")] = False,
    parts: Annotated[str, typer.Option(help="I/N: only the I-th of N shares (Slurm).")] = "1/1",
    wait: Annotated[
        bool, typer.Option(help="Wait for parts that other processes are at work on.")
    ] = True,
    lease: Annotated[
        float, typer.Option(help="Seconds until a silent process's parts are free again.")
    ] = 180.0,
    devices: Annotated[
        str | None, typer.Option(help="A process each: all, or 0,1 (GPUs), or cpu,cpu.")
    ] = None,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Where the work runs.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; default: here.")] = None,
    workers: Annotated[int | None, typer.Option(help="Ray actors; default: one per GPU.")] = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str, typer.Option(help="auto (bf16 on capable GPUs), fp32, bf16.")
    ] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    force_precision: Annotated[
        bool, typer.Option("--force-precision", help="Store targets that differ from fp32's.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(help="Clips per batch; default: found.")] = None,
    decoders: Annotated[int | None, typer.Option(help="Decoder threads; default: found.")] = None,
    decoder: Annotated[
        str, typer.Option(help="pyav, torchcodec, torchcodec-cuda, or auto: the fastest here.")
    ] = "pyav",
    part_rows: Annotated[int, typer.Option(help="Clips per part, fixed at creation.")] = 512,
    dtype: Annotated[str, typer.Option(help="Stored targets: float16 or float32.")] = "float16",
    frames: Annotated[int, typer.Option(help="Frames per clip kept for students.")] = 3,
    frame_px: Annotated[int, typer.Option(help="Side of those frames, pixels.")] = 224,
    jpeg_quality: Annotated[int, typer.Option(help="Of those frames, 1 to 100.")] = 92,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store the teacher's features and logits, and the students' inputs, of every clip.

    Run it again to go on where it was stopped, or run it many times at once, on any machines:
    what is stored is never computed twice. With several teachers, each with a store of its own,
    every video is decoded once for all of them.

    Example: egoctl extract-teacher clips.parquet --teacher mvit_v2_s --store mvit.store
    --inputs inputs.store
    """
    from egoctl.pipeline.devices import pick_device
    from egoctl.pipeline.extraction.extract import WorkConfig
    from egoctl.pipeline.extraction.job import ExtractJob, target_stores
    from egoctl.pipeline.extraction.part_pass import PassConfig
    from egoctl.pipeline.extraction.part_queue import PartShare
    from egoctl.pipeline.extraction.placement import Placement, footage_named, run_extraction
    from egoctl.pipeline.extraction.plan import StoreConfig
    from egoctl.pipeline.manifest import read_manifest

    run = PassConfig(
        device=pick_device(device),
        precision=precision,
        compile=compile,
        force_precision=force_precision,
        batch_size=batch_size,
        num_decoders=decoders,
    )
    config = StoreConfig(
        part_rows=part_rows,
        dtype=dtype,
        frames_per_clip=frames,
        frame_px=frame_px,
        jpeg_quality=jpeg_quality,
    )
    work = WorkConfig(
        share=PartShare.from_text(parts), waits=wait, lease_s=lease, reuse=tuple(reuse or ())
    )
    footage = [footage_named(text) for text in trained_on or ()]
    targets = target_stores(teacher, store, weights, footage)
    placement = Placement(devices=devices, engine=engine, address=address, num_workers=workers)
    with stoppable("Stopped. Every finished part is stored; run the same command to go on."):
        job = ExtractJob(
            manifest=read_manifest(manifest),
            targets=targets,
            inputs=inputs,
            config=config,
            run=run,
            work=work,
        ).decoded_with(decoder, say=warn)
        found = run_extraction(job, placement, only_plan=plan, warn=warn)
    echo([as_text(found.record)] if as_json else found.lines)
    raise typer.Exit(0 if found.is_clean else FAILED_ITEMS)
