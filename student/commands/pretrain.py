"""`egoctl pretrain-imu`: options to a pretraining run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from egoctl.pipeline.commands.options import (
    EndpointOption,
    JsonOption,
    ManifestArg,
    as_text,
    echo,
    stoppable,
)
from egoctl.student.commands.options import InputsOption, RunOption


def pretrain_imu(
    manifest: ManifestArg,
    inputs: InputsOption,
    run: RunOption,
    store: Annotated[
        str | None, typer.Option(help="Store of the teacher's targets, for L1.")
    ] = None,
    losses: Annotated[
        Literal["nce+l1", "nce", "l1"],
        typer.Option(help="nce: tell IMU from two frames. l1: match the teacher's feature."),
    ] = "nce+l1",
    splits: Annotated[
        str, typer.Option(help="Splits to learn from, as in train,unlabelled. Labels do not count.")
    ] = "train",
    val_split: Annotated[str, typer.Option(help="Decides which epoch is best, if any.")] = "val",
    epochs: Annotated[int, typer.Option(help="Rounds over the clips.")] = 50,
    batch_size: Annotated[
        int, typer.Option(help="Of all devices; the others of a batch are a clip's negatives.")
    ] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.01,
    schedule: Annotated[
        Literal["steps", "onecycle"],
        typer.Option(help="steps: x 0.1 at 60 and 80 % of the epochs."),
    ] = "steps",
    temperature: Annotated[float, typer.Option(help="Of NCE.")] = 0.1,
    l1_reduction: Annotated[
        Literal["norm", "mean"],
        typer.Option(help="L1 summed over the feature's dimensions (norm), or their mean."),
    ] = "norm",
    standardise_targets: Annotated[
        bool, typer.Option("--standardise-targets", help="Mean 0, std 1 of features, before L1.")
    ] = False,
    image_encoder: Annotated[
        str, typer.Option(help="resnet18, efficientnet_lite0, torchvision:NAME or timm:NAME.")
    ] = "resnet18",
    image_weights: Annotated[str, typer.Option(help="default, random or a file.")] = "default",
    frames: Annotated[int, typer.Option(help="Frames that the student will see (1 to 4).")] = 1,
    frame_selection: Annotated[
        Literal["uniform", "random", "first", "last", "center"],
        typer.Option(help="Which of the stored frames these are."),
    ] = "uniform",
    imu_readout: Annotated[
        Literal["mean", "last", "flatten"], typer.Option(help="Of the IMU encoder.")
    ] = "mean",
    imu_out: Annotated[int, typer.Option(help="Width of the IMU encoder's feature.")] = 512,
    fusion_hidden: Annotated[int, typer.Option(help="Width of the fusion's inner layer.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out clips not extracted yet.")
    ] = False,
    feature_cache: Annotated[
        Path | None, typer.Option(help="Keep image features in this folder, for other runs.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="auto, cpu, cuda or mps.")
    ] = "auto",
    devices: Annotated[int, typer.Option(help="How many, a process each.")] = 1,
    precision: Annotated[
        Literal["32-true", "bf16-mixed"], typer.Option(help="Of the computing.")
    ] = "32-true",
    workers: Annotated[int, typer.Option(help="Processes that decode frames, once.")] = 0,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pretrain a student's IMU encoder and fusion, without labels. No teacher is loaded.

    Writes RUN/pretrained.safetensors for 'train-student --pretrain RUN'. Run it again to go on
    after an interruption; the result is the same.

    Example: egoctl pretrain-imu clips.parquet --store mvit.store --inputs inputs.store
    --run runs/imu --splits train,unlabelled
    """
    from egoctl.student.model.student_config import StudentConfig
    from egoctl.student.pretraining.pretrain import pretrain
    from egoctl.student.settings.pretrain_config import PretrainConfig

    student = StudentConfig(
        image_encoder=image_encoder, image_weights=image_weights, num_frames=frames,
        frame_selection=frame_selection, imu_readout=imu_readout, imu_out=imu_out,
        fusion_hidden=fusion_hidden,
    )  # fmt: skip
    config = PretrainConfig(
        manifest=manifest, inputs=inputs, teacher=store, run=run, student=student,
        losses=losses, splits=tuple(name.strip() for name in splits.split(",") if name.strip()),
        val_split=val_split, num_epochs=epochs, batch_size=batch_size, learning_rate=lr,
        weight_decay=weight_decay, schedule=schedule, temperature=temperature,
        l1_reduction=l1_reduction, standardise_targets=standardise_targets, seed=seed,
        allow_missing=allow_missing, feature_cache=feature_cache, device=device,
        num_devices=devices, precision=precision, num_workers=workers,
    )  # fmt: skip
    with stoppable("Stopped. The last finished epoch is saved; run the same command to go on."):
        result = pretrain(config)
    echo([as_text(result)] if as_json else result.lines())
