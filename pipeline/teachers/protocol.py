"""What every teacher can do, and what is done the same way with each of them."""

# B batch, C channels or classes, T frames, H height, W width, D feature width
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from egoctl.pipeline.devices import is_out_of_memory
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec, TeacherTargets
from egoctl.pipeline.teachers.checkpoints import StateDict
from egoctl.pipeline.teachers.weights import WeightsInfo

CPU_BATCH_SIZE = 4
MAX_BATCH_SIZE = 256
MIN_GAIN = 1.05
"""A doubled batch must be at least this much faster per clip to be worth its memory."""


class Teacher(Protocol):
    """A video network in two steps: the clip's feature, then raw logits from that feature.

    >>> from egoctl.pipeline.teachers.lineup import load_teacher
    >>> teacher = load_teacher("x3d_xs", weights="random:0", device=torch.device("cpu"))
    >>> frames_BTHWC = torch.zeros(1, teacher.spec.num_frames, 182, 182, 3, dtype=torch.uint8)
    >>> feature_BD = teacher.feature(normalise(frames_BTHWC, teacher.spec))
    >>> feature_BD.shape, teacher.logits(feature_BD).shape
    (torch.Size([1, 2048]), torch.Size([1, 400]))
    """

    @property
    def spec(self) -> TeacherSpec: ...

    @property
    def weights(self) -> WeightsInfo: ...

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        """(B, D) features of normalised clips; the input of the module named by spec.tap."""
        ...

    def logits(self, feature_BD: Tensor) -> Tensor:
        """(B, C) logits, without a softmax; (B, 0) where spec.num_classes is 0."""
        ...


class TrainableTeacher(Teacher, Protocol):
    """A teacher that `finetune-teacher` can fit: made frozen and in eval mode, like all."""

    @property
    def body(self) -> nn.Module:
        """What makes the feature; its modules' modes and gradients are the trainer's to set."""
        ...

    @property
    def head(self) -> nn.Module:
        """What makes logits of a feature; it is no part of the body."""
        ...

    def state(self) -> StateDict:
        """All weights, under the names that `load` reads."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFacts:
    """What people want to know of a teacher before they use it."""

    code_licence: str
    weights_licence: str
    weights_from: str
    """An address, or what to do instead."""
    note: str = ""


def name_with(name: str, options: Mapping[str, str]) -> str:
    """A teacher's name with its options, as recipes have it: NAME,KEY=VALUE,..."""
    return ",".join([name, *(f"{key}={value}" for key, value in sorted(options.items()))])


def normalise(frames_BTHWC: Tensor, spec: TeacherSpec) -> Tensor:
    """(B, C, T, H, W) float32 as the teacher was trained, on the frames' device.

    Raises:
        ValueError: unless the frames are RGB of uint8, as decoders give them.
    """
    if frames_BTHWC.dtype != torch.uint8 or frames_BTHWC.ndim != 5 or frames_BTHWC.shape[-1] != 3:
        raise ValueError(
            f"frames must be uint8 (B, T, H, W, 3), got {frames_BTHWC.dtype} "
            f"{tuple(frames_BTHWC.shape)}"
        )
    if spec.channel_order == "bgr":
        frames_BTHWC = frames_BTHWC.flip(-1)
    mean_C111 = torch.tensor(spec.mean, device=frames_BTHWC.device).view(3, 1, 1, 1)
    std_C111 = torch.tensor(spec.std, device=frames_BTHWC.device).view(3, 1, 1, 1)
    video_BCTHW = frames_BTHWC.permute(0, 4, 1, 2, 3).float()
    return video_BCTHW.div_(255).sub_(mean_C111).div_(std_C111).contiguous()


def network_output(
    teacher: Teacher, frames_BTHWC: Tensor, *, autocast_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Feature (B, D) and logits (B, C) of B clips, float32, on the device of the frames.

    Frames are RGB, uint8, on the teacher's device. With autocast_dtype the network runs in mixed
    precision. Logits are always computed in float32 from the feature that is returned, so a
    stored feature gives its stored logits. On a GPU this returns before the values are there.

    Raises:
        ValueError: if the frames are not of the spec's count and size.
    """
    spec = teacher.spec
    wanted = (spec.num_frames, spec.crop_px, spec.crop_px, 3)
    if frames_BTHWC.shape[1:] != wanted:
        raise ValueError(
            f"{spec.name} wants frames of (B, {', '.join(map(str, wanted))}), "
            f"got {tuple(frames_BTHWC.shape)}"
        )
    with torch.inference_mode():
        video_BCTHW = normalise(frames_BTHWC, spec)
        with torch.autocast(
            frames_BTHWC.device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None
        ):
            feature_BD = teacher.feature(video_BCTHW)
        feature_BD = feature_BD.float()
        return feature_BD, teacher.logits(feature_BD).float()


def targets(
    teacher: Teacher, frames_BTHWC: Tensor, *, autocast_dtype: torch.dtype | None = None
) -> TeacherTargets:
    """The teacher's targets for B clips: `network_output`, waited for and copied to the CPU.

    Raises:
        ValueError: as network_output.
    """
    feature_BD, logits_BC = network_output(teacher, frames_BTHWC, autocast_dtype=autocast_dtype)
    return TeacherTargets(feature_ND=feature_BD.cpu().numpy(), logits_NC=logits_BC.cpu().numpy())


def find_batch_size(
    teacher: Teacher, device: torch.device, *, autocast_dtype: torch.dtype | None = None
) -> int:
    """A good number of clips per batch: 4 on a CPU, else found by trying on the device.

    Raises:
        EgoctlError: if not even one clip fits into the device's memory.
    """
    if device.type == "cpu":
        return CPU_BATCH_SIZE

    def clips_per_s(batch_size: int) -> float:
        size = (batch_size, teacher.spec.num_frames, teacher.spec.crop_px, teacher.spec.crop_px, 3)
        frames_BTHWC = torch.zeros(size, dtype=torch.uint8, device=device)
        # The first pass of a new shape also chooses kernels; it is not timed. Targets come
        # back as numpy, so the clock never stops before the device does.
        targets(teacher, frames_BTHWC, autocast_dtype=autocast_dtype)
        start = time.perf_counter()
        for _ in range(3):
            targets(teacher, frames_BTHWC, autocast_dtype=autocast_dtype)
        return 3 * batch_size / (time.perf_counter() - start)

    batch_size = largest_good_batch(clips_per_s)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if batch_size is None:
        raise EgoctlError(
            f"one clip of teacher {teacher.spec.name} does not fit into the memory of {device}. "
            f"Free that memory, or pass --device cpu."
        )
    return batch_size


def largest_good_batch(clips_per_s: Callable[[int], float]) -> int | None:
    """The last doubling of 1 that fits the memory and still gained 5 %; None if 1 does not fit."""
    best, best_rate, batch_size = None, 0.0, 1
    while batch_size <= MAX_BATCH_SIZE:
        try:
            rate = clips_per_s(batch_size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
        if rate < MIN_GAIN * best_rate:
            break
        best, best_rate, batch_size = batch_size, rate, 2 * batch_size
    return best
