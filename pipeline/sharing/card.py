"""A store's README: what it is, how it was made, how full it is, how to read it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.column_stats import ColumnStats, Floats
from egoctl.pipeline.store.header import StoreHeader
from egoctl.pipeline.store.outcomes import outcome_counts

WARNING = (
    "> **Warning: the teacher's weights are RANDOM.** These targets mean nothing; the store is "
    "good for trying out code only."
)
KINDS = {
    "teacher": "Features and logits that a video network, the teacher, gave for every clip.",
    "inputs": "What a student network reads of every clip: a few frames (JPEG) and the head IMU.",
}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
         (10**7, "1M<n<10M"), (10**8, "10M<n<100M"))  # fmt: skip
"""The names that hubs of data sets have for sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What is not in a store: its publisher must add it."""

    licences: Mapping[str, str]
    """By the option that gave it; see `licences_of`."""
    dataset: str | None = None
    """The videos' name."""

    def __post_init__(self) -> None:
        for option, licence in self.licences.items():
            if not licence.strip():
                raise EgoctlError(f"{option} is empty. Look it up and name it, such as CC-BY-4.0.")


def licences_of(header: StoreHeader) -> dict[str, str]:
    """The options for the licences that a store of this kind is under, and what each is of."""
    teacher = {"--teacher-license": "teacher's weights"} if header.kind == "teacher" else {}
    return teacher | {"--dataset-license": "dataset"}


def card(store: FeatureStore, facts: CardFacts) -> str:
    """The card as Markdown with a YAML header.

    Raises:
        KeyError: if facts lack one of the licences in `licences_of`.
        StoreError: if receipts or statistics are damaged.
    """
    return "\n".join(_lines(store, facts)) + "\n"


def _lines(store: FeatureStore, facts: CardFacts) -> Iterator[str]:
    header, rows = store.header, store.rows()
    name = store.url.rstrip("/").rpartition("/")[2]
    yield from _yaml(store, facts, num_rows=len(rows))
    yield ""
    yield f"# {_plain(name)}"
    yield ""
    if header.recipe.get("weights_are_random"):
        yield from (WARNING, "")
    dataset = f" The videos are from {_plain(facts.dataset)}." if facts.dataset else ""
    yield f"{KINDS[header.kind]}{dataset} Made with egoctl; the arrays are plain Zarr v3."
    yield from ("", "## Licences", "")
    for option, of in licences_of(header).items():
        yield f"- {of}: {_plain(facts.licences[option])}"
    yield from ("", "## Recipe", "", f"Fingerprint `{header.fingerprint}`.", "")
    yield from _table(("field", "value"), [(k, json.dumps(v)) for k, v in header.recipe.items()])
    if header.trained_on is not None:
        footage = _plain(header.trained_on.sentence())
        yield from ("", f"The teacher was {footage}; `store.json` names their spans.")
    yield from ("", "## Clips", "")
    yield from _outcomes(rows)
    yield from ("", "## Arrays", "")
    specs = store.array_specs().items()
    shapes = [(array, "x".join(map(str, shape)), dtype) for array, (shape, dtype) in specs]
    yield from _table(("array", "shape", "dtype"), shapes)
    if header.class_names is not None:
        yield from ("", f"The logits are of {len(header.class_names)} classes, named in the store.")
    yield from ("", "## Statistics", "")
    yield "Over all finished rows; a range goes from the lowest dimension to the highest."
    yield ""
    yield from _statistics(store.statistics())
    yield from ("", "## How to read it", "", "```python")
    yield "from egoctl.pipeline.store.feature_store import FeatureStore"
    yield f"store = FeatureStore.open({json.dumps(name)})  # a path, or s3://..."
    yield (
        f"values = store.read({json.dumps(header.arrays[0].name)}, "
        'store.rows().filter(outcome="ok")["row"])'
    )
    yield from ("```", "", "## How to cite", "")
    yield "Cite the teacher and the dataset as their authors ask for; a store does not know how."


def _yaml(store: FeatureStore, facts: CardFacts, *, num_rows: int) -> Iterator[str]:
    # JSON strings are YAML strings, whatever is in them.
    yield "---"
    yield "license: other"
    licences = [
        f"{of}: {facts.licences[option]}" for option, of in licences_of(store.header).items()
    ]
    yield f"license_name: {json.dumps('; '.join(licences))}"
    yield "tags:"
    tags = ["egoctl", "egocentric-video", "zarr", f"{store.header.kind}-store"]
    teacher = store.header.recipe.get("teacher")
    yield from (f"- {json.dumps(tag)}" for tag in [*tags, *([teacher] if teacher else [])])
    yield "size_categories:"
    size = next((name for limit, name in SIZES if num_rows < limit), "n>100M")
    yield f"- {json.dumps(size)}"
    yield "---"


def _outcomes(rows: pl.DataFrame) -> Iterator[str]:
    yield f"{len(rows)} clips of {rows['video_id'].n_unique()} videos."
    for stream, counts in outcome_counts(rows).items():
        yield ""
        found = [(code, f"{count}") for code, count in counts.most_common()]
        yield from _table((stream, "clips"), found)


def _statistics(stats: Mapping[str, ColumnStats]) -> Iterator[str]:
    found = [
        (
            name,
            _range(of.mean_D),
            _range(of.std_D),
            _range(np.concatenate([of.min_D, of.max_D])),
            f"{int(of.num_nan_D.sum())}",
        )
        for name, of in sorted(stats.items())
    ]
    yield from _table(("array", "mean", "standard deviation", "values", "NaN values"), found)


def _range(values_D: Floats) -> str:
    known = values_D[~np.isnan(values_D)]
    return f"{known.min():.4g} to {known.max():.4g}" if len(known) else "none"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Text from a store or a person that neither ends a table's cell nor becomes HTML."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"([|<>`])", r"\\\1", text)
