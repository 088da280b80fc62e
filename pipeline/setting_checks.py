"""Checks that the settings of students and runs have in common."""

import math
from collections.abc import Collection

from egoctl.pipeline.errors import EgoctlError


def refuse_unknown(name: str, got: str, choices: Collection[str]) -> None:
    """Check that a setting is one of its choices.

    Raises:
        EgoctlError: if it is not.
    """
    if got not in choices:
        raise EgoctlError(f"{name} {got!r} is not known; choose {', '.join(choices)}.")


def refuse_below(name: str, value: float | None, *, least: float) -> None:
    """Check that a setting is not too small; None: it was not given.

    Raises:
        EgoctlError: if it is.
    """
    if value is not None and not least <= value < math.inf:
        raise EgoctlError(f"{name} must be {least} or more, got {value}.")


def refuse_not_positive(name: str, value: float) -> None:
    """Check that a setting is above 0, and a finite number.

    Raises:
        EgoctlError: if it is not.
    """
    if not 0 < value < math.inf:
        raise EgoctlError(f"{name} must be above 0, got {value}.")
