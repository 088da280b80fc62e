"""A tiny world for tests of training: a manifest, an inputs store and a teacher store on disk.

Class c is told by the sign pattern of the IMU and by the grey level of the frame, so that a
student can learn it in a few steps; the teacher's logits know it too.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import simplejpeg
from torch import Tensor

from egoctl.pipeline.manifest import Manifest, write_manifest
from egoctl.pipeline.recipe import Json
from egoctl.pipeline.records import Clip, RowOutcome, Segment
from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import StoreRow, clip_key
from egoctl.pipeline.store.header import BYTES, ArraySpec, StoreHeader
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.settings.train_config import TrainConfig
from egoctl.student.training.train import train

CLASS_NAMES = ("cut", "stir", "wash")
TEACHER_DIM = 8
IMU_SAMPLES = 40
FRAMES = 3
PART_ROWS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where everything lies, and what was put there."""

    folder: Path
    manifest: Manifest
    clips: list[Clip]
    teacher: FeatureStore
    inputs: FeatureStore

    def config(self, run="run", **changes) -> TrainConfig:
        """An ImuOnly-Distill run of two epochs, changed as told."""
        plain = TrainConfig(
            manifest=str(self.folder / "manifest.parquet"),
            inputs=self.inputs.url,
            teacher=self.teacher.url,
            run=str(self.folder / run),
            student=StudentConfig(
                method="imuonly-distill",
                image_weights="random",
                imu_out=16,
                imu_readout="last",
                fusion_hidden=16,
            ),
            loss=LossConfig(),
            num_epochs=2,
            batch_size=6,
            learning_rate=1e-2,
            device="cpu",
        )
        student = changes.pop("student", {})
        return replace(plain, student=replace(plain.student, **student), **changes)


def make_world(
    folder: Path,
    *,
    splits=("train", "val", "test"),
    segments_of_split=9,
    class_names=CLASS_NAMES,
    teacher_classes=CLASS_NAMES,
    unlabelled=(),
    failed=None,
    without_imu=(),
    done_parts=None,
    teacher_key_salt="",
    teacher_logits: Callable[[Clip, int], np.ndarray] | None = None,
    head_sizes=None,
    trained_on: TrainedOn | None = None,
) -> World:
    """Segments of 3 s with two clips of 2 s each; label = index % 3. Stores there are grow.

    failed: {segment_id: code} of both stores. done_parts: of the teacher store, the parts that
    are written (None: all). teacher_logits: in place of logits_of.
    """
    segments = tuple(
        Segment(
            segment_id=f"{split}-{index}",
            video_id=f"video-{split}-{index}",
            video_path=f"{split}-{index}.mp4",
            imu_path="imu.csv",
            participant_id="P01",
            start_s=1.0,
            stop_s=4.0,
            label=None if f"{split}-{index}" in unlabelled else index % 3,
            split=split,
        )
        for split in splits
        for index in range(segments_of_split)
    )
    manifest = Manifest(
        segments=segments,
        class_names=class_names,
        dataset_name="tiny",
        window_s=2.0,
        stride_s=1.0,
        root=folder,
    )
    write_manifest(manifest, folder / "manifest.parquet")
    clips = manifest.clips()
    teacher = _teacher_store(
        folder,
        clips,
        teacher_classes,
        failed or {},
        done_parts,
        teacher_key_salt,
        logits_of_clip=teacher_logits or logits_of,
        head_sizes=head_sizes,
        trained_on=trained_on,
    )
    inputs = _inputs_store(folder, clips, failed or {}, without_imu)
    return World(folder=folder, manifest=manifest, clips=clips, teacher=teacher, inputs=inputs)


def class_of(clip: Clip) -> int:
    """The truth, also of segments without a label."""
    return int(clip.segment_id.rsplit("-", 1)[1]) % 3


def feature_of(clip: Clip) -> np.ndarray:
    """(TEACHER_DIM,) what the teacher store holds of a clip."""
    feature = np.zeros(TEACHER_DIM, dtype=np.float32)
    feature[class_of(clip)] = 2.0
    feature[-1] = clip.start_s
    return feature


def logits_of(clip: Clip, num_classes: int) -> np.ndarray:
    """(num_classes,) sure of the class, except of segment test-8, which it takes for class 0."""
    wrong = clip.segment_id == "test-8"
    logits = np.zeros(num_classes, dtype=np.float32)
    logits[0 if wrong else class_of(clip)] = 4.0
    return logits


def jpeg_of(clip: Clip, frame: int) -> bytes:
    """A 32 x 32 grey frame, lighter with the class, a little with the frame and the split."""
    split = ("train", "val", "test").index(clip.segment_id.rsplit("-", 1)[0])
    level = 60 * class_of(clip) + 10 * frame + 3 * split + 20
    jpeg: bytes = simplejpeg.encode_jpeg(np.full((32, 32, 3), level, dtype=np.uint8), quality=95)
    return jpeg


def imu_of(clip: Clip, row: int) -> np.ndarray:
    """(IMU_SAMPLES, 6) mean 0 per axis; axis = class carries a ramp."""
    imu = np.random.default_rng(row).normal(0, 0.1, (IMU_SAMPLES, 6))
    imu[:, class_of(clip)] += np.linspace(-2, 2, IMU_SAMPLES)
    centred: np.ndarray = (imu - imu.mean(axis=0)).astype(np.float32)
    return centred


def rewrite_part(store: FeatureStore, number: int) -> None:
    """As if the part had been lost, and computed again to other values."""
    part = store.parts()[number]
    rows = np.arange(part.first_row, part.first_row + part.num_rows)
    arrays = {spec.name: store.read(spec.name, rows) for spec in store.header.arrays}
    name = "feature" if store.header.kind == "teacher" else "imu"
    arrays[name] = arrays[name] + arrays[name].dtype.type(0.5)
    receipt = store.receipt(number)
    assert receipt is not None
    for spec in store.header.arrays:
        store.place.delete(spec.shard_name(number))
    store.place.delete(f"parts/{number:05}.json")
    again = FeatureStore.open(store.url)
    again.write_part(part, arrays, receipt.outcomes, seconds={}, versions={})
    again.close()


def weights(run: Path | str, name="last") -> dict[str, Tensor]:
    """Of a run in a folder of this machine."""
    return safetensors.torch.load_file(Path(run) / "checkpoints" / name / "model.safetensors")


def metric_rows(run: Path | str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def killed_in_epoch(config: TrainConfig, epoch: int, monkeypatch) -> None:
    """Train until that epoch begins."""
    real = EpochLoop._train_epoch

    def dies(self, number, stop):
        if number == epoch:
            raise KeyboardInterrupt
        return real(self, number, stop)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochLoop, "_train_epoch", dies)
        train(config)


def _rows(clips: list[Clip], salt: str = "") -> list[StoreRow]:
    return [
        StoreRow(
            clip_id=clip.clip_id,
            segment_id=clip.segment_id,
            video_id=clip.video_id,
            start_s=clip.start_s,
            stop_s=clip.stop_s,
            clip_key=clip_key(clip.video_id + salt, clip.start_s, clip.stop_s),
        )
        for clip in clips
    ]


def _outcomes(clips, failed) -> list[RowOutcome]:
    return [
        RowOutcome(code=failed[clip.segment_id], reason="told so")
        if clip.segment_id in failed
        else RowOutcome()
        for clip in clips
    ]


def _teacher_store(
    folder, clips, class_names, failed, done_parts, salt, *, logits_of_clip, head_sizes, trained_on
) -> FeatureStore:
    num_classes = len(class_names)
    recipe: dict[str, Json] = {"teacher": "tiny", "classes": num_classes}
    if head_sizes is not None:
        recipe["head_sizes"] = list(head_sizes)
    store = FeatureStore.create(
        str(folder / "teacher.store"),
        StoreHeader(
            kind="teacher",
            recipe=recipe,
            class_names=class_names,
            part_rows=PART_ROWS,
            trained_on=trained_on,
        ),
        (
            ArraySpec(name="feature", dtype="float16", row_shape=(TEACHER_DIM,), chunk_rows=4),
            ArraySpec(name="logits", dtype="float32", row_shape=(num_classes,), chunk_rows=4),
        ),
    )
    store.append(_rows(clips, salt))
    of_id = {clip.clip_id: clip for clip in clips}
    for part in store.parts_to_do():
        if done_parts is not None and part.number not in done_parts:
            continue
        here = [of_id[clip_id] for clip_id in part.clip_ids]
        feature = np.stack([feature_of(clip) for clip in here])
        logits = np.stack([logits_of_clip(clip, num_classes) for clip in here])
        lost = [clip.segment_id in failed for clip in here]
        feature[lost], logits[lost] = np.nan, np.nan
        store.write_part(
            part,
            {"feature": feature, "logits": logits},
            {"outcome": _outcomes(here, failed)},
            seconds={},
            versions={},
        )
    return store


def _inputs_store(folder, clips, failed, without_imu) -> FeatureStore:
    store = FeatureStore.create(
        str(folder / "inputs.store"),
        StoreHeader(
            kind="inputs", recipe={"frames": FRAMES}, class_names=None, part_rows=PART_ROWS
        ),
        (
            ArraySpec(name="frames", dtype=BYTES, row_shape=(FRAMES,), chunk_rows=4),
            ArraySpec(name="frame_time", dtype="float64", row_shape=(FRAMES,), chunk_rows=4),
            ArraySpec(name="imu", dtype="float32", row_shape=(IMU_SAMPLES, 6), chunk_rows=4),
            ArraySpec(name="imu_mean", dtype="float32", row_shape=(6,), chunk_rows=4),
        ),
    )
    store.append(_rows(clips))
    of_id = {clip.clip_id: (row, clip) for row, clip in enumerate(clips)}
    for part in store.parts_to_do():
        here = [of_id[clip_id] for clip_id in part.clip_ids]
        frames = np.empty((len(here), FRAMES), dtype=object)
        times = np.empty((len(here), FRAMES))
        for index, (_, clip) in enumerate(here):
            frames[index] = [jpeg_of(clip, frame) for frame in range(FRAMES)]
            bins = (np.arange(FRAMES) + 0.5) / FRAMES
            times[index] = clip.start_s + bins * (clip.stop_s - clip.start_s)
        no_imu = dict.fromkeys(without_imu, "imu_none")
        store.write_part(
            part,
            {
                "frames": frames,
                "frame_time": times,
                "imu": np.stack([imu_of(clip, row) for row, clip in here]),
                "imu_mean": np.zeros((len(here), 6), dtype=np.float32),
            },
            {
                "outcome": _outcomes([clip for _, clip in here], failed),
                "imu_outcome": _outcomes([clip for _, clip in here], no_imu),
            },
            seconds={},
            versions={},
        )
    return store
