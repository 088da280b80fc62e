"""Mean, spread and range of every dimension of an array: part by part, then merged.

Merging follows Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for
computing sample variances": the result is that of one pass over all rows.
"""

# n rows, D the last dimension of a row

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError

Floats = NDArray[np.float64]
FIELDS = ("count_D", "num_nan_D", "mean_D", "squares_D", "min_D", "max_D")
MAX_STATS_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnStats:
    """Statistics of each dimension, over the values that are not NaN."""

    count_D: Floats
    num_nan_D: Floats
    mean_D: Floats
    """NaN where count is 0, as are min and max."""
    squares_D: Floats
    """Sum of squared distances from the mean."""
    min_D: Floats
    max_D: Floats

    @property
    def std_D(self) -> Floats:
        """Standard deviation of the population: divided by count."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.squares_D / self.count_D)

    @classmethod
    def of(cls, values: NDArray[Any]) -> "ColumnStats":
        """Statistics of (n, ..., D) numbers; axes between rows and D are pooled."""
        values_nD = values.reshape(-1, values.shape[-1]).astype(np.float64)
        is_there = ~np.isnan(values_nD)
        count_D = is_there.sum(axis=0).astype(np.float64)
        empty = count_D == 0
        total_D = np.where(is_there, values_nD, 0.0).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_D = total_D / count_D
        centred = np.where(is_there, values_nD - np.where(empty, 0.0, mean_D), 0.0)
        low_D = np.where(is_there, values_nD, np.inf).min(axis=0, initial=np.inf)
        high_D = np.where(is_there, values_nD, -np.inf).max(axis=0, initial=-np.inf)
        return cls(
            count_D=count_D,
            num_nan_D=len(values_nD) - count_D,
            mean_D=mean_D,
            squares_D=(centred**2).sum(axis=0),
            min_D=np.where(empty, np.nan, low_D),
            max_D=np.where(empty, np.nan, high_D),
        )

    def __add__(self, other: "ColumnStats") -> "ColumnStats":
        """Statistics of both sets of rows together."""
        count_D = self.count_D + other.count_D
        mine, theirs = self.count_D > 0, other.count_D > 0
        delta_D = np.where(mine & theirs, other.mean_D - self.mean_D, 0.0)
        safe_D = np.maximum(count_D, 1.0)
        mean_D = np.where(mine, self.mean_D + delta_D * other.count_D / safe_D, other.mean_D)
        between_D = delta_D**2 * self.count_D * other.count_D / safe_D
        return ColumnStats(
            count_D=count_D,
            num_nan_D=self.num_nan_D + other.num_nan_D,
            mean_D=mean_D,
            squares_D=self.squares_D + other.squares_D + between_D,
            min_D=np.fmin(self.min_D, other.min_D),
            max_D=np.fmax(self.max_D, other.max_D),
        )


def merged(stats: Iterable[ColumnStats]) -> ColumnStats | None:
    """Statistics of all rows together; None if there are none."""
    found = list(stats)
    return reduce(lambda left, right: left + right, found) if found else None


def stats_bytes(stats: Mapping[str, ColumnStats]) -> bytes:
    """An .npz with one (6, D) array per name, the same bytes for the same numbers."""
    buffer = io.BytesIO()
    arrays = {
        name: np.stack([getattr(of_array, field) for field in FIELDS])
        for name, of_array in sorted(stats.items())
    }
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_stats(content: bytes, where: str) -> dict[str, ColumnStats]:
    """The statistics in an .npz.

    Raises:
        StoreError: if it is none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # Before anything is unpacked: our files are not compressed.
            if sum(item.file_size for item in archive.infolist()) > len(content):
                raise ValueError("it unpacks to more than it has")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {
                name: ColumnStats(**dict(zip(FIELDS, _six(arrays[name]), strict=True)))
                for name in arrays.files
            }
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{where} holds no statistics ({error}).") from error


def _six(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype != np.float64 or values.ndim != 2:
        raise ValueError(f"an array of {values.dtype} {values.shape}")
    return values
