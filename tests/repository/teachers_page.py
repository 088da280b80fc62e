"""Writes docs/teachers.md from the line-up, so that no figure in it is typed.

    python -m egoctl.tests.repository.teachers_page

Parameters and GFLOPs are counted on every network, which takes some minutes.
"""

import re
import sys
from collections.abc import Mapping

from egoctl.pipeline.teachers.card import (
    TeacherCard,
    classes_text,
    cost_texts,
    options_text,
    size_text,
    stride_text,
    teacher_card,
)
from egoctl.pipeline.teachers.lineup import SOURCES
from egoctl.tests.worlds.places import ROOT

PAGE = ROOT / "docs" / "teachers.md"
Costs = Mapping[str, tuple[str, str]]
"""Millions of parameters and GFLOPs of every teacher, as the page shows them."""
NO_COST = ("-", "-")

INTRO = """\
# The teachers

Written by `make docs`: every figure is read or counted from the networks themselves.
`egoctl teachers list` prints the teachers that you have, plug-ins included, and
`egoctl teachers show NAME` one of them in full. [How to add your own](add-a-teacher.md).

## What they look at, give back, and cost

Parameters in millions. GFLOPs as fvcore counts them for one clip: 10^9, a multiply-add as one, as
in EgoDistill's table 3; half of what tools print that count multiplications and additions apart.
Counted is what runs here: a network that skips what its targets do not depend on costs less than
its authors print, and `egoctl teachers show motionformer,form=plain` counts one as published.
Every s: seconds between two frames, as the network was trained. px: the side of what it sees.
"""
LICENCES = """
## Licences, and where the weights come from

The weights' licence does not cover the data set that they were trained on.
"""
PIXELS = """
## How frames are prepared

The short side of a frame is resized and its centre cut out; mean and std are of pixels between 0
and 1, per channel in the order told.
"""


def our_cards() -> list[TeacherCard]:
    """Our own teachers by name; plug-ins that happen to be installed are not on the page."""
    names = sorted(name for source in SOURCES for name in source.names)
    return [teacher_card(name, with_cost=False) for name in names]


def page(costs: Costs) -> str:
    """The page; a teacher without costs gets dashes."""
    cards = our_cards()
    lines = [INTRO]
    lines += table(
        ["name", "frames", "every s", "px", "feature", "classes", "parameters", "GFLOPs"],
        [
            [
                f"`{card.spec.name}`",
                str(card.spec.num_frames),
                stride_text(card.spec),
                str(card.spec.crop_px),
                str(card.spec.feature_dim),
                classes_text(card.spec),
                *costs.get(card.spec.name, NO_COST),
            ]
            for card in cards
        ],
    )
    lines += [LICENCES]
    lines += table(
        ["name", "code", "weights", "from", "note"],
        [
            [
                f"`{card.spec.name}`",
                card.facts.code_licence,
                card.facts.weights_licence,
                card.facts.weights_from,
                card.facts.note,
            ]
            for card in cards
        ],
    )
    lines += [PIXELS]
    lines += table(
        ["name", "size", "channels", "mean", "std", "feature is the input of"],
        [
            [
                f"`{card.spec.name}`",
                size_text(card.spec),
                card.spec.channel_order.upper(),
                ", ".join(f"{value:g}" for value in card.spec.mean),
                ", ".join(f"{value:g}" for value in card.spec.std),
                f"`{card.spec.tap}`",
            ]
            for card in cards
        ],
    )
    return "\n".join([*lines, *option_lines(), *prefix_lines()]) + "\n"


def option_lines() -> list[str]:
    """The names with options, those of one source together."""
    told = []
    for source in SOURCES:
        families = () if source.prefix is None else (f"{source.prefix}...",)
        names = ", ".join(f"`{name}`" for name in (*source.names, *families))
        if source.options:
            told.append(f"- {names}: `{options_text(source.options)}`")
    head = "\n## Options in the name\n\nAs in NAME,KEY=VALUE; the first value is the default.\n"
    return [head, *told] if told else []


def prefix_lines() -> list[str]:
    """What names may begin with, besides those in the tables."""
    told = [f"- `{source.prefix}`" for source in SOURCES if source.prefix is not None]
    head = "\n## Families\n\nWhatever name begins with one of these is a teacher, too.\n"
    return [head, *told] if told else []


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def costs_in(text: str) -> dict[str, tuple[str, str]]:
    """The costs that a page shows, by teacher."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    return {name: (params, gflops) for name, params, gflops in rows}


def counted_costs() -> dict[str, tuple[str, str]]:
    """The costs of our own teachers, counted now.

    Raises:
        SystemExit: if one cannot be built here: the page needs all.
    """
    costs = {}
    for card in our_cards():
        name = card.spec.name
        counted = teacher_card(name, with_cost=True)
        if counted.cost is None:
            raise SystemExit(f"{name}: {counted.cost_problem}")
        costs[name] = cost_texts(counted.cost)
        print(f"{name}: {' M, '.join(costs[name])} GFLOPs", file=sys.stderr)
    return costs


def main() -> None:
    """Count, and write the page."""
    PAGE.write_text(page(counted_costs()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
