"""What became of each row: the table of clips joined with the receipts of its parts."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.records import IMU_NONE, OK, RowOutcome
from egoctl.pipeline.store.receipt import Receipt

if TYPE_CHECKING:
    import polars as pl  # slow to import; a program that names a store may never read one

OUTCOME_STREAMS = ("outcome", "imu_outcome")
"""Names of a receipt's lists; only inputs stores have the second."""
NOT_DONE = "not done"


def streams_of_kind(kind: str) -> tuple[str, ...]:
    """The streams that a store of this kind has: 'teacher' or 'inputs'."""
    return OUTCOME_STREAMS if kind == "inputs" else OUTCOME_STREAMS[:1]


def streams_in(rows: "pl.DataFrame") -> list[str]:
    """The streams that a table of rows has."""
    return [stream for stream in OUTCOME_STREAMS if stream in rows.columns]


def stream_of(array: str) -> str:
    """The stream that shows whether a row of the array has data."""
    return "imu_outcome" if array.startswith("imu") else "outcome"


def is_failed(rows: "pl.DataFrame") -> "pl.Expr":
    """Whether anything of a row failed, as an expression over these rows."""
    import polars as pl

    return pl.any_horizontal(pl.col(streams_in(rows)).is_in([OK, IMU_NONE]).not_())


def outcome_counts(rows: "pl.DataFrame") -> dict[str, Counter[str]]:
    """How many rows have which outcome, by stream; 'not done' where there is none yet."""
    return {
        stream: Counter(code or NOT_DONE for code in rows[stream]) for stream in streams_in(rows)
    }


def reason_column(stream: str) -> str:
    """'reason' for 'outcome', 'imu_reason' for 'imu_outcome'."""
    return stream.replace("outcome", "reason")


def with_outcomes(
    clips: "pl.DataFrame",
    streams: Sequence[str],
    receipt_of: Callable[[int], Receipt | None],
    *,
    may_repeat: bool = True,
) -> "pl.DataFrame":
    """clips with a code and a reason column per stream; of a repeated clip_id only the last row.

    Without may_repeat nobody looks for repeated ones, which takes long among millions.

    Raises:
        StoreError: if a receipt does not have an outcome for each of its part's rows.
    """
    import polars as pl

    columns: dict[str, list[str | None]] = {}
    for stream in streams:
        columns[stream], columns[reason_column(stream)] = [], []
    numbers, counts = np.unique(clips["part"].to_numpy(), return_counts=True)
    for number, num_rows in zip(numbers.tolist(), counts.tolist(), strict=True):
        receipt = receipt_of(number)
        for stream in streams:
            outcomes: Sequence[RowOutcome | None] = [None] * num_rows
            if receipt is not None:
                outcomes = receipt.outcomes.get(stream, ())
                if len(outcomes) != num_rows:
                    raise StoreError(
                        f"the receipt of part {number} has {len(outcomes)} outcomes for "
                        f"{num_rows} rows. 'egoctl store verify' reports more."
                    )
            columns[stream] += [row.code if row else None for row in outcomes]
            columns[reason_column(stream)] += [row.reason if row else None for row in outcomes]
    rows = clips.with_columns(
        pl.Series(name, values, dtype=pl.String) for name, values in columns.items()
    )
    if not may_repeat:
        return rows
    return rows.unique("clip_id", keep="last", maintain_order=True)
