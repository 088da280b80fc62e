"""Every random choice of a fine-tuning run, as a function of the seed and of what it is for.

Nothing is drawn from a generator that lives through the run. So neither the order in which
threads decode, nor a kill, nor the number of processes changes what a clip looks like in an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from egoctl.pipeline.finetuning.config import Augment


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """How one clip looks in one epoch."""

    window: float
    """Where the window lies in what the segment has to spare: from 0, its start, to 1."""
    is_mirrored: bool
    short_side_px: int
    crop_at: tuple[float, float]
    """Where the square lies in what the frame has to spare: (down, right), 0 to 1."""


def draw_of(
    augment: Augment, sides_px: tuple[int, int], *, seed: int, epoch: int, clip_id: str
) -> Draw:
    """The draw of a clip in an epoch; sides_px are as Augment.sides_px gives them."""
    window, flip, size, down, right = _generator(seed, epoch, f"clip {clip_id}").random(5)
    low, high = sides_px
    return Draw(
        window=float(window),
        is_mirrored=bool(flip < augment.flip),
        short_side_px=low + int(float(size) * (high - low + 1)),
        crop_at=(float(down), float(right)),
    )


def steps_of(
    num_clips: int, batch_size: int, *, seed: int, epoch: int, rank: int, num_ranks: int
) -> list[Sequence[int]]:
    """This process's clips in every step of an epoch.

    All steps have batch_size clips, of all processes together: what is left over at the end,
    other clips every epoch, is left out. Fewer clips than that make one step.
    """
    order = _generator(seed, epoch, "order").permutation(num_clips)
    size = min(batch_size, num_clips)
    steps = order[: num_clips // size * size].reshape(-1, size)
    return [step[rank::num_ranks].tolist() for step in steps]


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """For what the network draws by itself, dropout above all."""
    return int(_generator(seed, epoch, f"step {step} rank {rank}").integers(2**63))


def _generator(seed: int, epoch: int, what: str) -> np.random.Generator:
    digest = blake3(f"{seed} {epoch} {what}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
