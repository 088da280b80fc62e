"""TOML files as records: every key is known, every value fits its field, mistakes are named.

All of our TOML files are read here: settings of a run, plans of studies, recipes of data sets.
"""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from egoctl.pipeline.errors import EgoctlError

if TYPE_CHECKING:
    from cattrs import Converter  # slow to import, and only files need it

Record = TypeVar("Record")
WORDS: Mapping[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text",
}  # fmt: skip
"""What a value of a type is called in messages."""


class MisfitError(ValueError):
    """A value that its field cannot hold. The text is what the field wants."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        EgoctlError: if there is no such file or it is not TOML.
    """
    import tomllib  # as difflib and cattrs: commands without a file start faster

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EgoctlError(f"{path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EgoctlError(f"{path} is not TOML: {error}.") from error


def record_of(kind: type[Record], values: Mapping[str, Any], *, where: str | Path = "") -> Record:
    """The record that a table describes; records that are in it already stay as they are.

    where: the file or table that messages begin with.

    Raises:
        EgoctlError: naming the key that is unknown or missing, or has a value that cannot be.
    """
    from cattrs import BaseValidationError

    try:
        return _converter().structure(values, kind)
    except (EgoctlError, BaseValidationError) as error:
        start = f"{where}: " if where else ""
        raise EgoctlError(start + _sentence(error, values)) from error


def near_miss(key: str, known: Collection[str]) -> str:
    """The sentence after an unknown key: the nearest known one, or all of them."""
    import difflib

    near = difflib.get_close_matches(key, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."


def _sentence(error: Exception, value: Any, key: str = "") -> str:
    """What is wrong first, and at which key: an error holds one for each of its wrong values."""
    from cattrs import (
        AttributeValidationNote,
        BaseValidationError,
        ForbiddenExtraKeysError,
        IterableValidationNote,
    )

    if isinstance(error, BaseValidationError):
        # A key that is spelled wrong is also missing: the first of the two is what helps.
        inner = min(error.exceptions, key=lambda one: not isinstance(one, ForbiddenExtraKeysError))
        for note in getattr(inner, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                name: Any = note.name
            elif isinstance(note, IterableValidationNote):
                name = note.index
            else:
                continue
            key = f"{key}.{name}" if key else str(name)
            if isinstance(inner, KeyError):
                return f"{key} is missing."
            value = value[name]
        return _sentence(inner, value, key)
    if isinstance(error, MisfitError):
        return f"{key} must be {error}, got {value!r}."
    at = f"{key}: " if key else ""
    if isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl)]
        unknown = min(error.extra_fields)
        return f"{at}unknown key {unknown!r}. {near_miss(unknown, known)}"
    return at + str(error)


@cache
def _converter() -> "Converter":
    """Takes values as they are: no text becomes a number, and none a list of its letters."""
    from cattrs import Converter
    from cattrs.cols import (
        homogenous_tuple_structure_factory,
        is_mapping,
        mapping_structure_factory,
    )
    from cattrs.gen import make_dict_structure_fn

    converter = Converter(forbid_extra_keys=True)
    for kind in WORDS:
        converter.register_structure_hook(kind, _plain)
    converter.register_structure_hook_func(_is_choice, _choice)
    holders: tuple[tuple[Any, Any, str, Any], ...] = (
        (dataclasses.is_dataclass, Mapping, "a table", make_dict_structure_fn),
        (is_mapping, Mapping, "a table", mapping_structure_factory),
        (_is_tuple, (list, tuple), "a list", homogenous_tuple_structure_factory),
    )
    for is_kind, holder, wanted, inside in holders:
        converter.register_structure_hook_factory(
            is_kind, partial(_held, holder=holder, wanted=wanted, inside=inside)
        )
    return converter


def _is_choice(kind: Any) -> bool:
    origin: Any = typing.get_origin(kind)
    return origin is Literal


def _is_tuple(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _held(kind: Any, converter: "Converter", *, holder: Any, wanted: str, inside: Any) -> Any:
    """cattrs' own way of reading a kind of table or list, once the value is known to be one."""
    hook = inside(kind, converter)

    def structured(value: Any, _: Any) -> Any:
        if type(value) is kind:
            return value
        if not isinstance(value, holder):
            raise MisfitError(wanted)
        return hook(value, kind)

    return structured


def _plain(value: Any, kind: Any) -> Any:
    fitting = {float: (int, float), Path: (str, Path)}.get(kind, kind)
    if not isinstance(value, fitting) or isinstance(value, bool) != (kind is bool):
        raise MisfitError(WORDS[kind])
    return kind(value)


def _choice(value: Any, kind: Any) -> Any:
    if value not in typing.get_args(kind):
        raise MisfitError(f"one of {', '.join(typing.get_args(kind))}")
    return value
