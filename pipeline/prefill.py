"""Takes the rows that other stores have off what an extraction must read."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.extraction.part_buffer import PartBuffer
from egoctl.pipeline.extraction.plan import PlannedPart
from egoctl.pipeline.sharing.reuse import CopiedRows, ReusableRows, copied_rows
from egoctl.pipeline.store.receipt import RowOutcome


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
