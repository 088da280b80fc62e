"""Score a trained student on a split, beside its teacher, from the same stored targets."""

# N clips, S segments, C classes, W IMU samples, A IMU axes (6)

import dataclasses
import math
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import polars as pl
import torch
from torch import Tensor

from egoctl.pipeline.devices import keep_freed_memory, pick_device
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.whole_file import whole_file
from egoctl.pipeline.runs.checkpoint import find_checkpoint, load_weights
from egoctl.pipeline.runs.run_folder import write_json
from egoctl.pipeline.runs.run_place import CHECKPOINTS, RunPlace, run_folder_at
from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.sources import frame_loader, with_image_features
from egoctl.student.evaluation.metrics import ImuFrom, Metrics, metrics_of, teacher_segments
from egoctl.student.evaluation.predict import BATCH, Predictions, mean_over_segments, predict
from egoctl.student.model.student import Student, build_student
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.runs.run_data import Places, open_run_data
from egoctl.student.runs.run_record import read_run


def evaluate(
    run: Path | str,
    *,
    split: str = "test",
    imu: ImuFrom = "own",
    device: str = "cpu",
    manifest: str | None = None,
    inputs: str | None = None,
    teacher: str | None = None,
) -> Metrics:
    """Score the best checkpoint of the run, a path or URL; write predictions and metrics into it.

    manifest, inputs, teacher: paths or URLs; those that the run was trained with if not given.

    imu: each clip's own; "other", that of a clip of another segment; "zero", none. The last two
    show how much of an accuracy is due to the IMU. They, and every split but "test", get files of
    their own (metrics-val-imu-other.json).

    Raises:
        EgoctlError: if there is no such run or split, or nothing in it can be used.
        StoreMismatchError: if manifest or stores are not those that the run was trained on.
    """
    if imu not in get_args(ImuFrom):
        raise EgoctlError(f"imu is own, other or zero, got {imu!r}.")
    on = pick_device(device)
    with run_folder_at(str(run)) as place:
        places = Places(manifest=manifest, inputs=inputs, teacher=teacher)
        return _evaluate_in(place, split, imu, places, on)


def _evaluate_in(
    run: RunPlace, split: str, imu: ImuFrom, places: Places, device: torch.device
) -> Metrics:
    record = read_run(run)
    shape = record.student
    if imu != "own" and not shape.parts.uses_imu:
        raise EgoctlError(f"{run.url}: {shape.method} has no IMU to exchange; use --imu own.")
    keep_freed_memory(device)
    student = student_of(run, shape).to(device)
    found = open_run_data(run, record, split, places=places)
    config = found.config
    clips = with_image_features(found.clips, student, config, device)
    predictions = predict(
        student,
        clips,
        loader=frame_loader(clips, config, device, max_batch=BATCH),
        imu_NWA=exchanged_imu(clips, imu, seed=config.seed),
        device=device,
    )
    teacher_SC = teacher_segments(clips)
    metrics = metrics_of(shape, split, imu, clips, predictions, teacher_SC, found.sources)
    suffix = file_suffix(split, imu)
    _write_predictions(run.folder / f"predictions{suffix}.parquet", clips, predictions, teacher_SC)
    write_json(run.folder / f"metrics{suffix}.json", dataclasses.asdict(metrics))
    return metrics


def load_student(run: Path | str) -> Student:
    """The best student of the run at a path or URL, in eval mode.

    While it trains without a val split that is its last.

    Raises:
        EgoctlError: if there is none, or its weights are damaged.
    """
    with run_folder_at(str(run)) as place:
        return student_of(place, read_run(place).student)


def student_of(run: RunPlace, shape: StudentConfig) -> Student:
    """As load_student, for an open run with its record already read."""
    for name in ("best", "last"):
        if found := find_checkpoint(run.folder / CHECKPOINTS / name):
            break
    else:
        raise EgoctlError(f"{run.url} has no checkpoint yet. Go on with its training first.")
    where = run.name_of(found)
    # "random": all weights are in the checkpoint, nothing needs to be fetched.
    student = build_student(dataclasses.replace(shape, image_weights="random"), seed=0)
    try:
        student.load_state_dict(load_weights(found, where=where))
    except RuntimeError as error:
        raise EgoctlError(f"{where} does not fit the run's config: {error}") from error
    return student.eval()


def exchanged_imu(clips: ClipSet, imu: ImuFrom, *, seed: int) -> Tensor | None:
    """(N, W, A) the IMU each clip is shown; None if the method has none.

    "other" sends the segments round one random cycle, so none keeps its own.

    Raises:
        EgoctlError: for "other" with fewer than two segments.
    """
    if imu == "own" or clips.imu_NWA is None:
        return clips.imu_NWA
    if imu == "zero":
        return torch.zeros_like(clips.imu_NWA)
    clips_of: dict[int, list[int]] = {}
    for index, segment in enumerate(clips.segment_N.tolist()):
        clips_of.setdefault(segment, []).append(index)
    if len(clips_of) < 2:
        raise EgoctlError("--imu other needs at least two segments with clips.")
    present = sorted(clips_of)
    order = torch.randperm(len(present), generator=torch.Generator().manual_seed(seed)).tolist()
    source = torch.empty(len(clips), dtype=torch.int64)
    for place, here in enumerate(order):
        donors = clips_of[present[order[(place + 1) % len(order)]]]
        for number, index in enumerate(clips_of[present[here]]):
            source[index] = donors[number % len(donors)]
    return clips.imu_NWA[source]


def file_suffix(split: str, imu: ImuFrom) -> str:
    """The part of the names of predictions and metrics files before their dot."""
    # Quoted: a split's name may hold any characters, also a slash.
    of_split = "" if split == "test" else f"-{quote(split, safe='')}"
    return of_split + ("" if imu == "own" else f"-imu-{imu}")


def _write_predictions(
    file: Path, clips: ClipSet, predictions: Predictions, teacher_SC: Tensor | None
) -> None:
    """One row per segment with a clip, atomically."""
    student_SC = mean_over_segments(
        predictions.probability_NC, clips.segment_N, len(clips.segments)
    )
    rows = [
        {
            "segment_id": segment.segment_id,
            "label": segment.label,
            "predicted": int(student_SC[index].argmax()),
            "probabilities": student_SC[index].tolist(),
            "teacher_predicted": (
                None
                if teacher_SC is None or math.isnan(float(teacher_SC[index, 0]))
                else int(teacher_SC[index].argmax())
            ),
        }
        for index, segment in enumerate(clips.segments)
        if not math.isnan(float(student_SC[index, 0]))
    ]
    found = pl.DataFrame(
        rows,
        schema={
            "segment_id": pl.String,
            "label": pl.Int64,
            "predicted": pl.Int64,
            "probabilities": pl.List(pl.Float32),
            "teacher_predicted": pl.Int64,
        },
    )
    with whole_file(file) as part:
        found.write_parquet(part)
