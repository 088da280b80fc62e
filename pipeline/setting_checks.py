"""Checks that the settings of students and runs have in common."""

from collections.abc import Collection

from egoctl.pipeline.errors import EgoctlError


def refuse_unknown(name: str, got: str, choices: Collection[str]) -> None:
    """Check that a setting is one of its choices.

    Raises:
        EgoctlError: if it is not.
    """
    if got not in choices:
        raise EgoctlError(f"{name} {got!r} is not known; choose {', '.join(choices)}.")


def refuse_below(name: str, value: int | None, *, least: int) -> None:
    """Check that a setting is not too small; None: it was not given.

    Raises:
        EgoctlError: if it is.
    """
    if value is not None and value < least:
        raise EgoctlError(f"{name} must be {least} or more, got {value}.")
