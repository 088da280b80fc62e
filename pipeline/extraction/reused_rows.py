"""Spares an extraction the rows that teammates' stores have."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.extraction.part_buffer import PartBuffer
from egoctl.pipeline.extraction.plan import PlannedPart
from egoctl.pipeline.extraction.report import ExtractReport
from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.sharing.reuse import (
    CopiedRows,
    ReusableRows,
    copied_rows,
    keys_of,
    write_copied,
)
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """What can be copied into each of an extraction's stores."""

    stores: Mapping[str, FeatureStore]
    reusable: Mapping[str, ReusableRows]
    """By kind of store; a kind that nobody has is missing."""

    @classmethod
    def of(cls, urls: Sequence[str], stores: Mapping[str, FeatureStore]) -> "Copies":
        """Look into the stores at urls; each is of the kind of one of these stores.

        Raises:
            StoreMismatchError: if one was made by another recipe, or is of neither kind.
        """
        of_kind: dict[str, list[str]] = {}
        for url in urls:
            kind = FeatureStore.open(url).header.kind
            if kind not in stores:
                raise StoreMismatchError(
                    f"--reuse {url} is a store of kind {kind}, but this run fills "
                    f"{' and '.join(stores)}. Leave it out, or add --{kind}."
                )
            of_kind.setdefault(kind, []).append(url)
        reusable = {kind: ReusableRows(of, stores[kind].header) for kind, of in of_kind.items()}
        return cls(stores=stores, reusable=reusable)

    def taken_off(
        self, parts: Iterator[PlannedPart], report: ExtractReport
    ) -> Iterator[PlannedPart]:
        """The parts without what can be copied; parts of a store found whole are written here.

        Damage in a teammate's store costs time, not the run: what cannot be copied is computed.
        """
        for planned in parts:
            of_kind = {"teacher": planned.teacher_part, "inputs": planned.inputs_part}
            done = {
                kind
                for kind, part in of_kind.items()
                if part is not None and self._is_copied(kind, part, report)
            }
            left = {kind: part for kind, part in of_kind.items() if part and kind not in done}
            if not left:
                continue
            part = replace(
                planned,
                job=replace(
                    planned.job, for_teacher="teacher" in left, for_inputs="inputs" in left
                ),
                teacher_part=left.get("teacher"),
                inputs_part=left.get("inputs"),
            )
            part = prefilled(part, self.reusable, say=_say)
            if part.teacher_part is not None and part.job.rows is not None:
                keys = keys_of(part.teacher_part)
                read = set(part.job.rows)
                self._count([k for row, k in enumerate(keys) if row not in read], report)
            yield part

    def _is_copied(self, kind: str, part: Part, report: ExtractReport) -> bool:
        """Whether the store has the whole part now, as others had all its rows."""
        reusable = self.reusable.get(kind)
        if reusable is None or len(reusable.rows_of(part)) < part.num_rows:
            return False
        try:
            found = copied_rows(part, range(part.num_rows), reusable)
        except StoreError as damage:
            _say(f"not copied but computed again, part {part.number}: {damage}")
            return False
        write_copied(self.stores[kind], part, found)
        if kind == "teacher":
            self._count(keys_of(part), report)
        return True

    def _count(self, keys: list[tuple[str | None, str | None]], report: ExtractReport) -> None:
        report.num_reused += len(keys)
        report.seconds_saved += self.reusable["teacher"].gpu_seconds(keys)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def prefilled(
    planned: PlannedPart, reusable: Mapping[str, ReusableRows], *, say: Callable[[str], object]
) -> PlannedPart:
    """The part without the clips that need not be read, its prefill to put their copies in place.

    reusable is by kind of store. A clip is read unless every store that the part fills finds its
    row; its rows are copied here and now, so that damage in a teammate's store costs time and not
    the run: say is told, and all clips are read.

    Raises:
        ValueError: if clips were taken off the part's job before.
    """
    if planned.job.rows is not None:
        raise ValueError("clips were taken off this part's job before")
    of_kind = {"teacher": planned.teacher_part, "inputs": planned.inputs_part}
    parts = {kind: part for kind, part in of_kind.items() if part is not None}
    if not parts.keys() <= reusable.keys():
        return planned
    found = set(range(planned.num_rows))
    for kind, part in parts.items():
        found &= set(reusable[kind].rows_of(part))
    if not found:
        return planned
    indices = sorted(found)
    try:
        copies = {kind: copied_rows(part, indices, reusable[kind]) for kind, part in parts.items()}
    except StoreError as damage:
        say(f"not copied but read again, {planned.num_rows} clips: {damage}")
        return planned
    left = [row for row in range(planned.num_rows) if row not in found]
    job = replace(planned.job, sources=[planned.job.sources[row] for row in left], rows=left)
    return replace(planned, job=job, prefill=lambda buffer: _fill(buffer, copies))


def _fill(buffer: PartBuffer, copies: Mapping[str, CopiedRows]) -> None:
    for kind, copied in copies.items():
        indices = list(copied.indices)
        for name, values in copied.arrays.items():
            buffer.arrays[kind][name][indices] = values
        for outcomes in buffer.outcomes[kind].values():
            for index in indices:
                outcomes[index] = RowOutcome()
