"""Which decoder reads the videos of a store: what is there, how fast, and how different.

The decoder is part of the recipe, because each makes slightly different pixels of one frame. So
it is chosen once, before a store is made, by measuring on the machine and videos at hand.
"""

# T frames, H height, W width, 3 channels RGB

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.recipe import Recipe
from egoctl.pipeline.video.clip_plan import ClipRequest, DecodedClip, DecodeStats, FailedClip
from egoctl.pipeline.video.pyav_clips import DECODER, RESIZE, FrameView, decode_clips

DecoderName = Literal["pyav", "torchcodec", "torchcodec-cuda"]
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)
HIDES_DAMAGE: frozenset[DecoderName] = frozenset({"torchcodec-cuda"})
"""Never chosen for its speed alone: a picture that the GPU patched over damage passes as good."""

FFMPEG_THREADS = 2
"""Threads of each PyAV decoder, however many decoders there are and on any machine: what FFmpeg
makes of damage that it does not notice depends on their number."""
MIN_GAIN = 1.10
"""Another decoder than pyav must be this many times as fast: less is within the noise."""
MAX_VIDEOS = 3
SAMPLE_S = 8.0
CLIP_S = 2.0
FRAMES_PER_CLIP = 16
NUM_ROUNDS = 3
"""Each decoder gets its best of this many, taken in turns: other work comes and goes."""


class Decode(Protocol):
    """What video.decode_clips is: every clip of a video, in order, bad ones as FailedClip."""

    def __call__(
        self,
        path: Path,
        requests: Sequence[ClipRequest],
        views: Sequence[FrameView],
        stats: DecodeStats,
    ) -> Generator[DecodedClip | FailedClip, None, None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How far a decoder's pixels are from pyav's, in steps of 0 to 255."""

    mean: float
    max: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderChoice:
    """The decoder to use, and the measurements that decided it, in one line."""

    name: DecoderName
    sentence: str


def decoder_named(text: str) -> DecoderName:
    """The decoder of that name, if it can be used here.

    Raises:
        EgoctlError: if there is none, or something that it needs is missing here.
    """
    for name in DECODERS:
        if name == text:
            why = why_unavailable(name)
            if why is not None:
                raise EgoctlError(why)
            return name
    raise EgoctlError(f"--decoder must be {', '.join(DECODERS)} or auto, got {text!r}.")


def why_unavailable(name: DecoderName) -> str | None:
    """What is missing for this decoder here, and how to get it; None: nothing."""
    if name == "pyav":
        return None
    from egoctl.pipeline.video import (
        torchcodec_clips as torchcodec_source,  # loads torch and torchvision
    )

    return torchcodec_source.why_unavailable(_device(name))


def recipe_fields(name: DecoderName) -> dict[str, str]:
    """The fields of a recipe that this decoder determines: 'decoder' and 'resize'."""
    if name == "pyav":
        return {"decoder": DECODER, "resize": RESIZE}
    from egoctl.pipeline.video import torchcodec_clips as torchcodec_source

    return {
        "decoder": torchcodec_source.decoder_of(_device(name)),
        "resize": torchcodec_source.RESIZE,
    }


def decoder_in(recipe: Recipe) -> DecoderName:
    """The decoder that a store with this recipe was filled with, in whatever version.

    Raises:
        EgoctlError: if this egoctl has no such decoder.
    """
    text = str(recipe.get("decoder"))
    if text.startswith("pyav-"):
        return "pyav"
    if text.startswith("torchcodec-"):
        return "torchcodec-cuda" if text.endswith(" cuda") else "torchcodec"
    raise EgoctlError(
        f"the store's recipe names the decoder {text!r}; this egoctl has "
        f"{', '.join(DECODERS)}. Update egoctl."
    )


def decode_with(name: DecoderName, *, num_threads: int | None = FFMPEG_THREADS) -> Decode:
    """What to call for the clips of a video.

    pyav takes num_threads threads (None: one per core), the others always one.
    """
    if name == "pyav":
        return partial(decode_clips, num_threads=num_threads)
    from egoctl.pipeline.video.torchcodec_clips import decode_clips_torchcodec

    return partial(decode_clips_torchcodec, device=_device(name))


def measure(paths: Sequence[Path], views: Sequence[FrameView]) -> dict[DecoderName, float]:
    """Frames per second of every decoder that can be used here, on the first videos' beginnings.

    A frame counts where a clip's span covers it: what a decoder reads ahead earns it nothing.

    Raises:
        EgoctlError: if none of these videos can be decoded.
    """
    names = [name for name in DECODERS if why_unavailable(name) is None]
    best_s: dict[DecoderName, float] = {}
    num_frames: dict[DecoderName, int] = {}
    for name in names:
        # Starts what is slow to start, a GPU above all, and brings the file into memory.
        for path in paths[:MAX_VIDEOS]:
            _run(name, path, _sample(len(views))[:1], views, DecodeStats())
    for _ in range(NUM_ROUNDS):
        for name in names:
            stats = DecodeStats()
            started_s = time.perf_counter()
            for path in paths[:MAX_VIDEOS]:
                _run(name, path, _sample(len(views)), views, stats)
            took_s = time.perf_counter() - started_s
            best_s[name] = min(took_s, best_s.get(name, took_s))
            num_frames[name] = stats.frames_spanned
    if num_frames["pyav"] == 0:
        raise EgoctlError(
            f"no decoder can be measured: pyav decodes none of {_listed(paths)}. "
            "Run egoctl manifest check."
        )
    return {name: num_frames[name] / best_s[name] for name in names if num_frames[name]}


def drift(paths: Sequence[Path], views: Sequence[FrameView], name: DecoderName) -> Drift | None:
    """How far the decoder's pixels are from pyav's on what measure decodes.

    None: there is no clip that both decode, or they disagree about when its frames are shown.
    """
    total, count, largest = 0.0, 0, 0
    for ours, theirs in _pairs(paths, views, name):
        for times_s, their_times_s in zip(ours.times_s, theirs.times_s, strict=True):
            if not np.allclose(times_s, their_times_s, atol=1e-4):
                return None
        for frames, their_frames in zip(ours.frames, theirs.frames, strict=True):
            gaps = np.abs(frames.astype(np.int16) - their_frames)
            total, count = total + float(gaps.sum(dtype=np.float64)), count + gaps.size
            largest = max(largest, int(gaps.max()))
    return Drift(mean=total / count, max=largest) if count else None


def choose(paths: Sequence[Path], views: Sequence[FrameView]) -> DecoderChoice:
    """The fastest decoder that is worth leaving pyav for, measured on the first videos.

    Raises:
        EgoctlError: if none of these videos can be decoded.
    """
    speeds = measure(paths, views)
    others = [name for name in speeds if name != "pyav"]
    drifts: dict[DecoderName, Drift | None] = {
        other: drift(paths, views, other) for other in others
    }
    name = pick(speeds, drifts)
    parts = [f"decoder {name}: pyav {speeds['pyav']:.0f} frames/s"]
    for other in DECODERS[1:]:
        if other in speeds:
            parts.append(_compared(other, speeds, drifts[other]))
        else:
            parts.append(f"{other} cannot be used here ({why_unavailable(other) or 'no frames'})")
    return DecoderChoice(name=name, sentence="; ".join(parts))


def pick(
    speeds: Mapping[DecoderName, float], drifts: Mapping[DecoderName, Drift | None]
) -> DecoderName:
    """The fastest decoder that beats pyav by a tenth, shows the same frames and sees damage."""
    able = [
        name
        for name, speed in speeds.items()
        if speed >= MIN_GAIN * speeds["pyav"]
        and drifts.get(name) is not None
        and name not in HIDES_DAMAGE
    ]
    return max(able, key=lambda name: speeds[name], default="pyav")


def _compared(name: DecoderName, speeds: Mapping[DecoderName, float], drift: Drift | None) -> str:
    pixels = "it does not show the frames that pyav shows"
    if drift is not None:
        pixels = f"pixels {drift.mean:.2f} of 255 from pyav's on average, {drift.max} at most"
    hides = "; it hides damage, so it is used only if named" if name in HIDES_DAMAGE else ""
    gain = speeds[name] / speeds["pyav"]
    return f"{name} {speeds[name]:.0f} ({gain:.2f} times as fast, {pixels}{hides})"


def _sample(num_views: int) -> list[ClipRequest]:
    """Clips of a teacher's kind, one behind the other over the first seconds of a video."""
    steps_s = np.arange(FRAMES_PER_CLIP) * (CLIP_S / FRAMES_PER_CLIP)
    starts_s = np.arange(0.0, SAMPLE_S, CLIP_S)
    return [
        ClipRequest(index=index, times_s=(start_s + steps_s,) * num_views)
        for index, start_s in enumerate(starts_s)
    ]


def _run(
    name: DecoderName,
    path: Path,
    requests: Sequence[ClipRequest],
    views: Sequence[FrameView],
    stats: DecodeStats,
) -> None:
    for _ in decode_with(name)(path, requests, views, stats):
        pass


def _pairs(
    paths: Sequence[Path], views: Sequence[FrameView], name: DecoderName
) -> Iterator[tuple[DecodedClip, DecodedClip]]:
    """Clips that both pyav and the other decoder give."""
    for path in paths[:MAX_VIDEOS]:
        clips = _sample(len(views))
        ours = {c.index: c for c in decode_with("pyav")(path, clips, views, DecodeStats())}
        for theirs in decode_with(name)(path, clips, views, DecodeStats()):
            our = ours[theirs.index]
            if isinstance(our, DecodedClip) and isinstance(theirs, DecodedClip):
                yield our, theirs


def _device(name: DecoderName) -> Literal["cpu", "cuda"]:
    return "cuda" if name == "torchcodec-cuda" else "cpu"


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:MAX_VIDEOS]) or "no videos"
