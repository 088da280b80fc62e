"""Values as an array stores them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError


def fitted(values: NDArray[Any], dtype: np.dtype[Any], *, where: str) -> NDArray[Any]:
    """values in dtype; byte strings as they are.

    Raises:
        StoreError: if a finite value would become infinite.
    """
    if values.dtype == object:
        return values
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    if np.isinf(stored).any() and np.isfinite(values[np.isinf(stored)]).any():
        raise StoreError(
            f"{where}: values reach {np.nanmax(np.abs(values)):.3g}, too large for {dtype}. "
            "Start a new store with --dtype float32."
        )
    return stored
