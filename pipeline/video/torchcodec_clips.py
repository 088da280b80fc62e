"""Clips of frames through torchcodec: the optional second decoder, on the CPU or a GPU.

It answers as video.decode_clips does, but not with the same pixels: another FFmpeg decodes and
another filter resizes. So a store is filled with one decoder only, and its recipe names it.
"""

# H height, W width, 3 channels RGB

import importlib
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2.functional import resize

from egoctl.pipeline.errors import EgoctlError, VideoError
from egoctl.pipeline.video.clip_plan import (
    ClipPlan,
    ClipRequest,
    DecodedClip,
    DecodeStats,
    FailedClip,
    Picture,
)
from egoctl.pipeline.video.pyav_clips import FrameView
from egoctl.pipeline.video.torchcodec_log import ffmpeg_log
from egoctl.pipeline.video.torchcodec_reel import Device, Reel, first_line

RESIZE = "torchvision-bilinear-antialias"
"""Part of a recipe: swscale's bilinear filter weighs the same pixels a little differently."""


def decode_clips_torchcodec(
    path: Path,
    requests: Sequence[ClipRequest],
    views: Sequence[FrameView],
    stats: DecodeStats,
    *,
    device: Device,
) -> Generator[DecodedClip | FailedClip, None, None]:
    """Every clip, in the order and with the times and failure codes of video.decode_clips.

    Frames are resized with RESIZE. Each call reads all packets of the file once before it
    decodes, so a few clips of a long video cost more than they do with PyAV.

    Damage fails the clips that reach into it, up to the next keyframe that it cannot touch.
    That is more than PyAV's path fails: with B-frames up to 16 frames more, before a cut as
    well, and every frame that is listed but never shown (VP8 has such). On 'cuda' the only signs
    of damage are frames that are refused or missing: what the GPU patches over passes as good.

    Raises:
        EgoctlError: if torchcodec, its FFmpeg or the device is not there.
        ValueError: if a request has not one array of times per view.
    """
    why = why_unavailable(device)
    if why is not None:
        raise EgoctlError(why)
    return _decode(path, ClipPlan(requests, len(views), stats), views, stats, device)


def why_unavailable(device: Device) -> str | None:
    """What is missing for decoding on this device, and how to get it; None: nothing."""
    try:
        torchcodec = importlib.import_module("torchcodec")
        decoders = importlib.import_module("torchcodec.decoders")
    except ModuleNotFoundError:
        return "torchcodec is not installed. Run: pip install 'egoctl[torchcodec]'"
    except (ImportError, OSError, RuntimeError) as error:
        return (
            f"torchcodec cannot be loaded ({first_line(error)}). Install the torchcodec release "
            f"that goes with torch {torch.__version__}."
        )
    if not hasattr(decoders, "Demuxer"):
        return f"torchcodec {_version()} is too old. Run: pip install 'torchcodec>=0.17'"
    if torchcodec.ffmpeg_major_version is None:
        return (
            "torchcodec finds no FFmpeg libraries (versions 4 to 9 will do). Install FFmpeg, for "
            "example with: apt install ffmpeg"
        )
    if device == "cuda" and not torch.cuda.is_available():
        return "torchcodec on cuda needs a GPU, and torch finds none here. Use another decoder."
    try:
        ffmpeg_log()
    except OSError as error:
        return (
            f"torchcodec's FFmpeg cannot be heard when it finds damage ({first_line(error)}). "
            "Use --decoder pyav."
        )
    return None


def decoder_of(device: Device) -> str:
    """The decoder's name in a recipe: 'torchcodec-0.17.0 ffmpeg-5 cpu'."""
    major = importlib.import_module("torchcodec").ffmpeg_major_version
    return f"torchcodec-{_version()} ffmpeg-{major} {device}"


def _version() -> str:
    # Without the build ('+cu130'): on the CPU both run the same code.
    return str(importlib.import_module("torchcodec").__version__).partition("+")[0]


def _decode(
    path: Path,
    plan: ClipPlan,
    views: Sequence[FrameView],
    stats: DecodeStats,
    device: Device,
) -> Generator[DecodedClip | FailedClip, None, None]:
    if plan.next_due_s is None:
        return
    try:
        reel = Reel(path, device, stats)
    except VideoError as error:
        failure = error  # a lambda may not name what the except block unbinds
        yield from plan.unfinished(lambda _: failure)
        return
    with closing(reel):
        while (due_s := plan.next_due_s) is not None:
            if not plan.is_inside_a_clip(reel.next_time_s):
                reel.skip_to(due_s)
            shown = reel.next()
            if shown is None:
                break
            until_s = reel.next_time_s
            picture_of = partial(_picture, reel, shown.raw, views)
            plan.show(shown.time_s, until_s, shown.damage, picture_of)
            yield from plan.finished(until_s)
        yield from plan.unfinished(reel.why_it_ended)


def _picture(reel: Reel, raw: Any, views: Sequence[FrameView], view: int) -> Picture:
    assert raw is not None, "a lost frame is damaged, and the plan asks for no picture of it"
    image_3HW = reel.upright(raw)
    crop_px, short_side_px = views[view].crop_px, views[view].short_side_px
    height = width = crop_px
    if short_side_px is not None:
        stored_height, stored_width = image_3HW.shape[1:]
        scale = short_side_px / min(stored_height, stored_width)
        height, width = round(stored_height * scale), round(stored_width * scale)
    image_3HW = resize(image_3HW, [height, width], antialias=True)
    down, right = views[view].crop_at
    # Not center_crop, which rounds an odd margin up half of the time.
    top, left = int((height - crop_px) * down), int((width - crop_px) * right)
    square_3HW = image_3HW[:, top : top + crop_px, left : left + crop_px]
    picture: Picture = square_3HW.permute(1, 2, 0).contiguous().cpu().numpy()
    return picture
