"""A command's options made of a record: its fields' names, types, defaults and docstrings, once.

A field `num_epochs: int = 50` followed by a docstring becomes `--epochs INTEGER`, with the first
paragraph of the docstring as its help. Records inside a record contribute their fields.
"""

import ast
import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache, wraps
from itertools import pairwise
from typing import Annotated, Any

import typer

SPELLINGS = {"learning_rate": "lr", "ema_decay": "ema", "kd_tau_squared": "tau_squared"}
"""Options that are not called like their fields."""
Command = Callable[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A field of a record, as an option."""

    name: str
    kind: Any
    default: Any
    """`inspect.Parameter.empty`: the option is required."""
    help: str | None

    def parameter(self, *, is_optional: bool) -> inspect.Parameter:
        """What typer makes an option of. is_optional: what is not given is None."""
        is_required = self.default is inspect.Parameter.empty
        kind = str if self.kind == tuple[str, ...] else self.kind
        default = ",".join(self.default) if isinstance(self.default, tuple) else self.default
        shown: bool | str = True
        if is_optional and not is_required:
            shown = str(default) if default else False
            kind, default = kind | None, None
        spelling = option_name(self.name)
        if self.kind is bool and self.default is True:
            spelling += f"/--no-{spelling[2:]}"
        option = typer.Option(spelling, help=self.help, show_default=shown)
        return _parameter(self.name, Annotated[kind, option], default)


def option_name(field: str) -> str:
    """How the option of a record's field is spelled."""
    name = SPELLINGS.get(field, field).removeprefix("num_").removesuffix("_px")
    return f"--{name.replace('_', '-')}"


def options_of(
    record: type,
    *,
    asked: Mapping[str, Any] | None = None,
    required: Collection[str] = (),
    left_out: Collection[str] = (),
    only_given: bool = False,
) -> Callable[[Command], Command]:
    """Put options for a record's fields before a command's own options.

    The command's first parameter is the record, or with only_given a dict of those fields that
    were given on the command line.

    asked: annotations of fields that become other options than their types and docstrings would.
    required: fields that must be given although the record has a default.
    left_out: fields that no option sets.
    """
    fields = [
        dataclasses.replace(field, default=inspect.Parameter.empty)
        if field.name in required
        else field
        for field in fields_of(record)
        if field.name not in left_out
    ]

    def decorated(command: Command) -> Command:
        parameters = [field.parameter(is_optional=only_given) for field in fields]
        for place, one in enumerate(parameters):
            if asked and one.name in asked:
                parameters[place] = _parameter(one.name, asked[one.name], one.default)
        own = list(inspect.signature(command).parameters.values())[1:]
        # Arguments and required options first, as they are read first.
        parameters.sort(key=lambda one: one.default is not inspect.Parameter.empty)

        @wraps(command)
        def run(**values: Any) -> None:
            found = {field.name: values.pop(field.name) for field in fields}
            if only_given:
                found = {name: value for name, value in found.items() if value is not None}
            command(found if only_given else _made(record, found), **values)

        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*parameters, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
        )
        run.__annotations__ = {one.name: one.annotation for one in (*parameters, *own)}
        return run

    return decorated


def fields_of(record: type) -> Iterator[Field]:
    """The fields of a record, and in place of a record in it that one's fields."""
    kinds, helps = typing.get_type_hints(record), _docstrings(record)
    for field in dataclasses.fields(record):
        if dataclasses.is_dataclass(kinds[field.name]):
            yield from fields_of(kinds[field.name])
        else:
            is_required = field.default is dataclasses.MISSING
            yield Field(
                name=field.name,
                kind=kinds[field.name],
                default=inspect.Parameter.empty if is_required else field.default,
                help=helps.get(field.name),
            )


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _made(record: type, values: Mapping[str, Any]) -> Any:
    kinds = typing.get_type_hints(record)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        if dataclasses.is_dataclass(kinds[field.name]):
            given[field.name] = _made(kinds[field.name], values)
        elif field.name in values:
            value = values[field.name]
            if kinds[field.name] == tuple[str, ...]:
                value = tuple(name.strip() for name in value.split(",") if name.strip())
            given[field.name] = value
    return record(**given)


def _docstrings(record: type) -> dict[str, str]:
    """The first paragraph after each field of a record and of those that it extends."""
    found: dict[str, str] = {}
    for kind in reversed(record.__mro__):
        if dataclasses.is_dataclass(kind):
            for field, after in pairwise(_classes_of(kind.__module__)[kind.__name__].body):
                match field, after:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        found[name] = " ".join(text.split("\n\n")[0].split())
    return found


@cache
def _classes_of(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
