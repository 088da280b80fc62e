"""Every teacher by name: our own, and those of plug-ins."""

import difflib
import re
from collections.abc import Iterator
from functools import cache

import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.networks import (
    frame_temporal,
    hf_models,
    motionformer_teacher,
    pytorchvideo_models,
    timm_models,
    torchvision_models,
)
from egoctl.pipeline.teachers.plugins import Plugin, load_plugins
from egoctl.pipeline.teachers.protocol import Teacher, TeacherFacts
from egoctl.pipeline.teachers.source import Source

SOURCES = (
    Source(
        names=tuple(motionformer_teacher.VARIANTS),
        spec=motionformer_teacher.spec,
        load=motionformer_teacher.load,
        facts=motionformer_teacher.facts,
        options=motionformer_teacher.OPTIONS,
    ),
    Source(
        names=tuple(pytorchvideo_models.ENTRIES),
        spec=pytorchvideo_models.spec,
        load=pytorchvideo_models.load,
        facts=pytorchvideo_models.facts,
    ),
    Source(
        names=tuple(torchvision_models.FAMILIES),
        spec=torchvision_models.spec,
        load=torchvision_models.load,
        facts=torchvision_models.facts,
    ),
    Source(
        names=(frame_temporal.NAME,),
        spec=frame_temporal.spec,
        load=frame_temporal.load,
        facts=frame_temporal.facts,
    ),
    Source(
        # None by name: what their specs are is in files that the hub has.
        names=(),
        spec=hf_models.spec,
        load=hf_models.load,
        facts=hf_models.facts,
        prefix=hf_models.PREFIX,
        options=hf_models.OPTIONS,
    ),
    Source(
        names=(),
        spec=timm_models.spec,
        load=timm_models.load,
        facts=timm_models.facts,
        prefix=timm_models.PREFIX,
        options=timm_models.OPTIONS,
    ),
)


@cache
def plugins() -> tuple[Plugin, ...]:
    """The plug-ins of this environment, imported at the first call; some may have failed."""
    return load_plugins(SOURCES)


def sources() -> Iterator[Source]:
    """Our own sources, then those of plug-ins, which nobody imports who stops before them."""
    yield from SOURCES
    for plugin in plugins():
        if plugin.source is not None:
            yield plugin.source


def teacher_names() -> list[str]:
    """The names of all teachers, in alphabetical order; those behind a prefix are not listed."""
    return sorted(name for source in sources() for name in source.names)


def teacher_spec(name: str) -> TeacherSpec:
    """What the teacher looks at and gives back; with its default weights, so far as classes go.

    name may carry options: NAME,KEY=VALUE,...

    Raises:
        EgoctlError: if no teacher has that name (the nearest are given) or that option.
    """
    source, plain, options = _found(name)
    return source.spec(plain, **options)


def teacher_facts(name: str) -> TeacherFacts:
    """Licences, and where the weights come from.

    Raises:
        EgoctlError: as teacher_spec.
    """
    source, plain, _ = _found(name)
    return source.facts(plain)


def teacher_source(name: str) -> Source:
    """Where the teacher comes from, with the options that its name may carry.

    Raises:
        EgoctlError: as teacher_spec.
    """
    return _found(name)[0]


def load_teacher(name: str, *, weights: str, device: torch.device) -> Teacher:
    """The teacher on the device, ready for inference; weights are one of

    - 'default': the published ones, from the web or torch's cache of downloads,
    - 'random:SEED': untrained, the same for the same seed, for trials,
    - a path: .safetensors, or a torch file of plain tensors.

    Its spec counts the classes that the weights have.

    Raises:
        EgoctlError: if the name is unknown, or the weights cannot be had or do not fit.
    """
    source, plain, options = _found(name)
    return source.load(plain, weights=weights, device=device, **options)


def _found(name: str) -> tuple[Source, str, dict[str, str]]:
    """The source, the name without options, and the options that are not the defaults."""
    # Only what looks like an option: a folder's name may hold commas.
    plain, *pairs = re.split(r",(?=[a-z_]+=)", name)
    for source in sources():
        if source.has(plain):
            given = dict(pair.split("=", 1) for pair in pairs)
            if len(given) < len(pairs):
                raise EgoctlError(f"{name} gives an option twice. Give each once.")
            for key, value in given.items():
                _check_option(source, plain, key, value)
            options = {k: v for k, v in sorted(given.items()) if v != source.options[k][0]}
            return source, plain, options
    near = difflib.get_close_matches(plain, teacher_names(), n=3, cutoff=0.4)
    raise EgoctlError(
        f"no teacher is called {plain!r}. "
        + (f"Near it: {', '.join(near)}." if near else f"There are {', '.join(teacher_names())}.")
        # It may be one of theirs: plug-ins that failed have given no names.
        + "".join(f" The {plugin}." for plugin in plugins() if plugin.problem is not None)
    )


def _check_option(source: Source, name: str, key: str, value: str) -> None:
    if value in source.options.get(key, ()):
        return
    has = "; ".join(f"{one}={'|'.join(values)}" for one, values in source.options.items())
    raise EgoctlError(
        f"teacher {name} has no option {key}={value}. "
        + (f"It has {has}." if has else "It has no options.")
    )
