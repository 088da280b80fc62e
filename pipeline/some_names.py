"""A long list of names, for a message: the first few, and that there are more."""

from collections.abc import Iterable

NUM_SHOWN = 3


def some_names(names: Iterable[str], *, most: int = NUM_SHOWN) -> str:
    """All names, or the first and how many are left.

    >>> some_names("abcdefg")
    'a, b, c and 4 more'
    """
    return _shown(list(names), most, " and {} more")


def first_names(names: Iterable[str]) -> str:
    """All names, or the first and dots, for a message that has their number already.

    >>> first_names("abcdefg")
    'a, b, c, ...'
    """
    return _shown(list(names), NUM_SHOWN, ", ...")


def _shown(names: list[str], most: int, rest: str) -> str:
    return ", ".join(names[:most]) + (rest.format(len(names) - most) if len(names) > most else "")
