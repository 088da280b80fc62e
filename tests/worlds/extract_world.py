"""A tiny world for tests of extraction: drawn videos, plain IMU files, a teacher of frame means."""

# B batch, C channels or classes, T frames, H height, W width, D feature width

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from egoctl.pipeline.datasets.folder import COLUMNS, FolderSource, read_annotations
from egoctl.pipeline.extraction.extract import PassConfig, extract
from egoctl.pipeline.extraction.plan import StoreConfig
from egoctl.pipeline.extraction.report import ExtractReport
from egoctl.pipeline.manifest import Manifest, write_manifest
from egoctl.pipeline.records import Clip, TeacherSpec, TeacherTargets
from egoctl.pipeline.sampling import frame_times
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers.protocol import targets
from egoctl.pipeline.teachers.weights import WeightsInfo
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms, number_picture

WINDOW_S = 2.0
NUM_CLASSES = 5
FEATURE_DIM = 48
"""3 channels x 4 frames x the 4 quarters of the picture."""
RUN = PassConfig(device=torch.device("cpu"), precision="fp32", batch_size=2)
CONFIG = StoreConfig(part_rows=4, dtype="float32", frame_px=64)


class MeanTeacher:
    """Feature: the mean of every channel, frame and quarter; logits: fixed sums of these."""

    def __init__(self, name: str = "means", *, num_classes: int = NUM_CLASSES) -> None:
        self.spec = TeacherSpec(
            name=name,
            num_frames=4,
            stride_s=0.4,
            short_side_px=48,
            crop_px=40,
            mean=(0.4, 0.5, 0.6),
            std=(0.2, 0.25, 0.3),
            channel_order="bgr",
            tap="head",
            feature_dim=FEATURE_DIM,
            num_classes=num_classes,
        )
        self.weights = WeightsInfo(
            source="file", sha256="0" * 64, is_random=False, class_names=None
        )
        self.head_DC = torch.sin(torch.arange(FEATURE_DIM * num_classes, dtype=torch.float32))
        self.head_DC = self.head_DC.view(FEATURE_DIM, num_classes)
        self.num_clips_seen = 0

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        self.num_clips_seen += len(video_BCTHW)
        return torch.nn.functional.adaptive_avg_pool3d(video_BCTHW, (4, 2, 2)).flatten(1)

    def logits(self, feature_BD: Tensor) -> Tensor:
        return feature_BD @ self.head_DC


def mean_teacher(name: str) -> MeanTeacher:
    """A teacher by name: small_means sees other frames, of another size; slow_means other frames
    of the same size; every other name is plain MeanTeacher."""
    teacher = MeanTeacher(name)
    if name == "small_means":
        teacher.spec = replace(
            teacher.spec, num_frames=6, stride_s=0.25, short_side_px=36, crop_px=32
        )
    if name == "slow_means":
        teacher.spec = replace(teacher.spec, num_frames=4, stride_s=0.5, channel_order="rgb")
    return teacher


def colour_picture(number: int) -> NDArray[np.uint8]:
    """number_picture over a background whose red, green and blue tell the number apart too."""
    picture = number_picture(number)
    picture[32:] = (number * 5 % 256, 255 - number * 3 % 256, number * 11 % 256)
    return picture


def draw_colours(path: Path, *, seconds: float, first: int = 0) -> Path:
    """Write a video of 30 fps whose frames are colour_pictures, counted from first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    num_frames = round(30 * seconds)
    pictures = [colour_picture(first + number) for number in range(num_frames)]
    return draw_video(path, even_times_ms(num_frames), pictures=pictures, movflags="faststart")


def write_imu(path: Path, *, seconds: float, seed: int = 0, **cells: tuple[int, str]) -> Path:
    """Write a plain IMU CSV of 200 Hz, a worn camera's; cells: column = (row, text) to put."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(200 * seconds)) / 200
    noise = np.random.default_rng(seed).normal(0, 0.5, (len(time_s), 6))
    noise += [9.8, 0, 0, 0, 0, 0]
    columns = ["time_s", "accel_x", "accel_y", "accel_z", "gyro_x", "gyro_y", "gyro_z"]
    rows = [
        [f"{t:.4f}", *(f"{value:.5f}" for value in values)]
        for t, values in zip(time_s, noise, strict=True)
    ]
    for column, (row, text) in cells.items():
        rows[row][columns.index(column)] = text
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def write_annotations(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write an ANN.csv; rows need segment_id, video, start_s and stop_s, the rest has defaults."""
    defaults = {"imu": "", "label": "", "split": "train", "participant_id": "P01"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([{**defaults, **row} for row in rows])
    return path


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A folder with videos/ and imu/, and where its manifest and stores lie."""

    folder: Path

    @property
    def videos(self) -> Path:
        return self.folder / "videos"

    @property
    def imu(self) -> Path:
        return self.folder / "imu"

    @property
    def manifest_path(self) -> Path:
        return self.folder / "clips.parquet"

    @property
    def teacher_url(self) -> str:
        return str(self.folder / "teacher.store")

    @property
    def inputs_url(self) -> str:
        return str(self.folder / "inputs.store")

    def manifest(
        self, rows: Sequence[Mapping[str, object]], *, stride_s: float | None = 0.5
    ) -> Manifest:
        """The manifest of these rows, through ANN.csv as a user makes it; also written."""
        ann_csv = write_annotations(self.folder / "ANN.csv", rows)
        source = FolderSource(
            videos=self.videos, imu=self.imu, window_s=WINDOW_S, stride_s=stride_s
        )
        manifest = read_annotations(ann_csv, source, manifest_folder=self.folder)
        write_manifest(manifest, self.manifest_path)
        return manifest

    def extract(self, manifest: Manifest, **changes: Any) -> ExtractReport:
        """Extraction with MeanTeacher into both stores, with these changes."""
        url = changes.pop("store_url", self.teacher_url)
        teacher = changes.pop("teacher", MeanTeacher())
        footage = changes.pop("trained_on", None)
        settings: dict[str, Any] = {
            "teachers": {} if url is None else {url: teacher}, "inputs_url": self.inputs_url,
            "config": CONFIG, "run": RUN,
            "trained_on": None if footage is None else {url: footage},
        }  # fmt: skip
        return extract(manifest, **settings | changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRow:
    """What a store says of one clip."""

    outcome: str | None
    reason: str | None
    imu_outcome: str | None
    imu_reason: str | None
    arrays: Mapping[str, NDArray[Any]]


def stored(url: str) -> dict[str, StoredRow]:
    """Every clip of a store by clip_id."""
    store = FeatureStore.open(url)
    table = store.rows()
    rows = table["row"].to_numpy().astype(np.int64)
    arrays = {name: store.read(name, rows) for name in store.array_specs()}
    return {
        row["clip_id"]: StoredRow(
            outcome=row["outcome"],
            reason=row["reason"],
            imu_outcome=row.get("imu_outcome"),
            imu_reason=row.get("imu_reason"),
            arrays={name: values[at] for name, values in arrays.items()},
        )
        for at, row in enumerate(table.iter_rows(named=True))
    }


def store_files(url: str) -> dict[str, bytes]:
    """Every file of a store by its path inside, to tell whether anything was touched."""
    root = Path(url)
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def assert_same_store(url: str, expected_url: str) -> None:
    """The same rows with the same outcomes, the same bits in every array, and nothing damaged."""
    rows, expected_rows = stored(url), stored(expected_url)
    assert list(rows) == list(expected_rows)
    for clip_id, row in rows.items():
        other = expected_rows[clip_id]
        assert (row.outcome, row.reason) == (other.outcome, other.reason), clip_id
        assert (row.imu_outcome, row.imu_reason) == (other.imu_outcome, other.imu_reason), clip_id
    store, expected_store = FeatureStore.open(url), FeatureStore.open(expected_url)
    for part in expected_store.parts():
        receipt, other_receipt = store.receipt(part.number), expected_store.receipt(part.number)
        assert receipt is not None and other_receipt is not None
        # Digests of whole shards: every bit of every array.
        assert receipt.shards == other_receipt.shards
    assert verify(url).faults == ()


def all_frames(video: Path) -> list[tuple[float, VideoFrame]]:
    """Every frame of a video with its time: the slow, obvious reader."""
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
    return [(float(frame.time or 0), frame) for frame in frames]


def shown_at(frames: list[tuple[float, VideoFrame]], time_s: float) -> tuple[float, VideoFrame]:
    """The last frame up to time_s (and a millisecond, for rounded times)."""
    return [(t, frame) for t, frame in frames if t <= time_s + 1e-3][-1]


def pixels(frame: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) RGB of a frame."""
    return np.asarray(
        frame.reformat(width, height, "rgb24", interpolation="BILINEAR").to_ndarray(), np.uint8
    )


def slow_targets(video: Path, clip: Clip, teacher: MeanTeacher) -> TeacherTargets:
    """What the teacher says of one clip, each frame picked and cut by hand."""
    frames = all_frames(video)
    picked = [shown_at(frames, float(t))[1] for t in frame_times(clip, 4, 0.4)]
    # 96 x 64 becomes 72 x 48, of which the middle 40 x 40 are looked at.
    cropped = [pixels(frame, 72, 48)[4:44, 16:56] for frame in picked]
    return targets(teacher, torch.from_numpy(np.stack(cropped)[None]))
