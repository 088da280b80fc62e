"""All that is known of a teacher before it has run, as a record and as lines to print."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.cost import TeacherCost, teacher_cost
from egoctl.pipeline.teachers.lineup import (
    SOURCES,
    plugins,
    sources,
    teacher_facts,
    teacher_names,
    teacher_source,
    teacher_spec,
)
from egoctl.pipeline.teachers.protocol import TeacherFacts
from egoctl.pipeline.teachers.source import Source
from egoctl.pipeline.text_table import text_table

EVENLY = "spread evenly over the clip"


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherCard:
    """A teacher's input, output, origin, and cost where it was asked for."""

    spec: TeacherSpec
    facts: TeacherFacts
    options: Mapping[str, tuple[str, ...]]
    """What may be set as NAME,KEY=VALUE; the first value is the default."""
    comes_with: str
    """'egoctl', or the distribution of the plug-in."""
    cost: TeacherCost | None
    """None: not asked for, or not to be had; then the problem explains why."""
    cost_problem: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherList:
    """Every teacher with a name of its own, and where others are to be had."""

    teachers: tuple[TeacherCard, ...]
    prefixes: tuple[str, ...]
    """Names that begin so are teachers, too."""
    failed_plugins: tuple[str, ...]


def teacher_card(name: str, *, with_cost: bool) -> TeacherCard:
    """What is known of a teacher; its cost takes seconds to count.

    Raises:
        EgoctlError: if there is no such teacher.
    """
    source = teacher_source(name)
    cost, cost_problem = None, None
    if with_cost:
        try:
            cost = teacher_cost(name)
        except EgoctlError as error:  # a package that it needs is not here
            cost_problem = str(error)
    return TeacherCard(
        spec=teacher_spec(name),
        facts=teacher_facts(name),
        options=dict(source.options),
        comes_with=_distribution(source),
        cost=cost,
        cost_problem=cost_problem,
    )


def list_teachers(*, with_cost: bool) -> TeacherList:
    """All teachers in alphabetical order; their costs take a minute or two to count."""
    return TeacherList(
        teachers=tuple(teacher_card(name, with_cost=with_cost) for name in teacher_names()),
        prefixes=tuple(source.prefix for source in sources() if source.prefix is not None),
        failed_plugins=tuple(str(plugin) for plugin in plugins() if plugin.problem is not None),
    )


def card_lines(card: TeacherCard) -> list[str]:
    """A teacher in full."""
    spec, facts = card.spec, card.facts
    span_s = spec.num_frames * spec.stride_s
    spread = f"{spec.stride_s:.4g} s apart ({span_s:.4g} s)"
    rows = [
        ("looks at", f"{spec.num_frames} frames, {spread if isfinite(span_s) else EVENLY}"),
        ("size", f"{size_text(spec)}, {spec.channel_order.upper()}"),
        ("pixels", f"(x / 255 - {_numbers(spec.mean)}) / {_numbers(spec.std)}"),
        ("feature", f"{spec.feature_dim} values, tapped at {spec.tap}"),
        ("classes", classes_text(spec)),
        ("cost", _cost_text(card)),
        ("code", facts.code_licence),
        ("weights", facts.weights_licence),
        ("from", facts.weights_from),
        ("options", options_text(card.options)),
        ("note", facts.note),
        ("comes with", card.comes_with),
    ]
    return [spec.name, *(f"  {name:11}{text}" for name, text in rows if text)]


def list_lines(found: TeacherList) -> list[str]:
    """A teacher per line, then what else there is."""
    with_cost = any(card.cost or card.cost_problem for card in found.teachers)
    costs = ["params M", "GFLOPs"] if with_cost else []
    rows = [["name", "frames", "every s", "px", "feature", "classes", *costs, "weights"]]
    for card in found.teachers:
        spec = card.spec
        sizes = (spec.crop_px, spec.feature_dim, spec.num_classes or "-")
        cost = cost_texts(card.cost) if with_cost else ()
        cells = (spec.num_frames, stride_text(spec), *sizes, *cost, card.facts.weights_licence)
        rows.append([spec.name, *map(str, cells)])
    lines = text_table(rows, "<" + ">" * (len(rows[0]) - 2) + "<")
    if found.prefixes:
        lines.append(f"and names that begin with {', '.join(found.prefixes)}")
    return lines + [f"FAILED: {line}" for line in found.failed_plugins]


def json_text(record: TeacherCard | TeacherList) -> str:
    """The record as JSON, which has no infinity: a stride that is none is null."""
    return json.dumps(_finite(asdict(record)), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def stride_text(spec: TeacherSpec) -> str:
    """Seconds between two frames; 'even' for frames spread over the clip, however long."""
    return f"{spec.stride_s:.4f}" if isfinite(spec.stride_s) else "even"


def size_text(spec: TeacherSpec) -> str:
    """What is cut out of a frame."""
    return f"short side {spec.short_side_px} px, its centre {spec.crop_px} x {spec.crop_px} px"


def classes_text(spec: TeacherSpec) -> str:
    """How many classes, in which heads."""
    if spec.num_classes == 0:
        return "none: features only"
    heads = " + ".join(map(str, spec.head_sizes))
    return f"{spec.num_classes}{f' ({heads})' if heads else ''}"


def options_text(options: Mapping[str, tuple[str, ...]]) -> str:
    """What a name may carry as NAME,KEY=VALUE, the default of each first; empty without options."""
    return "; ".join(f"{key}={'|'.join(values)}" for key, values in options.items())


def cost_texts(cost: TeacherCost | None) -> tuple[str, str]:
    """Millions of parameters and GFLOPs, or dashes."""
    if cost is None:
        return "-", "-"
    return f"{cost.num_parameters / 1e6:.4f}", f"{cost.gflops:.2f}"


def _cost_text(card: TeacherCard) -> str:
    if card.cost is None:
        return f"not counted: {card.cost_problem}" if card.cost_problem else ""
    params, gflops = cost_texts(card.cost)
    return f"{params} M parameters, {gflops} GFLOPs a clip (fvcore, a multiply-add as one)"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _distribution(source: Source) -> str:
    # Plug-ins are not imported for a teacher of ours.
    if any(source is ours for ours in SOURCES):
        return "egoctl"
    return next(plugin.distribution for plugin in plugins() if plugin.source is source)
