"""Teachers that other distributions bring, through the entry-point group egoctl.teachers.

Such code is not ours: a plug-in that fails is named with its reason, and all others work on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.protocol import TeacherFacts, name_with
from egoctl.pipeline.teachers.source import Source

GROUP = "egoctl.teachers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """An entry point: its teachers, or why there are none."""

    name: str
    distribution: str
    """Name and version."""
    source: Source | None
    problem: str | None

    def __str__(self) -> str:
        why = "" if self.problem is None else f" cannot be used: {self.problem}"
        return f"plug-in {self.name!r} of {self.distribution}{why}"


def load_plugins(ours: Sequence[Source]) -> tuple[Plugin, ...]:
    """Every entry point of the group, in the order of distributions and names.

    An entry point is a Source, or a function without arguments that returns one. It may not
    claim a name or a prefix that `ours` or a plug-in before it has.
    """
    taken = [("egoctl", source) for source in ours]
    plugins = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: (_origin(point), point.name)):
        plugin = _load(point, taken)
        plugins.append(plugin)
        if plugin.source is not None:
            taken.append((plugin.distribution, plugin.source))
    return tuple(plugins)


def _load(point: EntryPoint, taken: Sequence[tuple[str, Source]]) -> Plugin:
    source: Source | None = None
    try:
        source = _usable(point.load(), taken)
        problem = None
    except KeyboardInterrupt:
        raise
    # Foreign code may raise anything, sys.exit() included. Nothing is hidden: commands report it.
    except BaseException as error:  # noqa: BLE001
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Plugin(name=point.name, distribution=_origin(point), source=source, problem=problem)


def _usable(found: object, taken: Sequence[tuple[str, Source]]) -> Source:
    """The source, of which every name gives a spec and facts, so that it can be listed."""
    source = found() if callable(found) else found
    if not isinstance(source, Source):
        raise TypeError(f"the entry point must give a Source, got {type(source).__name__}")
    for owner, other in taken:
        _refuse_shared_names(source, owner, other)
    for name in source.names:
        if not isinstance(source.facts(name), TeacherFacts):
            raise TypeError(f"the facts of teacher {name} must be TeacherFacts")
        _check_spec(source.spec(name), name)
        for key, values in source.options.items():
            for value in values[1:]:
                _check_spec(source.spec(name, **{key: value}), name_with(name, {key: value}))
    return source


def _check_spec(spec: TeacherSpec, name: str) -> None:
    # Stores distinguish teachers by these names, so options must be in them.
    if not isinstance(spec, TeacherSpec) or spec.name != name:
        raise ValueError(f"the spec of teacher {name} must be a TeacherSpec of that name")


def _refuse_shared_names(source: Source, owner: str, other: Source) -> None:
    shared = [name for name in source.names if other.has(name)]
    shared += [name for name in other.names if source.has(name)]
    mine, others = source.prefix, other.prefix
    if mine and others and (mine.startswith(others) or others.startswith(mine)):
        shared.append(mine)
    if shared:
        raise ValueError(f"the name {shared[0]} is taken by {owner}; it needs another one")


def _origin(point: EntryPoint) -> str:
    # Only entry points made by hand have no distribution.
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
