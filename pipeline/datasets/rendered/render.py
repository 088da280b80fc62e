"""The demo world: drawn kitchens with heads, hands and IMUs whose every cause is known.

It exists so that the whole pipeline can be run, and its claims checked, without data or a GPU.
What it can show is bounded by construction: how strongly heads follow hands is a setting
(CouplingConfig), not a finding, and CouplingConfig.zero() gives the control world.
"""

# T frames

import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.datasets.rendered.actions import CLASS_NAMES, SEGMENT_S
from egoctl.pipeline.datasets.rendered.motion import IMU_HZ
from egoctl.pipeline.datasets.rendered.raster import Camera, render
from egoctl.pipeline.datasets.rendered.scene import draw_clutter, scene_quads
from egoctl.pipeline.datasets.rendered.textures import draw_surfaces
from egoctl.pipeline.datasets.rendered.world import (
    CLUTTER,
    SEGMENTS_PER_VIDEO,
    SURFACES,
    Shot,
    WorldConfig,
    labels_of,
    random_stream,
    shot_of,
    split_of,
)
from egoctl.pipeline.errors import ManifestError
from egoctl.pipeline.files.whole_file import whole_file, write_whole

WORLD_VERSION = "1"
FPS = 30
FRAMES_PER_SEGMENT = 72
IMU_HEADER = "time_s,accel_x,accel_y,accel_z,gyro_x,gyro_y,gyro_z"
ANN_HEADER = "segment_id,video,imu,start_s,stop_s,label,split,participant_id"


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

    write_whole(begun, settings)
    finished.unlink(missing_ok=True)
    _render_missing(config, out_dir, missing, len(videos), workers, on_progress)
    write_whole(out_dir / "ANN.csv", _annotations(config, videos))
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
            # Ctrl-C too, and raised again: without this the pool would draw the rest first.
            pool.shutdown(cancel_futures=True)
            raise


def _render_video(config: WorldConfig, out_dir: Path, person: int, session: int) -> None:
    """Write one video and its IMU, each under its name only when complete."""
    shots = [
        shot_of(config, person, session * SEGMENTS_PER_VIDEO + k) for k in range(SEGMENTS_PER_VIDEO)
    ]
    video_path, imu_path = _video_paths(out_dir, person, session)
    samples = np.concatenate([shot.imu_WA for shot in shots])
    time_s = np.arange(len(samples)) / IMU_HZ
    rows = [
        f"{time:.6f}," + ",".join(f"{value:.6g}" for value in row)
        for time, row in zip(time_s, samples, strict=True)
    ]
    write_whole(imu_path, "\n".join([IMU_HEADER, *rows]) + "\n")

    with (
        whole_file(video_path) as part,
        av.open(part, "w", format="mp4", options={"fflags": "+bitexact"}) as container,
    ):
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


def _frames(config: WorldConfig, person: int, segment: int, shot: Shot) -> NDArray[np.uint8]:
    """(T, size, size, 3) the segment's frames, from the same poses as its IMU."""
    time_s = np.arange(FRAMES_PER_SEGMENT) / FPS
    pose = shot.path.at(time_s)
    session = segment // SEGMENTS_PER_VIDEO
    quads = scene_quads(
        shot.action,
        draw_clutter(random_stream(config, CLUTTER, person, segment), shot.action),
        draw_surfaces(random_stream(config, SURFACES, person, session)),
        shot.person.skin_3,
        time_s,
        pose.position_T3,
    )
    camera = Camera(
        position_T3=pose.position_T3, rotation_T33=pose.rotation(), size_px=config.size_px
    )
    return render(quads, camera)[0]


def _annotations(config: WorldConfig, videos: list[tuple[int, int]]) -> str:
    rows = [ANN_HEADER]
    for person, session in videos:
        video_id = _video_id(person, session)
        labels = labels_of(config, person)
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
