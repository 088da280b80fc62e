"""A student's answers for clips, and their average over the segments the clips belong to."""

# N clips, S segments, F frames, I image feature width, W IMU samples, A IMU axes (6)
# D teacher feature width, C classes

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.frames import FrameLoader, rows_on
from egoctl.student.model.losses import NO_LABEL
from egoctl.student.model.student import Student

BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Per clip, float32 on the CPU: the feature in the teacher's units, class probabilities."""

    feature_ND: Tensor
    probability_NC: Tensor


def predict(
    student: Student,
    clips: ClipSet,
    *,
    loader: FrameLoader | None,
    imu_NWA: Tensor | None,
    device: torch.device,
) -> Predictions:
    """The student in eval mode on every clip, BATCH of them at a time.

    Frames come from the loader, unless the clips have image features.
    imu_NWA: the IMU that each clip is shown.
    """
    was_training = student.training
    student.eval()
    batches = torch.split(torch.arange(len(clips)), BATCH)
    frames = None if loader is None else loader.batches(batches)
    features: list[Tensor] = []
    probabilities: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            output = student(
                frames_BNHW3=None if frames is None else next(frames),
                image_feature_BNI=rows_on(device, clips.image_feature_NFI, batch),
                imu_BWA=rows_on(device, imu_NWA, batch),
            )
            features.append(student.in_teacher_units(output.feature_BD).float().cpu())
            probabilities.append(output.logits_BC.float().softmax(dim=1).cpu())
    student.train(was_training)
    return Predictions(
        feature_ND=torch.cat(features).clone(), probability_NC=torch.cat(probabilities).clone()
    )


def mean_over_segments(value_NC: Tensor, segment_N: Tensor, num_segments: int) -> Tensor:
    """(S, C): the mean over each segment's clips; NaN where a segment has none."""
    total_SC = torch.zeros(num_segments, value_NC.shape[1]).index_add_(0, segment_N, value_NC)
    count_S = torch.bincount(segment_N, minlength=num_segments)
    return total_SC / count_S[:, None]


def segment_labels(clips: ClipSet) -> Tensor:
    """(S,) the label of every segment of the split, NO_LABEL where there is none."""
    labels = [NO_LABEL if item.label is None else item.label for item in clips.segments]
    return torch.tensor(labels, dtype=torch.int64)


def top_k(score_SC: Tensor, label_S: Tensor, k: int) -> float | None:
    """Share of rows with their label among the k best; None if no row has a label and no NaN."""
    counts = (label_S != NO_LABEL) & ~score_SC.isnan().any(dim=1)
    if not counts.any():
        return None
    best_Sk = score_SC[counts].topk(min(k, score_SC.shape[1]), dim=1).indices
    return float((best_Sk == label_S[counts, None]).any(dim=1).double().mean())


def segment_top1(predictions: Predictions, clips: ClipSet) -> float | None:
    """Per-segment top-1, probabilities averaged over the segment's clips."""
    mean_SC = mean_over_segments(predictions.probability_NC, clips.segment_N, len(clips.segments))
    return top_k(mean_SC, segment_labels(clips), 1)


def centre_clips(clips: ClipSet) -> Tensor:
    """(at most S,) per segment with a clip, the index of the one nearest to its middle."""
    middle_s = np.array([(item.start_s + item.stop_s) / 2 for item in clips.segments])
    nearest: dict[int, tuple[float, int]] = {}
    for index, clip in enumerate(clips.clips):
        segment = int(clips.segment_N[index])
        # Rounded, so that of two clips equally far the earlier one is taken.
        distance_s = round(abs(clip.mid_s - float(middle_s[segment])), 6)
        nearest[segment] = min(nearest.get(segment, (distance_s, index)), (distance_s, index))
    return torch.tensor([index for _, index in nearest.values()], dtype=torch.int64)
