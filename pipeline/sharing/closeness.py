"""How close two sets of rows are: the same numbers for `store diff` and `store reproduce`."""

# n rows

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Closeness:
    """How close n pairs of rows are; NaN where a value is not finite."""

    num_rows: int
    num_equal: int
    """Pairs with the same bits."""
    max_abs: float
    mean_cosine: float
    min_cosine: float

    @classmethod
    def of(cls, left_n: NDArray[Any], right_n: NDArray[Any]) -> "Closeness":
        """Compare (n, ...) numbers of one dtype and shape, at least one pair.

        Raises:
            ValueError: if shapes or dtypes differ, or there are no rows.
        """
        if left_n.shape != right_n.shape or left_n.dtype != right_n.dtype or not len(left_n):
            raise ValueError(
                f"need rows of one shape and dtype, got {left_n.shape} {left_n.dtype} and "
                f"{right_n.shape} {right_n.dtype}"
            )
        bits = [np.ascontiguousarray(of).reshape(len(of), -1) for of in (left_n, right_n)]
        is_equal_n = (bits[0].view(np.uint8) == bits[1].view(np.uint8)).all(axis=1)
        left_nD, right_nD = (of.astype(np.float64) for of in bits)
        with np.errstate(invalid="ignore"):
            max_abs = np.abs(left_nD - right_nD).max()
            cosine_n = _cosine(left_nD, right_nD)
        return cls(
            num_rows=len(left_n),
            num_equal=int(is_equal_n.sum()),
            max_abs=float(max_abs),
            mean_cosine=float(cosine_n.mean()),
            min_cosine=float(cosine_n.min()),
        )

    @classmethod
    def joined(cls, some: Sequence["Closeness"]) -> "Closeness":
        """The closeness of all their pairs together; at least one.

        Raises:
            ValueError: if there is none.
        """
        num_rows = sum(one.num_rows for one in some)
        if not num_rows:
            raise ValueError("need at least one pair of rows")
        return cls(
            num_rows=num_rows,
            num_equal=sum(one.num_equal for one in some),
            max_abs=float(np.max([one.max_abs for one in some])),
            mean_cosine=sum(one.mean_cosine * one.num_rows for one in some) / num_rows,
            min_cosine=float(np.min([one.min_cosine for one in some])),
        )

    def line(self) -> str:
        """For people."""
        return (
            f"{self.num_equal} of {self.num_rows} rows read are equal to the bit; largest "
            f"difference {self.max_abs:.3g}, cosine {self.mean_cosine:.6f} on average and "
            f"{self.min_cosine:.6f} at worst"
        )


def _cosine(left_nD: NDArray[np.float64], right_nD: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) cosine of each pair; two zero vectors point the same way, one alone does not."""
    norm_left_n = np.linalg.norm(left_nD, axis=1)
    norm_right_n = np.linalg.norm(right_nD, axis=1)
    product_n = norm_left_n * norm_right_n
    is_zero_n = product_n == 0
    both_n = (norm_left_n == 0) & (norm_right_n == 0)
    dot_n = (left_nD * right_nD).sum(axis=1)
    found_n = np.where(is_zero_n, both_n, dot_n / np.where(is_zero_n, 1.0, product_n))
    return np.asarray(found_n, dtype=np.float64)
