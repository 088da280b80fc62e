"""Generated head-camera footage: hard enough to decode to stand in for a real recording.

A textured wall seen by a camera that pans, with new sensor noise in every frame; 640 x 480, 30
frames/s, h264 with B-frames and a keyframe a second. Beside each video lies an IMU file.
"""

from functools import cache
from itertools import islice
from pathlib import Path

import av
import numpy as np
import simplejpeg
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from egoctl.pipeline.datasets.folder import FolderSource, whole_videos
from egoctl.pipeline.extraction.plan import StoreConfig, clip_sources, inputs_view
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import InputsView, Job, TeacherView, teacher_view
from egoctl.pipeline.records import WINDOW_S, TeacherSpec
from egoctl.tests.benchmarks.figures import Setup

WIDTH_PX, HEIGHT_PX, FPS = 640, 480, 30
PAN_PX = 160
IMU_HZ = 200
NUM_VIDEOS = 2
SECONDS, QUICK_SECONDS = 20.0, 4.0
"""Of each video."""
X264 = {"preset": "veryfast", "crf": "23", "g": str(FPS), "bf": "2"}


def footage_manifest(setup: Setup, *, stride_s: float, seconds: float = SECONDS) -> Manifest:
    """Windows every stride_s over the whole footage, which is drawn where it is missing.

    seconds is the length of each video; where sizes are quick, that is not heeded.
    """
    seconds = QUICK_SECONDS if setup.is_quick else seconds
    folder = setup.folder / f"footage-{seconds:g}s"
    videos, imu = folder / "videos", folder / "imu"
    for number in range(NUM_VIDEOS):
        video = videos / f"{number}.mp4"
        if not video.is_file():
            _draw_video(video, first=number * 10_000, seconds=seconds)
            _write_imu(imu / f"{number}.csv", seed=number, seconds=seconds)
    source = FolderSource(videos=videos, imu=imu, window_s=WINDOW_S, stride_s=stride_s)
    manifest, left_out = whole_videos(source, manifest_folder=folder, imu_inside=False)
    assert not left_out, left_out
    return manifest


def jobs_of(manifest: Manifest, spec: TeacherSpec, config: StoreConfig) -> list[Job]:
    """The jobs that extraction into two new stores gives its reader."""
    views = views_of(manifest, spec, config)
    sources = iter(clip_sources(manifest).values())
    jobs: list[Job] = []
    while part := list(islice(sources, config.part_rows)):
        jobs.append(Job(number=len(jobs), sources=part, views=views))
    return jobs


def views_of(
    manifest: Manifest, spec: TeacherSpec, config: StoreConfig
) -> dict[str, TeacherView | InputsView]:
    """What a teacher sees of each clip, and what the students see."""
    return {
        "teacher": teacher_view(spec, manifest.window_s),
        "inputs": inputs_view(config, manifest.window_s),
    }


def picture(number: int) -> NDArray[np.uint8]:
    """(480, 640, 3) RGB: frame `number` of an endless recording."""
    turn = 2 * np.pi * number / FPS
    left = int(PAN_PX * (1 + np.sin(turn / 3)))
    top = int(PAN_PX * (1 + np.sin(turn / 5)))
    wall = _wall()[top : top + HEIGHT_PX, left : left + WIDTH_PX]
    noise = _sensor_noise()
    noisy = wall + noise[number % len(noise)]
    visible: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return visible


def jpeg_frames(count: int, config: StoreConfig) -> list[bytes]:
    """Frames a third of a second apart, as an inputs store of that config keeps them."""
    size_px = config.frame_px
    squares = (picture(10 * number)[:size_px, :size_px] for number in range(count))
    return [
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(square_HW3),
            quality=config.jpeg_quality,
            colorspace="RGB",
            colorsubsampling="420",
        )
        for square_HW3 in squares
    ]


@cache
def _wall() -> NDArray[np.int16]:
    """(800, 960, 3): a gradient and blotches of 4, 16 and 64 px."""
    height, width = HEIGHT_PX + 2 * PAN_PX, WIDTH_PX + 2 * PAN_PX
    random = np.random.default_rng(0)
    ramp = np.linspace(40, 160, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    wall = np.repeat(ramp, 3, axis=2)
    for size_px in (4, 16, 64):
        blotches = random.normal(0, 14, (height // size_px + 1, width // size_px + 1, 3))
        wall += blotches.repeat(size_px, 0).repeat(size_px, 1)[:height, :width]
    return wall.astype(np.int16)


@cache
def _sensor_noise() -> NDArray[np.int16]:
    """(8, 480, 640, 3): drawn once, as a new one for each frame takes longer than encoding it."""
    random = np.random.default_rng(1)
    return random.normal(0, 3, (8, HEIGHT_PX, WIDTH_PX, 3)).astype(np.int16)


def _draw_video(path: Path, *, first: int, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scaler = VideoReformatter()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=X264)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for number in range(round(seconds * FPS)):
            frame = av.VideoFrame.from_ndarray(picture(first + number), format="rgb24")
            frame = scaler.reformat(frame, format="yuv420p", threads=1)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_imu(path: Path, *, seed: int, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(seconds * IMU_HZ)) / IMU_HZ
    motion = np.random.default_rng(seed).normal(0, 0.5, (len(time_s), 6))
    motion[:, 0] += 9.81
    np.savetxt(
        path,
        np.column_stack([time_s, motion]),
        fmt="%.5f",
        delimiter=",",
        header="time_s,accel_x,accel_y,accel_z,gyro_x,gyro_y,gyro_z",
        comments="",
    )
