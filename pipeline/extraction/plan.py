"""Which stores an extraction fills: their headers, arrays and views, and the rows of each."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.files.place import is_remote, local_path
from egoctl.pipeline.imu.recording import imu_files
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.imu.telemetry import check_telemetry_package
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import ClipSource, InputsView, TeacherView, teacher_view
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.sampling import num_imu_samples
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import StoreRow, clip_key
from egoctl.pipeline.store.feature_store import LEASE_S
from egoctl.pipeline.store.header import BYTES, ArraySpec, StoreHeader
from egoctl.pipeline.store.outcomes import streams_of_kind
from egoctl.pipeline.teachers.protocol import Teacher
from egoctl.pipeline.teachers.weights import WeightsInfo
from egoctl.pipeline.trained_on import TrainedOn, refuse_other_footage
from egoctl.pipeline.video.decoder_choice import DecoderName, decoder_named, recipe_fields
from egoctl.pipeline.video.pyav_clips import video_digest

CODE_REVISION = 2
"""Raised whenever a change of this code changes stored values."""
DTYPES = ("float16", "float32")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreConfig:
    """What people may choose about the stores."""

    part_rows: int = 512
    dtype: str = "float16"
    frames_per_clip: int = 3
    """Odd, so that the centre frame is among them."""
    frame_px: int = 224
    jpeg_quality: int = 92
    decoder: DecoderName = "pyav"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise EgoctlError(f"--dtype must be {' or '.join(DTYPES)}, got {self.dtype!r}.")
        for name, low, high in (
            ("part_rows", 1, 1 << 20), ("frames_per_clip", 1, 64), ("frame_px", 16, 1024),
            ("jpeg_quality", 1, 100),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise EgoctlError(
                    f"--{name.replace('_', '-')} must be {low} to {high}, "
                    f"got {getattr(self, name)}."
                )
        decoder_named(self.decoder)


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledStore:
    """A store that a run fills: what it holds, and which teacher computes that."""

    name: str
    """Its name within the run: inputs, teacher, or, where there are several teachers, its URL."""
    url: str
    view: TeacherView | InputsView
    header: StoreHeader
    arrays: tuple[ArraySpec, ...]
    teacher: Teacher | None = None
    """None: it is the inputs store."""
    trained_on: TrainedOn | None = None
    """What the teacher has seen, as given by whoever runs it."""

    @property
    def streams(self) -> tuple[str, ...]:
        """The outcomes that a row of it has."""
        return streams_of_kind(self.header.kind)

    @property
    def title(self) -> str:
        """What it is called in sentences."""
        return {"teacher": "the teacher's store", "inputs": "the inputs store"}.get(
            self.name, self.url
        )

    def made(self, *, lease_s: float = LEASE_S) -> FeatureStore:
        """The store itself, made if it is not there.

        Raises:
            StoreMismatchError: if another one is there.
        """
        store = FeatureStore.create(self.url, self.header, self.arrays, lease_s=lease_s)
        refuse_other_footage(store.url, stored=store.header.trained_on, given=self.trained_on)
        return store

    def rows_of(self, rows: Sequence[StoreRow]) -> Sequence[StoreRow]:
        """The rows as this store has them: a teacher looks at no IMU."""
        return rows if self.teacher is None else [replace(row, imu_key=None) for row in rows]


def filled_stores(
    manifest: Manifest,
    teachers: Mapping[str, Teacher],
    inputs_url: str | None,
    config: StoreConfig,
    *,
    precision: str,
    is_compiled: bool,
    trained_on: Mapping[str, TrainedOn] | None = None,
) -> dict[str, FilledStore]:
    """The stores of a run by name: those of the teachers, by URL, and last the inputs store.

    Raises:
        EgoctlError: if two of them are one; if IMU recordings lie inside videos and the package
            that reads them is not installed.
    """
    window_s = manifest.window_s
    urls = [*teachers, *([] if inputs_url is None else [inputs_url])]
    refuse_shared_places(urls)
    stores = []
    for url, teacher in teachers.items():
        view = teacher_view(teacher.spec, window_s)
        given = (trained_on or {}).get(url)
        header = teacher_header(
            teacher.spec,
            teacher.weights,
            view,
            config,
            precision=precision,
            is_compiled=is_compiled,
        )
        stores.append(
            FilledStore(
                name=url if len(teachers) > 1 else "teacher",
                url=url,
                view=view,
                header=replace(header, trained_on=given or header.trained_on),
                arrays=teacher_arrays(teacher.spec, config),
                teacher=teacher,
                trained_on=given,
            )
        )
    if inputs_url is not None:
        recordings = {segment.imu_path for segment in manifest.segments if segment.imu_path}
        check_telemetry_package(Path(manifest.media(path).url) for path in recordings)
        inputs = inputs_view(config, window_s)
        stores.append(
            FilledStore(
                name="inputs",
                url=inputs_url,
                view=inputs,
                header=inputs_header(inputs, config),
                arrays=inputs_arrays(inputs),
            )
        )
    return {store.name: store for store in stores}


def refuse_shared_places(urls: Sequence[str]) -> None:
    """Check that no two stores of a run lie in one place.

    Raises:
        EgoctlError: if two do.
    """
    seen: set[str] = set()
    for url in urls:
        place = url.rstrip("/") if is_remote(url) else os.path.realpath(local_path(url))
        if place in seen:
            raise EgoctlError(f"{url} is given for two stores. Give each store its own place.")
        seen.add(place)


def inputs_view(config: StoreConfig, window_s: float) -> InputsView:
    return InputsView(
        num_frames=config.frames_per_clip,
        frame_px=config.frame_px,
        jpeg_quality=config.jpeg_quality,
        imu_samples=num_imu_samples(window_s, RATE_HZ),
    )


def teacher_header(
    spec: TeacherSpec,
    weights: WeightsInfo,
    view: TeacherView,
    config: StoreConfig,
    *,
    precision: str,
    is_compiled: bool = False,
) -> StoreHeader:
    """The header of a teacher store. Its recipe has no path, host or time in it."""
    return StoreHeader(
        kind="teacher",
        recipe={
            "teacher": spec.name,
            "code_revision": CODE_REVISION,
            "weights_sha256": weights.sha256,
            "weights_are_random": weights.is_random,
            "tap": spec.tap,
            "num_frames": view.num_frames,
            "stride_s": round(view.stride_s, 6),
            "short_side_px": spec.short_side_px,
            "crop_px": spec.crop_px,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "channel_order": spec.channel_order,
            **recipe_fields(config.decoder),
            "precision": precision,
            "compile": is_compiled,
            "dtype": config.dtype,
            "feature_dim": spec.feature_dim,
            "num_classes": spec.num_classes,
            # Only where there are several, so that the recipes of all others stay as they were.
            **({"head_sizes": list(spec.head_sizes)} if len(spec.head_sizes) > 1 else {}),
        },
        class_names=weights.class_names,
        part_rows=config.part_rows,
        trained_on=weights.trained_on,
    )


def teacher_arrays(spec: TeacherSpec, config: StoreConfig) -> tuple[ArraySpec, ...]:
    """Feature and logits; of a teacher without classes the feature alone."""
    feature = _array("feature", config.dtype, (spec.feature_dim,), 256)
    if spec.num_classes == 0:
        return (feature,)
    return (feature, _array("logits", config.dtype, (spec.num_classes,), 256))


def inputs_header(view: InputsView, config: StoreConfig) -> StoreHeader:
    """The header of an inputs store."""
    return StoreHeader(
        kind="inputs",
        recipe={
            "code_revision": CODE_REVISION,
            "frames_per_clip": view.num_frames,
            "frame_px": view.frame_px,
            "fit": "squash",
            "jpeg_quality": view.jpeg_quality,
            "jpeg_subsampling": "4:2:0",
            **recipe_fields(config.decoder),
            "imu_rate_hz": RATE_HZ,
            "imu_samples": view.imu_samples,
            "imu_axes": "accel xyz (m/s^2), gyro xyz (rad/s), mean of each clip removed",
        },
        class_names=None,
        part_rows=config.part_rows,
    )


def inputs_arrays(view: InputsView) -> tuple[ArraySpec, ...]:
    return (
        _array("frames", BYTES, (view.num_frames,), 64),
        _array("frame_time", "float64", (view.num_frames,), 256),
        _array("imu", "float32", (view.imu_samples, 6), 64),
        _array("imu_mean", "float32", (6,), 256),
    )


def clip_sources(manifest: Manifest) -> dict[str, ClipSource]:
    """Every clip with its files, by clip_id; the clips of a video stand together, in time order.

    So a part touches few videos, and each is decoded in order.
    """
    segment_of = {segment.segment_id: segment for segment in manifest.segments}
    video_order: dict[str, int] = {}
    for segment in manifest.segments:
        video_order.setdefault(segment.video_path, len(video_order))
    sources = []
    for clip in manifest.clips():
        segment = segment_of[clip.segment_id]
        imu = None if segment.imu_path is None else manifest.media(segment.imu_path)
        order = (video_order[segment.video_path], clip.start_s, clip.stop_s)
        video = manifest.media(segment.video_path)
        sources.append((order, ClipSource(clip=clip, video=video, imu=imu)))
    sources.sort(key=lambda item: item[0])
    return {source.clip.clip_id: source for _, source in sources}


def store_rows(sources: dict[str, ClipSource], *, with_imu: bool) -> list[StoreRow]:
    """A store's rows for these clips. Reads every video and IMU file once for its digest."""
    digest_of: dict[MediaFile, str | None] = {}
    rows = []
    for source in sources.values():
        for media in (source.video, source.imu if with_imu else None):
            if media is not None and media not in digest_of:
                digest_of[media] = _digest(media)
        clip, digest = source.clip, digest_of[source.video]
        rows.append(
            StoreRow(
                clip_id=clip.clip_id,
                segment_id=clip.segment_id,
                video_id=clip.video_id,
                start_s=clip.start_s,
                stop_s=clip.stop_s,
                clip_key=None if digest is None else clip_key(digest, clip.start_s, clip.stop_s),
                imu_key=digest_of[source.imu] if with_imu and source.imu is not None else None,
            )
        )
    return rows


def spanned_hours(sources: Sequence[ClipSource]) -> float:
    """Hours of video that the clips cover; where they overlap, time counts once."""
    seconds = 0.0
    reached: tuple[MediaFile | None, float] = (None, 0.0)
    for source in sorted(sources, key=lambda s: (s.video.url, s.clip.start_s)):
        start_s = source.clip.start_s
        if reached[0] == source.video:
            start_s = max(start_s, reached[1])
        seconds += max(source.clip.stop_s - start_s, 0.0)
        stop_s = max(source.clip.stop_s, reached[1] if reached[0] == source.video else 0.0)
        reached = (source.video, stop_s)
    return seconds / 3600


def _array(name: str, dtype: str, row_shape: tuple[int, ...], chunk_rows: int) -> ArraySpec:
    return ArraySpec(name=name, dtype=dtype, row_shape=row_shape, chunk_rows=chunk_rows)


def _digest(media: MediaFile) -> str | None:
    """None: it is missing or cannot be read, as its clips will say."""
    try:
        if media.name.lower().endswith(".csv"):
            digest = blake3()
            for one in imu_files(media):
                digest.update(one.local().read_bytes())
            return digest.hexdigest()
        return video_digest(media)
    except OSError:
        return None
    except StoreError:
        # A bucket that does not answer may hold the file all the same.
        if is_remote(media.url):
            raise
        return None
