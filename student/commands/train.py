"""`egoctl train-student`: options to settings, settings to a run."""

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

# Written out: importing the records that hold these names would take seconds.
Method = Literal["egodistill", "visonly-distill", "imuonly-distill", "visimu", "visonly", "imuonly"]
Selection = Literal["uniform", "random", "first", "last", "center"]


def train_student(
    manifest: ManifestArg,
    inputs: InputsOption,
    run: RunOption,
    method: Annotated[Method, typer.Option(help="What the student sees and learns from.")],
    store: Annotated[str | None, typer.Option(help="Store of the teacher's targets.")] = None,
    pretrain: Annotated[
        str | None,
        typer.Option(help="Begin with the IMU encoder of this pretrain-imu run or file."),
    ] = None,
    train_split: Annotated[str | None, typer.Option(help="To train on, default train.")] = None,
    val_split: Annotated[
        str | None, typer.Option(help="That tells which epoch is best, default val.")
    ] = None,
    image_encoder: Annotated[
        str | None,
        typer.Option(help="resnet18, efficientnet_lite0, torchvision:NAME or timm:NAME."),
    ] = None,
    image_weights: Annotated[str | None, typer.Option(help="default, random or a file.")] = None,
    freeze_image_encoder: Annotated[
        bool | None, typer.Option("--freeze-image-encoder", help="Compute its features once.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames the student sees (1 to 4).")] = None,
    frame_selection: Annotated[
        Selection | None,
        typer.Option(
            help="Which of the K stored frames. uniform, the default: the paper's times; 1 needs "
            "odd K, 2 K = 2, 6, 10, 3 K = 3, 9, 15, 4 K = 4, 12, 20. random: anew every epoch. "
            "first, last, center: neighbours among them."
        ),
    ] = None,
    feature_cache: Annotated[
        Path | None,
        typer.Option(help="Keep a frozen encoder's features in this folder, for other runs."),
    ] = None,
    imu_readout: Annotated[str | None, typer.Option(help="mean, last or flatten.")] = None,
    imu_last_form: Annotated[
        Literal["exact", "full"] | None,
        typer.Option(help="Of last in training: exact (fast), or full (BatchNorm sees all steps)."),
    ] = None,
    imu_out: Annotated[
        int | None, typer.Option(help="Width of the IMU encoder's feature, default 512.")
    ] = None,
    fusion_hidden: Annotated[
        int | None, typer.Option(help="Width of the fusion's inner layer, default 1024.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="steps or onecycle; or a whole plan, of which given options win: epic (50 epochs, "
            "x0.1 at 30 and 40), ego4d (150, at 90 and 120, tau 10), short (30, onecycle, lr 1e-3)."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Default 50.")] = None,
    epoch_over: Annotated[
        Literal["clips", "segments"] | None,
        typer.Option(help="An epoch is all clips, or one random clip of each segment."),
    ] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="End after so many epochs without a better val top-1.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of all devices; default 64.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Shares to take a batch in, to save memory; default 1.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, default 1e-4.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW, default 0.01.")] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Decay of a moving average of the weights (0.999), which is evaluated."),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of KD against labels, 0.95.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the feature's L1, 1.0.")] = None,
    tau: Annotated[float | None, typer.Option(help="Temperature of KD, 1.0.")] = None,
    tau_squared: Annotated[
        bool | None, typer.Option("--tau-squared", help="Multiply KD by tau squared.")
    ] = None,
    l1_reduction: Annotated[
        Literal["norm", "mean"] | None,
        typer.Option(help="L1 summed over the feature's dimensions (norm), or their mean."),
    ] = None,
    standardise_targets: Annotated[
        bool | None,
        typer.Option("--standardise-targets", help="Mean 0, std 1 of features, before L1."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default 0.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    devices: Annotated[
        int | None, typer.Option(help="How many, a process each; torchrun's number wins.")
    ] = None,
    precision: Annotated[
        Literal["32-true", "bf16-mixed"] | None, typer.Option(help="Default 32-true.")
    ] = None,
    compile: Annotated[bool | None, typer.Option("--compile", help="Use torch.compile.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode frames.")] = None,
    cache_frames: Annotated[
        Literal["ram", "disk", "none"] | None,
        typer.Option(help="Where frames are kept: ram, disk (of this node), none (in the store)."),
    ] = None,
    save_every_steps: Annotated[
        int | None, typer.Option(help="Save within epochs too, not only when stopped there.")
    ] = None,
    allow_missing: Annotated[
        bool | None, typer.Option("--allow-missing", help="Leave out clips not extracted yet.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML of settings; options win.")] = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a student from stored targets, frames and IMU. No teacher is loaded.

    Run it again to go on after an interruption; the result is the same. Ctrl-C or SIGTERM saves
    after the present step.

    Example: egoctl train-student clips.parquet --store mvit.store --inputs inputs.store
    --run runs/first --method egodistill
    """
    from egoctl.student.settings.config_file import read_settings, train_config
    from egoctl.student.training.train import run_lines, train

    given = {
        "manifest": manifest, "inputs": inputs, "teacher": store, "run": run,
        "pretrain": pretrain, "method": method, "train_split": train_split, "val_split": val_split,
        "image_encoder": image_encoder, "image_weights": image_weights,
        "freeze_image_encoder": freeze_image_encoder, "feature_cache": feature_cache,
        "num_frames": frames, "frame_selection": frame_selection, "imu_readout": imu_readout,
        "imu_last_form": imu_last_form, "imu_out": imu_out, "fusion_hidden": fusion_hidden,
        "schedule": schedule, "num_epochs": epochs, "epoch_over": epoch_over,
        "early_stopping": early_stopping, "batch_size": batch_size,
        "accumulate": accumulate, "learning_rate": lr, "weight_decay": weight_decay,
        "ema_decay": ema, "alpha": alpha, "beta": beta, "tau": tau, "kd_tau_squared": tau_squared,
        "l1_reduction": l1_reduction, "standardise_targets": standardise_targets, "seed": seed,
        "device": device, "num_devices": devices, "precision": precision, "compile": compile,
        "num_workers": workers, "cache_frames": cache_frames,
        "save_every_steps": save_every_steps, "allow_missing": allow_missing,
    }  # fmt: skip
    settings = read_settings(config) if config else {}
    options = {name: value for name, value in given.items() if value is not None}
    with stoppable("Stopped. What was said to be saved is; run the same command to go on."):
        result = train(train_config(settings | options))
    echo([as_text(result)] if as_json else run_lines(result))
