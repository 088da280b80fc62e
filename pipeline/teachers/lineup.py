"""Every teacher by name."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers import frame_temporal, pytorchvideo_models, torchvision_models
from egoctl.pipeline.teachers.protocol import Teacher


class Load(Protocol):
    def __call__(self, name: str, *, weights: str, device: torch.device) -> Teacher: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The teachers that one file makes."""

    names: tuple[str, ...]
    spec: Callable[[str], TeacherSpec]
    load: Load


SOURCES = (
    Source(
        names=tuple(pytorchvideo_models.ENTRIES),
        spec=pytorchvideo_models.spec,
        load=pytorchvideo_models.load,
    ),
    Source(
        names=tuple(torchvision_models.FAMILIES),
        spec=torchvision_models.spec,
        load=torchvision_models.load,
    ),
    Source(names=(frame_temporal.NAME,), spec=frame_temporal.spec, load=frame_temporal.load),
)


def teacher_names() -> list[str]:
    """The names of all teachers, in alphabetical order."""
    return sorted(name for source in SOURCES for name in source.names)


def teacher_spec(name: str) -> TeacherSpec:
    """What the teacher looks at and gives back; with its default weights, so far as classes go.

    Raises:
        EgoctlError: if no teacher has that name; the nearest names are given.
    """
    return _source(name).spec(name)


def load_teacher(name: str, *, weights: str, device: torch.device) -> Teacher:
    """The teacher on the device, ready for inference; weights are one of

    - 'default': the published ones, from the web or torch's cache of downloads,
    - 'random:SEED': untrained, the same for the same seed, for trials,
    - a path: .safetensors, or a torch file of plain tensors.

    Its spec counts the classes that the weights have.

    Raises:
        EgoctlError: if the name is unknown, or the weights cannot be had or do not fit.
    """
    return _source(name).load(name, weights=weights, device=device)


def _source(name: str) -> Source:
    for source in SOURCES:
        if name in source.names:
            return source
    near = difflib.get_close_matches(name, teacher_names(), n=3, cutoff=0.4)
    raise EgoctlError(
        f"no teacher is called {name!r}. "
        + (f"Near it: {', '.join(near)}." if near else f"There are {', '.join(teacher_names())}.")
    )
