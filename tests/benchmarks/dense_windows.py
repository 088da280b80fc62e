"""Windows that overlap four times, read as extraction reads them and clip by clip.

The other side is EncodedVideo of pytorchvideo, used in the way its users do: seek to where a clip
begins, decode up to where it ends, take the teacher's frames out, make those small. It opens each
video once, has it in memory, and resizes only what is taken; nothing else is left out either.
"""

# T frames, C channels, H height, W width

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pytorchvideo.data.encoded_video import EncodedVideo
from torch import Tensor

from egoctl.pipeline.extraction.plan import clip_sources
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.reading.clip_job import ClipSource, Job, TeacherView, teacher_view
from egoctl.pipeline.reading.clip_reader import ClipReader
from egoctl.pipeline.records import WINDOW_S
from egoctl.pipeline.teachers.lineup import teacher_spec
from egoctl.pipeline.video.clip_plan import TOLERANCE_S
from egoctl.tests.benchmarks.figures import Figure, Setup, alternate, rates, seconds_ratios
from egoctl.tests.benchmarks.footage import FPS, footage_manifest

OVERLAP = 4
TEACHER = "mvit_v2_s"
"""16 frames of a window of 64; none of its weights are needed."""
SECONDS = 10.0
"""Of each of the two videos: the other side takes a second or so for each clip."""
AIM = ">= 3"
MAX_DIFFERENCE = 6.0
"""Of 255, on average. Two ways to make one frame smaller differ by 3, the next frame by 13."""


def measure(setup: Setup) -> list[Figure]:
    """How many times as fast extraction reads, and both speeds."""
    manifest = footage_manifest(setup, stride_s=WINDOW_S / OVERLAP, seconds=SECONDS)
    sources = list(clip_sources(manifest).values())
    view = teacher_view(teacher_spec(TEACHER), manifest.window_s)

    _check_that_frames_are_the_same(sources[: 2 * OVERLAP], view)
    found = alternate(
        {
            "in one pass": lambda: len(in_one_pass(sources, view)),
            "EncodedVideo, clip by clip": lambda: len(clip_by_clip(sources, view)),
        },
        repeats=setup.repeats,
    )
    one_pass, by_clip = found.values()
    ratio = Figure(
        benchmark="extraction",
        name=f"{len(sources)} windows that overlap {OVERLAP} times, {view.num_frames} frames of "
        "each: EncodedVideo clip by clip / in one pass",
        unit="ratio of seconds",
        values=seconds_ratios(by_clip, one_pass),
        aim=AIM,
    )
    return [ratio] + [
        Figure(
            benchmark="extraction",
            name=f"overlapping windows read, {side}",
            unit="clips/s",
            values=rates(samples),
        )
        for side, samples in found.items()
    ]


def in_one_pass(sources: Sequence[ClipSource], view: TeacherView) -> dict[int, Tensor]:
    """By place among the sources: frames (T, H, W, C), of 0 to 255."""
    job = Job(number=0, sources=sources, views={"teacher": view})
    reader = ClipReader([job], queue_size=10)
    return {clip.index: torch.from_numpy(clip.frames) for clip in reader if clip.frames is not None}


def clip_by_clip(sources: Sequence[ClipSource], view: TeacherView) -> dict[int, Tensor]:
    """The same, one clip after the other."""
    videos: Mapping[MediaFile, EncodedVideo] = {
        media: EncodedVideo.from_path(media.url, decode_audio=False)
        for media in dict.fromkeys(source.video for source in sources)
    }
    found = {}
    for place, source in enumerate(sources):
        # Times are written with six digits: a little earlier, or the first frame is missed.
        start_s = max(source.clip.start_s - TOLERANCE_S, 0.0)
        clip_CTHW = videos[source.video].get_clip(start_s, source.clip.stop_s)["video"]
        due = np.floor((view.times_s(source.clip) + TOLERANCE_S) * FPS).astype(int)
        taken_CTHW = clip_CTHW[:, due - math.ceil(start_s * FPS)]
        found[place] = _resized(taken_CTHW, view)
    for video in videos.values():
        video.close()
    return found


def _resized(frames_CTHW: Tensor, view: TeacherView) -> Tensor:
    """(T, H, W, C): short side resized, middle cut out."""
    height, width = frames_CTHW.shape[2:]
    short_px, crop_px = view.frame.short_side_px, view.frame.crop_px
    assert short_px is not None, "this teacher keeps the aspect ratio"
    scale = short_px / min(height, width)
    size = (round(height * scale), round(width * scale))
    small_TCHW = F.interpolate(
        frames_CTHW.transpose(0, 1), size, mode="bilinear", align_corners=False
    )
    top, left = (size[0] - crop_px) // 2, (size[1] - crop_px) // 2
    cut_TCHW = small_TCHW[:, :, top : top + crop_px, left : left + crop_px]
    return cut_TCHW.permute(0, 2, 3, 1).contiguous()


def _check_that_frames_are_the_same(sources: Sequence[ClipSource], view: TeacherView) -> None:
    ours, theirs = in_one_pass(sources, view), clip_by_clip(sources, view)
    assert ours.keys() == theirs.keys() == set(range(len(sources)))
    for place, frames_THWC in ours.items():
        difference = (frames_THWC.float() - theirs[place]).abs().mean(dim=(1, 2, 3))
        assert difference.max() < MAX_DIFFERENCE, (place, difference)
