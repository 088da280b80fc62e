"""The steps of every epoch: clips in shares, their frames, and how much each share counts."""

# N clips, B clips of a share, F frames the student sees, K stored frames of a clip
# I image feature width

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.epochs import batches_of, epoch_order
from egoctl.student.clips.frames import FrameLoader, rows_on, to_device
from egoctl.student.clips.jpegs import EachFrame
from egoctl.student.clips.sources import frame_loader
from egoctl.student.model.frame_selection import selected_frames
from egoctl.student.model.losses import NO_LABEL
from egoctl.student.settings.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShare:
    """Clips that go through the student at once: a step's, or a part of them."""

    clip_B: Tensor
    clip_weight: float
    """Weight of a mean over these clips in the step's mean. This and the next are multiplied by the
    number of processes, as these average their gradients."""
    label_weight: float
    """Weight of a mean over these clips' labels: some clips have none."""
    num_step_clips: int
    """Clips of the step in all its shares and processes."""


class TrainBatches:
    """The steps of every epoch for one of num_ranks processes."""

    def __init__(
        self,
        clips: ClipSet,
        config: TrainConfig,
        *,
        rank: int,
        num_ranks: int,
        device: torch.device,
    ) -> None:
        """Raises EgoctlError: if the batch cannot be shared equally by the processes."""
        if config.batch_size % num_ranks:
            raise EgoctlError(
                f"a batch of {config.batch_size} clips cannot be shared equally by {num_ranks} "
                "processes; pass a --batch-size that can."
            )
        self._clips = clips
        self._config = config
        self._rank = rank
        self._num_ranks = num_ranks
        self._device = device

    def steps(self, epoch: int) -> list[list[StepShare]]:
        """The shares of every step of an epoch, for this process."""
        clips = self._clips
        order = epoch_order(
            clips.segment_N, self._config.epoch_over, seed=self._config.seed, epoch=epoch
        )
        # For all processes: each must know how much of a step its own share is.
        of_rank = [
            batches_of(
                order, batch_size=self._config.batch_size, rank=rank, num_ranks=self._num_ranks
            )
            for rank in range(self._num_ranks)
        ]
        has_label_N = clips.label_N != NO_LABEL
        return [
            self._shares(of_rank[self._rank][step], torch.cat(whole), has_label_N)
            for step, whole in enumerate(zip(*of_rank, strict=True))
        ]

    def _shares(self, mine: Tensor, whole: Tensor, has_label_N: Tensor) -> list[StepShare]:
        # BatchNorm cannot train on one clip.
        num_shares = max(1, min(self._config.accumulate, len(mine) // 2))
        num_labels = max(1, int(has_label_N[whole].sum()))
        return [
            StepShare(
                clip_B=clip_B,
                clip_weight=self._num_ranks * len(clip_B) / len(whole),
                label_weight=self._num_ranks * int(has_label_N[clip_B].sum()) / num_labels,
                num_step_clips=len(whole),
            )
            for clip_B in torch.tensor_split(mine, num_shares)
        ]

    def frames(self, epochs: Sequence[int], *, steps_done: int) -> Iterator[Tensor] | None:
        """(B, F, H, W, 3) of every share of all epochs, so that workers go on between two epochs.

        steps_done: of the first epoch. None where the student sees no frames.
        """
        if not epochs:
            return None
        # Every epoch has shares of the same sizes.
        max_clips = max(len(share.clip_B) for step in self.steps(epochs[0]) for share in step)
        clips = (
            (epoch, share.clip_B)
            for epoch in epochs
            for step in self.steps(epoch)[steps_done if epoch == epochs[0] else 0 :]
            for share in step
        )
        if self._config.student.frame_selection != "random":
            loader = frame_loader(self._clips, self._config, self._device, max_batch=max_clips)
            return None if loader is None else loader.batches(clip_B for _, clip_B in clips)
        return self._random_frames(clips, max_clips)

    def image_feature(self, share: StepShare, epoch: int) -> Tensor | None:
        """(B, F, I) of a frozen encoder, on the device."""
        feature_NFI = self._clips.image_feature_NFI
        if feature_NFI is None or self._config.student.frame_selection != "random":
            return rows_on(self._device, feature_NFI, share.clip_B)
        picked_BF = self._picked(epoch, feature_NFI.shape[1])[share.clip_B]
        return to_device(feature_NFI[share.clip_B[:, None], picked_BF], self._device)

    def _random_frames(
        self, clips: Iterator[tuple[int, Tensor]], max_clips: int
    ) -> Iterator[Tensor] | None:
        jpegs = self._clips.jpegs
        if jpegs is None or self._clips.image_feature_NFI is not None:
            return None
        num_stored, num_frames = jpegs.shape[1], self._config.student.num_frames
        loader = FrameLoader(
            EachFrame(jpegs),
            max_batch=max_clips * num_frames,
            num_workers=self._config.num_workers,
            device=self._device,
        )
        frames = loader.batches(
            (clip_B[:, None] * num_stored + self._picked(epoch, num_stored)[clip_B]).flatten()
            for epoch, clip_B in clips
        )
        return (each.view(-1, num_frames, *each.shape[2:]) for each in frames)

    def _picked(self, epoch: int, num_stored: int) -> Tensor:
        picked_NF = selected_frames(
            "random",
            num_frames=self._config.student.num_frames,
            num_stored=num_stored,
            num_clips=len(self._clips),
            seed=self._config.seed,
            epoch=epoch,
        )
        return torch.from_numpy(picked_NF)
