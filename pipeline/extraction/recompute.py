"""Makes rows of a store anew, from videos and teacher at hand, by its recipe."""

# n rows, D feature width, C classes, K stored frames, W IMU samples

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.extraction.plan import StoreConfig, inputs_header, inputs_view, teacher_header
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import ClipSource, InputsView, Job, TeacherView, teacher_view
from egoctl.pipeline.reading.clip_reader import ClipReader, ReadClip
from egoctl.pipeline.recipe import Recipe
from egoctl.pipeline.records import IMU_NONE, OK
from egoctl.pipeline.teachers.protocol import Teacher, targets
from egoctl.pipeline.video.decoder_choice import DecoderName, decoder_in

BATCH_SIZE = 4


@dataclass(kw_only=True)
class Recomputed:
    """Rows by their index in the sample; filled while clips come in."""

    arrays: dict[str, dict[int, Any]] = field(default_factory=dict)
    """By array name: what a row should hold. Frames are tuples of JPEGs."""
    reasons: dict[str, dict[int, str]] = field(default_factory=dict)
    """By stream of outcomes: why there is nothing for a row."""

    def put(self, array: str, index: int, value: object) -> None:
        self.arrays.setdefault(array, {})[index] = value


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How rows are made here: by a recipe, where one may choose."""

    recipe: Recipe
    view: TeacherView | InputsView
    precision: str
    decoder: DecoderName

    @classmethod
    def of(cls, recipe: Recipe, manifest: Manifest, teacher: Teacher | None) -> "Setting":
        decoder = decoder_in(recipe)
        if teacher is not None:
            view = teacher_view(teacher.spec, manifest.window_s)
            precision = str(recipe.get("precision"))
            config = StoreConfig(dtype=str(recipe.get("dtype")), decoder=decoder)
            header = teacher_header(
                teacher.spec,
                teacher.weights,
                view,
                config,
                precision=precision,
                # Taken over, not redone: a compiled network is to give what the plain one gives.
                is_compiled=bool(recipe.get("compile")),
            )
            return cls(recipe=header.recipe, view=view, precision=precision, decoder=decoder)
        config = StoreConfig(
            frames_per_clip=_whole(recipe, "frames_per_clip"),
            frame_px=_whole(recipe, "frame_px"),
            jpeg_quality=_whole(recipe, "jpeg_quality"),
            decoder=decoder,
        )
        inputs = inputs_view(config, manifest.window_s)
        header = inputs_header(inputs, config)
        return cls(recipe=header.recipe, view=inputs, precision="fp32", decoder=decoder)


def _whole(recipe: Recipe, field: str) -> int:
    value = recipe.get(field)
    if not isinstance(value, int):
        raise StoreError(
            f"the store's recipe has no whole number {field!r}, so it cannot be redone."
        )
    return value


def recompute(
    sources: Sequence[ClipSource],
    setting: Setting,
    teacher: Teacher | None,
    device: torch.device,
) -> Recomputed:
    """What a store made with this setting would hold of these clips."""
    job = Job(number=0, sources=sources, views={"store": setting.view})
    reader = ClipReader([job], queue_size=2 * BATCH_SIZE, decoder=setting.decoder)
    found = Recomputed()
    batch: list[ReadClip] = []
    with closing(reader):
        for clip in reader:
            for stream, outcome in (("outcome", clip.outcome), ("imu_outcome", clip.imu_outcome)):
                if outcome.code not in (OK, IMU_NONE):
                    reasons = found.reasons.setdefault(stream, {})
                    reasons[clip.index] = outcome.reason or outcome.code
            _put_inputs(found, clip)
            if clip.frames is not None:
                batch.append(clip)
            if teacher is not None and len(batch) == BATCH_SIZE:
                _put_targets(found, batch, teacher, setting, device)
                batch = []
    if teacher is not None and batch:
        _put_targets(found, batch, teacher, setting, device)
    return found


def _put_targets(
    found: Recomputed,
    batch: Sequence[ReadClip],
    teacher: Teacher,
    setting: Setting,
    device: torch.device,
) -> None:
    frames = np.stack([clip.frames for clip in batch if clip.frames is not None])
    autocast_dtype = torch.bfloat16 if setting.precision == "bf16" else None
    computed = targets(teacher, torch.from_numpy(frames).to(device), autocast_dtype=autocast_dtype)
    for at, clip in enumerate(batch):
        found.put("feature", clip.index, computed.feature_ND[at])
        if teacher.spec.num_classes:
            found.put("logits", clip.index, computed.logits_NC[at])


def _put_inputs(found: Recomputed, clip: ReadClip) -> None:
    if clip.jpegs:
        found.put("frames", clip.index, clip.jpegs)
        found.put("frame_time", clip.index, clip.frame_times_s)
    if clip.imu is not None:
        found.put("imu", clip.index, clip.imu.samples_W6)
        found.put("imu_mean", clip.index, clip.imu.mean_6)
