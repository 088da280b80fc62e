"""A dataset's choices as a small file: labels, split, window, and how much data is to be expected.

The files are in manifests/. A recipe fills the options of `egoctl manifest build`, so a team
builds the same manifest everywhere; the counts it expects are the paper's, printed beside ours.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egoctl.pipeline.errors import EgoctlError, ManifestError
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.records import WINDOW_S
from egoctl.pipeline.typed_toml import read_toml, record_of


class NotDownloadedError(ManifestError):
    """The dataset's own files are not where they were looked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedCounts:
    """How much data there should be; None where it is unknown. Papers round: 8500 may be 8.5k."""

    source: str
    """Where these numbers are from, such as 'EgoDistill, sec. 4'."""
    segments: int | None = None
    classes: int | None = None
    videos: int | None = None
    participants: int | None = None
    splits: dict[str, int] = field(default_factory=dict)
    """Segments of each split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetBuild:
    """A manifest, and what its maker should know."""

    manifest: Manifest
    notes: tuple[str, ...]
    """What was found and chosen, what is unknown, what a number on this split means."""
    left_out: tuple[str, ...]
    """What was wanted and is not in the manifest, a line per reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRecipe:
    """The choices that make a manifest of one dataset."""

    name: str
    dataset: str
    """The word after `egoctl manifest build`."""
    label: str
    """The annotation that becomes the label, such as 'structured_verb'."""
    split_rule: str
    download: str
    """What to download and how, for people."""
    expected: ExpectedCounts
    window_s: float = WINDOW_S
    stride_s: float | None = None
    """None: one clip per segment, in its middle."""
    min_segments: int = 1
    """Classes with fewer segments are left out."""
    seed: int = 0
    """Seed of a random split."""


def read_recipe(path: Path, *, dataset: str) -> DatasetRecipe:
    """The recipe of a TOML file, which must be one of this dataset.

    Raises:
        ManifestError: if the file is missing or no TOML, lacks a key, has one that is unknown or
            of the wrong type, or belongs to another dataset.
    """
    try:
        recipe = record_of(DatasetRecipe, read_toml(path), where=path)
    except EgoctlError as error:
        raise ManifestError(str(error)) from error
    if recipe.dataset != dataset:
        raise ManifestError(
            f"{path} is a recipe of {recipe.dataset}, not of {dataset}. "
            f"Use it with 'egoctl manifest build {recipe.dataset}'."
        )
    return recipe


def chosen(
    recipe: DatasetRecipe | None, names: Iterable[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What is given and not None; of the names that are not, the recipe's fields."""
    of_recipe = {} if recipe is None else {name: getattr(recipe, name) for name in names}
    return of_recipe | {name: value for name, value in given.items() if value is not None}


def compare_counts(manifest: Manifest, expected: ExpectedCounts) -> Iterator[str]:
    """A line for each count that is expected, and what this manifest has; for people."""
    segments = manifest.segments
    splits = Counter(segment.split for segment in segments)
    counts = [
        ("segments", expected.segments, len(segments)),
        ("classes", expected.classes, len(manifest.class_names)),
        ("videos", expected.videos, len({segment.video_id for segment in segments})),
        (
            "participants",
            expected.participants,
            len({segment.participant_id for segment in segments}),
        ),
        *((f"{name} segments", count, splits[name]) for name, count in expected.splits.items()),
    ]
    for name, wanted, found in counts:
        if wanted is not None:
            share = f" ({found / wanted - 1:+.1%})" if found != wanted else ""
            yield f"{name}: {found:,}{share}; {expected.source} has {wanted:,}"
