"""The trained part of a teacher: all of it, what follows a frozen stem, or its head alone."""

# B batch, C channels or classes, T frames, H height, W width, D feature width

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning.draws import Draw
from egoctl.pipeline.teachers.protocol import Teacher, TrainableTeacher, normalise

Item = tuple[Tensor, ...]
"""Inputs of the network for one clip, without a batch axis."""


@runtime_checkable
class StemmedTeacher(TrainableTeacher, Protocol):
    """A TrainableTeacher with a frozen stem, which sees every frame by itself."""

    def stem(self, video_BCTHW: Tensor) -> tuple[Tensor, ...]:
        """Tensors of (B, T, ...), for any T; no gradient goes through them."""
        ...

    def feature_from_stem(self, *stem: Tensor) -> Tensor:
        """(B, D) from the stem of spec.num_frames frames."""
        ...

    def mirrored(self, *stem: Tensor) -> tuple[Tensor, ...]:
        """About the stem of the mirrored frames."""
        ...


@runtime_checkable
class ManyHeadedTeacher(TrainableTeacher, Protocol):
    """A TrainableTeacher that may have several classifiers, and can do with one."""

    def unite_heads(self, num_classes: int) -> bool:
        """Put one head in place of several: one of them if it has so many classes, else a new one.

        True: it is a new one."""
        ...


class Trainee(nn.Module):
    """From batched items to logits (B, C); its parameters are those that are trained."""

    def __init__(
        self,
        feature: Callable[..., Tensor],
        logits: Callable[[Tensor], Tensor],
        parts: dict[str, nn.Module],
    ) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._feature, self._logits = feature, logits
        self.requires_grad_(True)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._logits(self._feature(*inputs)).float()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The parts of a teacher for training: frozen, varied, trained."""

    trainee: Trainee
    front: Callable[[Tensor], Item] | None
    """Computed once per clip, from uint8 frames (B, T, H, W, 3); None: items are the frames."""
    vary: Callable[[Item, Draw], Item]
    """Applies a draw to a clip's front; leaves it, where frames vary as they are read."""
    sees_runs: bool
    """Whether the front is kept of more frames than the network sees at once."""


def fit_of(teacher: TrainableTeacher, *, head_only: bool) -> Fit:
    """The trained part of the teacher, and what is computed once before."""
    spec = teacher.spec

    def feature_of_frames(frames_BTHW3: Tensor) -> Tensor:
        return teacher.feature(normalise(frames_BTHW3, spec))

    if head_only:
        trainee = Trainee(lambda feature_BD: feature_BD, teacher.logits, {"head": teacher.head})
        return Fit(
            trainee=trainee,
            front=lambda frames: (feature_of_frames(frames).float(),),
            vary=lambda item, draw: item,
            sees_runs=False,
        )
    parts = {"body": teacher.body, "head": teacher.head}
    if isinstance(teacher, StemmedTeacher):
        stemmed = teacher
        return Fit(
            trainee=Trainee(
                lambda *stem: stemmed.feature_from_stem(*(part.float() for part in stem)),
                stemmed.logits,
                parts,
            ),
            # Half: a stem is large, and kept of every clip.
            front=lambda frames: tuple(
                part.half() for part in stemmed.stem(normalise(frames, spec))
            ),
            vary=lambda item, draw: _varied_stem(stemmed, item, draw),
            sees_runs=True,
        )
    return Fit(
        trainee=Trainee(feature_of_frames, teacher.logits, parts),
        front=None,
        vary=lambda item, draw: item,
        sees_runs=False,
    )


def as_trainable(teacher: Teacher) -> TrainableTeacher:
    """The teacher, which has what fine-tuning needs.

    Raises:
        EgoctlError: if it has not.
    """
    if not all(hasattr(teacher, name) for name in ("body", "head", "state")):
        raise EgoctlError(
            f"teacher {teacher.spec.name} can only be asked, not fitted. Pass one with a body and "
            "a head of its own, such as x3d_s, mvit_v2_s or lite0_temporal."
        )
    return cast(TrainableTeacher, teacher)


def set_classes(teacher: TrainableTeacher, class_names: Sequence[str], *, seed: int) -> bool:
    """Make the head one for these classes; whether it is a new one.

    The head stays where the checkpoint's class names are these, or where it has as many classes
    and does not name them.

    Raises:
        EgoctlError: if a new one is needed and the head is not one linear layer.
    """
    if isinstance(teacher, ManyHeadedTeacher) and len(teacher.spec.head_sizes) > 1:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return teacher.unite_heads(len(class_names))
    head, known, names = _linear(teacher.head), teacher.weights.class_names, tuple(class_names)
    num_found = teacher.spec.num_classes if head is None else len(head.weight)
    if known == names or (known is None and num_found == len(names)):
        return False
    if head is None:
        raise EgoctlError(
            f"the head of teacher {teacher.spec.name} is no single linear layer, so it cannot be "
            f"made one of the manifest's {len(names)} classes. Pass a teacher, or weights, with "
            "one classifier."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = nn.Linear(head.weight[0].numel(), len(names))
    # Into the same module: the teacher's own references to it stay good.
    shape = (len(names), *head.weight.shape[1:])
    device = head.weight.device
    head.weight = nn.Parameter(new.weight.detach().reshape(shape).to(device))
    head.bias = nn.Parameter(new.bias.detach().to(device))
    if isinstance(head, nn.Linear):
        head.out_features = len(names)
    else:
        head.out_channels = len(names)
    return True


def _linear(head: nn.Module) -> nn.Linear | nn.Conv3d | None:
    """The head's one layer, if it is that; heads that may be several are kept in a list."""
    if isinstance(head, nn.ModuleList) and len(head) == 1:
        head = head[0]
    return head if isinstance(head, nn.Linear | nn.Conv3d) else None


def checkpoint_blocks(body: nn.Module) -> int:
    """Recompute the body's blocks in the backward pass instead of keeping what is in them.

    How many there are; 0: the body has no `blocks`.
    """
    blocks = getattr(body, "blocks", None)
    if not isinstance(blocks, nn.ModuleList | nn.Sequential):
        return 0
    for block in blocks:
        block.forward = _Recomputed(block)
    return len(blocks)


class _Recomputed:
    """A block's forward whose inside is forgotten and computed again when it is needed."""

    def __init__(self, block: nn.Module) -> None:
        self._block_forward = block.forward
        self._norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        # SlowFast's blocks put what they make into the list that they get; the second pass must
        # find that list as the first did.
        fresh = (list(arg) if isinstance(arg, list) else arg for arg in args)
        return self._block_forward(*fresh, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        return checkpoint(
            self._forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs
        )

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _untracked(self._norms)


@contextmanager
def _untracked(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """BatchNorm counts a batch once: its running statistics stay as the first pass left them."""
    # By way of momentum: without running statistics it would keep other tensors for the
    # backward pass, and torch refuses a second pass that differs.
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    counts = [None if count is None else count.clone() for _, _, count in before]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (norm, momentum, tracked), count in zip(before, counts, strict=True):
            norm.momentum = momentum
            if tracked is not None and count is not None:
                tracked.copy_(count)


def _varied_stem(teacher: StemmedTeacher, stem: Item, draw: Draw) -> Item:
    """A run of the teacher's frames among those there are, maybe mirrored."""
    num_spare = len(stem[0]) - teacher.spec.num_frames
    first = int(draw.window * (num_spare + 1))
    run = tuple(part[first : first + teacher.spec.num_frames] for part in stem)
    if not draw.is_mirrored:
        return run
    return tuple(part[0] for part in teacher.mirrored(*(part[None] for part in run)))
