"""Spares an extraction the rows that teammates' stores have."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.extraction.part_buffer import PartBuffer
from egoctl.pipeline.extraction.part_queue import PlannedPart
from egoctl.pipeline.extraction.report import ExtractReport
from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.sharing.reuse import (
    CopiedRows,
    Key,
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
    """By store; one whose rows nobody has is missing."""

    @classmethod
    def of(cls, urls: Sequence[str], stores: Mapping[str, FeatureStore]) -> "Copies":
        """Look into the stores at urls; each is of the kind of one of these stores.

        Of several teachers' stores one made like it gets its rows.

        Raises:
            StoreMismatchError: if one was made by another recipe, or is of neither kind.
        """
        of_store: dict[str, list[str]] = {}
        for url in urls:
            header = FeatureStore.open(url).header
            of_kind = [name for name in stores if stores[name].header.kind == header.kind]
            if not of_kind:
                kinds = dict.fromkeys(store.header.kind for store in stores.values())
                raise StoreMismatchError(
                    f"--reuse {url} is a store of kind {header.kind}, but this run fills "
                    f"{' and '.join(kinds)}. Leave it out, or add --{header.kind}."
                )
            alike = [
                name for name in of_kind if stores[name].header.fingerprint == header.fingerprint
            ]
            if len(of_kind) > 1 and not alike:
                raise StoreMismatchError(
                    f"--reuse {url} was made with another recipe than each of the {len(of_kind)} "
                    "teachers' stores of this run ('egoctl store diff' shows in what). "
                    "Leave it out."
                )
            # A single store names every difference itself.
            for name in alike or of_kind:
                of_store.setdefault(name, []).append(url)
        reusable = {name: ReusableRows(of, stores[name].header) for name, of in of_store.items()}
        return cls(stores=stores, reusable=reusable)

    def taken_off(
        self, parts: Iterator[PlannedPart], report: ExtractReport
    ) -> Iterator[PlannedPart]:
        """The parts without what can be copied; parts of a store found whole are written here.

        Damage in a teammate's store costs time, not the run: what cannot be copied is computed.
        """
        for planned in parts:
            left = {
                name: part
                for name, part in planned.parts.items()
                if not self._is_copied(name, part, report)
            }
            if not left:
                continue
            part = prefilled(planned.only(left), self.reusable, say=_say)
            if part.job.rows is not None:
                read = set(part.job.rows)
                for name, of_store in part.parts.items():
                    keys = enumerate(keys_of(of_store))
                    self._count(name, [key for row, key in keys if row not in read], report)
            yield part

    def _is_copied(self, name: str, part: Part, report: ExtractReport) -> bool:
        """Whether the store has the whole part now, as others had all its rows."""
        reusable = self.reusable.get(name)
        if reusable is None or len(reusable.rows_of(part)) < part.num_rows:
            return False
        try:
            found = copied_rows(part, range(part.num_rows), reusable)
        except StoreError as damage:
            _say(f"not copied but computed again, part {part.number}: {damage}")
            return False
        write_copied(self.stores[name], part, found)
        self._count(name, keys_of(part), report)
        return True

    def _count(self, name: str, keys: list[Key], report: ExtractReport) -> None:
        """Count rows that a teacher was spared."""
        if self.stores[name].header.kind == "teacher":
            report.num_reused += len(keys)
            report.seconds_saved += self.reusable[name].gpu_seconds(keys)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def prefilled(
    planned: PlannedPart, reusable: Mapping[str, ReusableRows], *, say: Callable[[str], object]
) -> PlannedPart:
    """The part without the clips that need not be read, its prefill to put their copies in place.

    reusable is by store. A clip is read unless every store that the part fills finds its
    row; its rows are copied here and now, so that damage in a teammate's store costs time and not
    the run: say gets a line, and all clips are read.

    Raises:
        ValueError: if clips were taken off the part's job before.
    """
    if planned.job.rows is not None:
        raise ValueError("clips were taken off this part's job before")
    parts = planned.parts
    if not parts.keys() <= reusable.keys():
        return planned
    found = set(range(planned.num_rows))
    for name, part in parts.items():
        found &= set(reusable[name].rows_of(part))
    if not found:
        return planned
    indices = sorted(found)
    try:
        copies = {name: copied_rows(part, indices, reusable[name]) for name, part in parts.items()}
    except StoreError as damage:
        say(f"not copied but read again, {planned.num_rows} clips: {damage}")
        return planned
    left = [row for row in range(planned.num_rows) if row not in found]
    job = replace(planned.job, sources=[planned.job.sources[row] for row in left], rows=left)
    return replace(planned, job=job, prefill=lambda buffer: _fill(buffer, copies))


def _fill(buffer: PartBuffer, copies: Mapping[str, CopiedRows]) -> None:
    for store, copied in copies.items():
        indices = list(copied.indices)
        for array, values in copied.arrays.items():
            buffer.arrays[store][array][indices] = values
        for outcomes in buffer.outcomes[store].values():
            for index in indices:
                outcomes[index] = RowOutcome()
