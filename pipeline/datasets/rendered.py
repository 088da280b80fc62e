"""The demo world: drawn kitchens with heads, hands and IMUs whose every cause is known.

It exists so that the whole pipeline can be run, and its claims checked, without data or a GPU.
What it can show is bounded by construction: how strongly heads follow hands is a setting
(CouplingConfig), not a finding, and CouplingConfig.zero() gives the control world.
"""

# N segments, K kinds, W IMU samples of a segment (475), A IMU axes (6), T frames

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.datasets.rendered_actions import (
    CLASS_NAMES,
    KINDS,
    SEGMENT_S,
    Action,
    draw_action,
)
from egoctl.pipeline.datasets.rendered_motion import (
    IMU_HZ,
    POSE_HZ,
    CouplingConfig,
    HeadPath,
    Participant,
    draw_participant,
    head_path,
    ideal_imu,
    measured_imu,
)
from egoctl.pipeline.datasets.rendered_raster import Camera, render
from egoctl.pipeline.datasets.rendered_scene import draw_clutter, scene_quads
from egoctl.pipeline.datasets.rendered_textures import draw_surfaces
from egoctl.pipeline.errors import ManifestError

WORLD_VERSION = "1"
FPS = 30
FRAMES_PER_SEGMENT = 72
SEGMENTS_PER_VIDEO = 10
IMU_SAMPLES = 475
"""Whole samples of every segment; every fifth segment has one more."""
IMU_HEADER = "time_s,accel_x,accel_y,accel_z,gyro_x,gyro_y,gyro_z"
ANN_HEADER = "segment_id,video,imu,start_s,stop_s,label,split,participant_id"

# Independent streams of random numbers, so that changing one leaves the others alone.
_PERSON, _ORDER, _ACTION, _HEAD, _NOISE, _SURFACES, _CLUTTER = range(7)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """A world is this record and WORLD_VERSION, nothing else."""

    seed: int = 0
    num_participants: int = 10
    segments_per_participant: int = 100
    size_px: int = 128
    own_motion: float = 1.0
    """Scale of what every head does by itself; 0 for heads that only answer to the hand."""
    coupling: CouplingConfig = field(default_factory=CouplingConfig)

    def __post_init__(self) -> None:
        if self.num_participants < 2:
            raise ValueError(f"need 2 participants or more, got {self.num_participants}")
        if self.segments_per_participant < 1 or self.segments_per_participant % 10:
            raise ValueError(
                "segments_per_participant must be a multiple of 10 (ten classes, ten segments "
                f"a video), got {self.segments_per_participant}"
            )
        if self.size_px < 16 or self.size_px % 2:
            raise ValueError(f"size_px must be even and 16 or more, got {self.size_px}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedSegments:
    """Segments without pictures: the IMU, and what a perfect eye would see at the centre."""

    imu_NWA: NDArray[np.float32]
    """m/s^2, then rad/s."""
    kind_N: NDArray[np.int64]
    """Index into KINDS."""
    side_N: NDArray[np.int64]
    """-1 or 1: hinge, lever or lid to the left or right; for other things without meaning."""
    hand_N3: NDArray[np.float64]
    """Hand at the centre, metres, from the thing's place."""
    label_N: NDArray[np.int64]
    participant_N: NDArray[np.int64]
    is_free_N: NDArray[np.bool_]
    """Segments whose head hardly answers to the hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shot:
    """One segment's action and head, sampled on its video's 198 Hz clock."""

    action: Action
    person: Participant
    path: HeadPath
    """On the segment's own clock, seconds from its start."""
    imu_WA: NDArray[np.float64]
    first_sample: int
    is_free: bool


def split_of(config: WorldConfig, participant: int) -> str:
    """'train', 'val' or 'test': the last three in ten are test, the one before them val."""
    num_test = max(1, 3 * config.num_participants // 10)
    if participant >= config.num_participants - num_test:
        return "test"
    is_last = participant == config.num_participants - num_test - 1
    return "val" if is_last and participant > 0 else "train"


def simulate_segments(
    config: WorldConfig, indices: Sequence[int] | None = None
) -> SimulatedSegments:
    """The segments that render_world would draw, by index over participants; all by default."""
    per_person = config.segments_per_participant
    if indices is None:
        indices = range(config.num_participants * per_person)
    labels = [_labels(config, person) for person in range(config.num_participants)]
    pairs = [divmod(index, per_person) for index in indices]
    shots = [_shot(config, person, segment) for person, segment in pairs]
    centre = np.array([SEGMENT_S / 2])
    return SimulatedSegments(
        imu_NWA=np.stack([shot.imu_WA[:IMU_SAMPLES] for shot in shots]).astype(np.float32),
        kind_N=np.array([KINDS.index(shot.action.kind) for shot in shots]),
        side_N=np.array([shot.action.side for shot in shots]),
        hand_N3=np.stack(
            [shot.action.hand_path(centre)[0] - shot.action.place_3 for shot in shots]
        ),
        label_N=np.array([labels[person][segment] for person, segment in pairs]),
        participant_N=np.array([person for person, _ in pairs]),
        is_free_N=np.array([shot.is_free for shot in shots]),
    )


def render_world(
    config: WorldConfig,
    out_dir: Path,
    *,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the world into out_dir (videos/, imu/, ANN.csv, world.json); the path of ANN.csv.

    Files that are there already are kept, so an interrupted call is finished by the next; a
    complete world is left alone. on_progress hears (videos done, videos in all).

    Raises:
        ManifestError: if out_dir holds another world.
    """
    settings = json.dumps({"version": WORLD_VERSION, "config": asdict(config)}, indent=2) + "\n"
    begun, finished = out_dir / "world.partial.json", out_dir / "world.json"
    for path in (begun, finished):
        if path.exists() and path.read_text() != settings:
            raise ManifestError(
                f"{path} describes another demo world than the one asked for (other settings "
                f"or another version). Choose an empty folder, or delete {out_dir}."
            )
    for folder in (out_dir, out_dir / "videos", out_dir / "imu"):
        folder.mkdir(parents=True, exist_ok=True)
    videos = [
        (person, session)
        for person in range(config.num_participants)
        for session in range(config.segments_per_participant // SEGMENTS_PER_VIDEO)
    ]
    missing = [
        video for video in videos if not all(p.exists() for p in _video_paths(out_dir, *video))
    ]
    if finished.exists() and not missing and (out_dir / "ANN.csv").exists():
        return out_dir / "ANN.csv"

    _write(begun, settings)
    finished.unlink(missing_ok=True)
    _render_missing(config, out_dir, missing, len(videos), workers, on_progress)
    _write(out_dir / "ANN.csv", _annotations(config, videos))
    os.replace(begun, finished)
    return out_dir / "ANN.csv"


def _render_missing(
    config: WorldConfig,
    out_dir: Path,
    missing: list[tuple[int, int]],
    num_videos: int,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    done = num_videos - len(missing)

    def report() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, num_videos)

    if workers <= 1 or len(missing) <= 1:
        for video in missing:
            _render_video(config, out_dir, *video)
            report()
        return
    # Spawned, not forked: the caller may hold threads (torch, zarr) that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=context) as pool:
        try:
            futures = [pool.submit(_render_video, config, out_dir, *video) for video in missing]
            for future in as_completed(futures):
                future.result()
                report()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _render_video(config: WorldConfig, out_dir: Path, person: int, session: int) -> None:
    """Write one video and its IMU, each under its name only when complete."""
    shots = [
        _shot(config, person, session * SEGMENTS_PER_VIDEO + k) for k in range(SEGMENTS_PER_VIDEO)
    ]
    video_path, imu_path = _video_paths(out_dir, person, session)
    samples = np.concatenate([shot.imu_WA for shot in shots])
    time_s = np.arange(len(samples)) / IMU_HZ
    rows = [
        f"{time:.6f}," + ",".join(f"{value:.6g}" for value in row)
        for time, row in zip(time_s, samples, strict=True)
    ]
    _write(imu_path, "\n".join([IMU_HEADER, *rows]) + "\n")

    part = video_path.with_suffix(".part")
    with av.open(part, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = config.size_px
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        # One thread and no B frames: the same bytes everywhere, and pts equal to dts.
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast", "crf": "20", "g": "30", "bf": "0"}
        for k, shot in enumerate(shots):
            index = session * SEGMENTS_PER_VIDEO + k
            for j, image in enumerate(_frames(config, person, index, shot)):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = k * FRAMES_PER_SEGMENT + j, Fraction(1, FPS)
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    os.replace(part, video_path)


def _frames(config: WorldConfig, person: int, segment: int, shot: _Shot) -> NDArray[np.uint8]:
    """(T, size, size, 3) the segment's frames, from the same poses as its IMU."""
    time_s = np.arange(FRAMES_PER_SEGMENT) / FPS
    pose = shot.path.at(time_s)
    session = segment // SEGMENTS_PER_VIDEO
    quads = scene_quads(
        shot.action,
        draw_clutter(_rng(config, _CLUTTER, person, segment), shot.action),
        draw_surfaces(_rng(config, _SURFACES, person, session)),
        shot.person.skin_3,
        time_s,
        pose.position_T3,
    )
    camera = Camera(
        position_T3=pose.position_T3, rotation_T33=pose.rotation(), size_px=config.size_px
    )
    return render(quads, camera)[0]


def _shot(config: WorldConfig, person: int, segment: int) -> _Shot:
    participant = draw_participant(
        _rng(config, _PERSON, person), config.coupling, config.own_motion
    )
    verb = CLASS_NAMES[_labels(config, person)[segment]]
    action = draw_action(_rng(config, _ACTION, person, segment), verb, participant.eye_height_m)
    # Samples n of the video's clock with n / 198 inside [2.4 k, 2.4 k + 2.4), in whole numbers.
    k = segment % SEGMENTS_PER_VIDEO
    first, stop = (-(-2376 * edge // 5) for edge in (k, k + 1))
    pose_count = np.arange(4 * first - 4, 4 * stop + 4)
    time_s = pose_count / POSE_HZ - k * SEGMENT_S
    path, is_free = head_path(
        _rng(config, _HEAD, person, segment), time_s, action, participant, config.coupling
    )
    # Row i of the ideal IMU belongs to pose i + 1; poses 4, 8, ... are the video's samples.
    clean_WA = ideal_imu(path)[3::4][: stop - first]
    return _Shot(
        action=action,
        person=participant,
        path=path,
        imu_WA=measured_imu(_rng(config, _NOISE, person, segment), clean_WA, participant),
        first_sample=first,
        is_free=is_free,
    )


def _labels(config: WorldConfig, person: int) -> NDArray[np.int64]:
    """(segments,) class indices of a participant, the same number of each, shuffled."""
    labels = np.arange(config.segments_per_participant) % len(CLASS_NAMES)
    return _rng(config, _ORDER, person).permutation(labels)


def _rng(config: WorldConfig, *stream: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, *stream])


def _annotations(config: WorldConfig, videos: list[tuple[int, int]]) -> str:
    rows = [ANN_HEADER]
    for person, session in videos:
        video_id = _video_id(person, session)
        labels = _labels(config, person)
        for k in range(SEGMENTS_PER_VIDEO):
            label = CLASS_NAMES[labels[session * SEGMENTS_PER_VIDEO + k]]
            rows.append(
                f"{video_id}_{k},{video_id}.mp4,{video_id}.csv,{SEGMENT_S * k:.6g},"
                f"{SEGMENT_S * (k + 1):.6g},{label},{split_of(config, person)},p{person:02d}"
            )
    return "\n".join(rows) + "\n"


def _video_id(person: int, session: int) -> str:
    return f"p{person:02d}_s{session:02d}"


def _video_paths(out_dir: Path, person: int, session: int) -> tuple[Path, Path]:
    video_id = _video_id(person, session)
    return out_dir / "videos" / f"{video_id}.mp4", out_dir / "imu" / f"{video_id}.csv"


def _write(path: Path, text: str) -> None:
    """Write all of a text file or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
