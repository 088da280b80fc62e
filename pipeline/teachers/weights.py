"""A teacher's network with its weights: published, of a file, or random; never half-loaded."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.teachers.checkpoints import (
    Checkpoint,
    DefaultWeights,
    StateDict,
    fetch_checkpoint,
    read_checkpoint,
    some_of,
    state_sha256,
)
from egoctl.pipeline.trained_on import TrainedOn

Net = TypeVar("Net", bound=nn.Module)
Shape = TypeVar("Shape")
Rename = Callable[[StateDict], StateDict]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsInfo:
    """Which weights a teacher runs with."""

    source: str
    """'default', 'file' or 'random:SEED'."""
    sha256: str
    """Digest of names, dtypes, shapes and values: the same in any kind of file, on any device."""
    is_random: bool
    class_names: tuple[str, ...] | None
    trained_on: TrainedOn | None = None
    """None: unknown."""
    misfits: "Misfits | None" = None
    """What was left out, or random, where weights were to be taken so far as they fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfits:
    """The tensors in which a checkpoint and a network differ."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    """With both shapes."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        return (
            f"{some_of('missing', self.missing)}; {some_of('unexpected', self.unexpected)}; "
            f"{some_of('of another shape', self.misshapen)}"
        )


def net_with_weights(
    name: str,
    weights: str,
    *,
    build: Callable[[int], Net],
    head_key: str,
    num_classes: int,
    default: DefaultWeights | None,
    rename: Rename | None = None,
) -> tuple[Net, WeightsInfo]:
    """The network of teacher `name` with the weights asked for, on the CPU, and what they are.

    weights is 'default', 'random:SEED' or a path; build makes the network for so many classes
    and head_key names its classifier's weight, whose first axis has a checkpoint's classes.
    Random weights have num_classes. The global random state stays as it was.

    Raises:
        EgoctlError: if the weights cannot be had or are those of another network.
    """
    return net_of_shape(
        name,
        weights,
        build=build,
        shape_in=lambda checkpoint: _num_classes(name, checkpoint, head_key),
        shape=num_classes,
        default=default,
        rename=rename,
    )


def net_of_shape(
    name: str,
    weights: str,
    *,
    build: Callable[[Shape], Net],
    shape_in: Callable[[Checkpoint], Shape],
    shape: Shape,
    default: DefaultWeights | None,
    rename: Rename | None = None,
    allow_partial: bool = False,
) -> tuple[Net, WeightsInfo]:
    """As net_with_weights, for a network whose weights decide more than a number of classes.

    shape_in decides what to build for a checkpoint, or refuses it; random weights have `shape`.
    rename gives a checkpoint's state the network's names. With allow_partial what fits is loaded,
    and what does not is listed in WeightsInfo.

    Raises:
        EgoctlError: as net_with_weights.
    """
    seed = _random_seed(weights)
    if seed is not None:
        net = _seeded(build, shape, seed)
        return net, WeightsInfo(
            source=f"random:{seed}",
            sha256=state_sha256(net.state_dict()),
            is_random=True,
            class_names=None,
        )
    if weights == "default":
        checkpoint, source = fetch_checkpoint(name, default), "default"
    else:
        checkpoint, source = read_checkpoint(Path(weights)), "file"
    if rename is not None:
        checkpoint = replace(checkpoint, state=rename(checkpoint.state))
    net = _seeded(build, shape_in(checkpoint), seed=0)
    misfits = load_state(name, net, checkpoint, allow_partial=allow_partial)
    return net, WeightsInfo(
        source=source,
        sha256=state_sha256(net.state_dict()),
        is_random=False,
        class_names=checkpoint.class_names,
        trained_on=checkpoint.trained_on,
        misfits=misfits or None,
    )


def load_state(
    name: str, net: nn.Module, checkpoint: Checkpoint, *, allow_partial: bool = False
) -> Misfits:
    """Copy the state dict into net where every tensor's name and shape fit; else refuse.

    With allow_partial, copy those that fit; the others keep their values and are returned.

    Raises:
        EgoctlError: with the counts and the first few names of what does not fit; with
            allow_partial, if nothing does.
    """
    wanted = net.state_dict()
    fitting = {
        key: found
        for key, found in checkpoint.state.items()
        if key in wanted and found.shape == wanted[key].shape
    }
    misfits = Misfits(
        missing=tuple(key for key in wanted if key not in checkpoint.state),
        unexpected=tuple(key for key in checkpoint.state if key not in wanted),
        misshapen=tuple(
            f"{key}: {tuple(found.shape)}, wanted {tuple(wanted[key].shape)}"
            for key, found in checkpoint.state.items()
            if key in wanted and key not in fitting
        ),
    )
    if (misfits and not allow_partial) or not fitting:
        raise EgoctlError(
            f"{checkpoint.origin} does not fit teacher {name}: {misfits}. "
            f"Pass weights of {name}, or the teacher that these weights belong to."
        )
    net.load_state_dict(fitting, strict=False)
    return misfits


def _random_seed(weights: str) -> int | None:
    if weights.partition(":")[0] != "random":
        return None
    match = re.fullmatch(r"random:(\d{1,18})", weights)
    if match is None:
        raise EgoctlError(f"random weights are written random:SEED, as random:0, got {weights!r}.")
    return int(match[1])


def _seeded(build: Callable[[Shape], Net], shape: Shape, seed: int) -> Net:
    # Networks are built on the CPU, so its generator is the only one to restore.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(shape)


def _num_classes(name: str, checkpoint: Checkpoint, head_key: str) -> int:
    if head_key not in checkpoint.state or checkpoint.state[head_key].ndim < 2:
        raise EgoctlError(
            f"{checkpoint.origin} does not fit teacher {name}: it has no classifier {head_key}, "
            f"only {some_of('names', list(checkpoint.state))}. Pass weights of {name}."
        )
    num_classes = int(checkpoint.state[head_key].shape[0])
    names = checkpoint.class_names
    if names is not None and len(names) != num_classes:
        raise EgoctlError(
            f"{checkpoint.origin} names {len(names)} classes and its classifier has "
            f"{num_classes}. Save it again with one name per class."
        )
    return num_classes
