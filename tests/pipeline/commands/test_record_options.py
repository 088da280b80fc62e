"""Options made of a record: what a field becomes, and what a command is given."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from egoctl.pipeline.commands.record_options import fields_of, option_name, options_of


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A record inside the other."""

    side_px: int = 8
    """Side of a square.

    Not for users."""
    is_round: bool = False
    """Round corners."""
    has_border: bool = True
    """A line
    around it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What the record extends."""

    run: str
    """Folder of the run."""
    learning_rate: float = 0.5
    """How fast."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Config(Base):
    """The record of the tests' command."""

    shape: Shape = dataclasses.field(default_factory=Shape)
    num_epochs: int = 3
    """Rounds."""
    kind: Literal["a", "b"] = "a"
    """Which one."""
    splits: tuple[str, ...] = ("train", "val")
    """Names with commas between."""
    cache: Path | None = None
    """A folder."""


def called(*words: str, **how: Any) -> Any:
    """What the command gets for these words; for wrong ones, the exit code and the message."""
    got: list[Any] = []
    app = typer.Typer()

    @app.command()
    @options_of(Config, **how)
    def command(config: Any, own: Annotated[str, typer.Option(help="Its own.")] = "x") -> None:
        """A command."""
        got.append((config, own))

    result = CliRunner().invoke(app, list(words))
    return got[0] if got else (result.exit_code, result.output)


def test_a_field_becomes_an_option_named_and_described_like_it() -> None:
    described = {option_name(field.name): field.help for field in fields_of(Config)}

    assert described == {
        "--run": "Folder of the run.",
        "--lr": "How fast.",
        "--side": "Side of a square.",
        "--is-round": "Round corners.",
        "--has-border": "A line around it.",
        "--epochs": "Rounds.",
        "--kind": "Which one.",
        "--splits": "Names with commas between.",
        "--cache": "A folder.",
    }


def test_the_command_gets_the_record_beside_its_own_options() -> None:
    assert called("--run", "r") == (Config(run="r"), "x")
    assert called(
        *("--run", "r", "--lr", "1", "--side", "4", "--is-round", "--no-has-border", "--epochs"),
        *("9", "--kind", "b", "--splits", "one, two", "--cache", "c", "--own", "y"),
    ) == (
        Config(
            run="r", learning_rate=1.0, num_epochs=9, kind="b", splits=("one", "two"),
            cache=Path("c"), shape=Shape(side_px=4, is_round=True, has_border=False),
        ),
        "y",
    )  # fmt: skip


def test_a_command_may_get_only_what_was_given() -> None:
    how = {"only_given": True, "required": ("kind",)}

    assert called("--run", "r", "--kind", "b", **how) == ({"run": "r", "kind": "b"}, "x")
    assert called("--run", "r", **how)[0] == 2


def test_a_field_may_be_asked_for_in_another_way_or_not_at_all() -> None:
    run = Annotated[str, typer.Argument(metavar="RUN", help="Folder.")]

    assert called("r", asked={"run": run}) == (Config(run="r"), "x")
    assert called("--run", "r", "--side", "4", left_out=("side_px",))[0] == 2


@pytest.mark.parametrize("words", [(), ("--run", "r", "--kind", "c"), ("--run", "r", "--lr", "x")])
def test_what_a_field_cannot_be_is_wrong_use(words: tuple[str, ...]) -> None:
    assert called(*words)[0] == 2
