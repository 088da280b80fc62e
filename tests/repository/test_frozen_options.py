"""Every command and every option is as it was recorded: nobody's scripts break by accident.

The recording is tests/fixtures/options/options.json. A change that is meant is named here, with its
reason; after a release the recording may be made anew:
python -m egoctl.tests.repository.test_frozen_options > tests/fixtures/options/options.json
"""

import json
import sys
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperOption

import egoctl.cli

RECORDED: dict[str, Any] = json.loads(
    Path(__file__).parents[1].joinpath("fixtures", "options", "options.json").read_text("utf-8")
)
NAMES = {str: "text", int: "integer", float: "float", bool: "boolean", Path: "path"}

ADDED = {
    "egoctl --install-completion",
    "egoctl --show-completion",
    "egoctl evaluate --device",
}
"""Commands ("egoctl new") and options ("egoctl evaluate --device") that the recording lacks."""
SEVERAL = "several teachers are extracted in one pass"
SHARED = "one text for the commands that have the option"
SHOWN = "the default is shown in one way, beside the text"
PLAINER = "a text that can be read alone"
HELP_CHANGED = {
    "egoctl": "a teacher says nothing; its targets are stored",
    "egoctl extract-teacher": SEVERAL,
    "egoctl finetune-teacher": PLAINER,
    "egoctl store diff": PLAINER,
    "egoctl store gc --dry-run": PLAINER,
    "egoctl study --dry-run": PLAINER,
    **{
        f"egoctl {command} {option}": why
        for command, why, options in (
            ("extract-teacher", SEVERAL, ("--store", "--teacher", "--trained-on", "--weights")),
            ("extract-teacher", PLAINER, ("--plan",)),
            ("finetune-teacher", PLAINER, ("--seed", "--val-split", "--weight-decay")),
            ("pretrain-imu", PLAINER, ("--losses", "--precision", "--seed", "--temperature")),
            ("pretrain-imu", PLAINER, ("--val-split", "--weight-decay")),
            ("pretrain-imu", SHARED, ("--batch-size", "--devices", "--feature-cache", "--frames")),
            ("pretrain-imu", SHARED, ("--frame-selection", "--imu-readout", "--store")),
            ("pretrain-imu", SHARED, ("--workers",)),
            ("profile", SHOWN, ("--classes", "--frames", "--image-encoder", "--method")),
            ("profile", SHOWN, ("--teacher-dim",)),
            ("train-student", SHARED, ("--batch-size", "--workers")),
            ("train-student", PLAINER, ("--imu-last-form",)),
            ("train-student", SHOWN, ("--accumulate", "--alpha", "--beta", "--epochs", "--seed")),
            ("train-student", SHOWN, ("--fusion-hidden", "--imu-out", "--lr", "--precision")),
            ("train-student", SHOWN, ("--tau", "--train-split", "--val-split", "--weight-decay")),
        )
        for option in options
    },
}
"""Why a help text is another one, by "egoctl evaluate" or "egoctl evaluate --split"."""


NOW_REPEATED = {
    f"egoctl extract-teacher {option}"
    for option in ("--store", "--teacher", "--trained-on", "--weights")
}
"""Options that may be given several times now, once for each teacher."""
NOW_CHOICES = {
    "egoctl profile --imu-readout",
    "egoctl profile --method",
    "egoctl train-student --device",
    "egoctl train-student --imu-readout",
}
"""Options that took any text, to refuse most of it later: now their words are listed."""


def plain(value: Any) -> Any:
    """The value if JSON has it, its elements likewise, else its text."""
    if callable(value):
        return "(computed)"
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def type_name(kind: Any) -> str:
    """What is typed: text, integer, choice, ..."""
    if typing.get_origin(kind) is list:
        return type_name(typing.get_args(kind)[0])
    if typing.get_origin(kind) is tuple:
        return f"<{' '.join(type_name(part) for part in typing.get_args(kind))}>"
    return "choice" if choices(kind) else NAMES[kind]


def choices(kind: Any) -> list[str]:
    """The words that can be typed; of other types none."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(one.value) for one in kind]
    is_literal = typing.get_origin(kind) is typing.Literal
    return [str(one) for one in typing.get_args(kind)] if is_literal else []


def described(parameter: Any) -> dict[str, Any]:
    """All that a caller sees of an option or argument."""
    kind = parameter.type_descriptor.annotation
    return {
        "kind": "option" if isinstance(parameter, TyperOption) else "argument",
        "spellings": sorted(parameter.opts),
        "other_spellings": sorted(parameter.secondary_opts),
        "required": parameter.required,
        "default": plain(parameter.default),
        "is_flag": getattr(parameter, "is_flag", False),
        "multiple": parameter.multiple,
        "nargs": parameter.nargs,
        "type": type_name(kind),
        "choices": choices(kind),
        "metavar": parameter.metavar,
        "help": parameter.help,
        "seldom": {
            name: plain(getattr(parameter, name))
            for name in ("min", "max", "envvar", "hidden", "count", "is_eager", "prompt")
            if getattr(parameter, name, None)
        },
    }


def name_of(parameter: Any) -> str:
    """An option's longest spelling; an argument's name in angle brackets."""
    if not isinstance(parameter, TyperOption):
        return f"<{parameter.name}>"
    return str(max(sorted(parameter.opts), key=len))


def commands(app: typer.Typer) -> dict[str, Any]:
    """Every command and group by what is typed, with its help and its options by name."""
    found: dict[str, Any] = {}
    left: list[tuple[str, Any]] = [("egoctl", typer.main.get_command(app))]
    while left:
        path, command = left.pop()
        found[path] = {
            "help": command.help,
            "options": {name_of(parameter): described(parameter) for parameter in command.params},
        }
        for word, below in getattr(command, "commands", {}).items():
            left.append((f"{path} {word}", below))
    return found


def options(of: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every option by "COMMAND OPTION"."""
    return {
        f"{path} {name}": option
        for path, command in of.items()
        for name, option in command["options"].items()
    }


def helps(of: dict[str, Any]) -> dict[str, str | None]:
    """The help text of every command and option."""
    return {path: command["help"] for path, command in of.items()} | {
        name: option["help"] for name, option in options(of).items()
    }


@pytest.fixture(scope="module")
def today() -> dict[str, Any]:
    return commands(egoctl.cli.app)


def test_every_recorded_command_and_option_is_there(today: dict[str, Any]) -> None:
    assert set(RECORDED) - set(today) == set()
    assert set(options(RECORDED)) - set(options(today)) == set()


def test_what_the_recording_lacks_is_named_as_added(today: dict[str, Any]) -> None:
    new_commands = set(today) - set(RECORDED)
    new_options = {
        name
        for name in set(options(today)) - set(options(RECORDED))
        if not any(name.startswith(f"{command} ") for command in new_commands)
    }

    assert new_commands | new_options == ADDED


@pytest.mark.parametrize("name", sorted(options(RECORDED)))
def test_an_option_takes_what_it_took(name: str, today: dict[str, Any]) -> None:
    before, now = options(RECORDED)[name], options(today)[name]
    if name in NOW_REPEATED:
        assert (before["multiple"], now["multiple"]) == (False, True)
        default = before["default"]
        before = before | {
            "multiple": True, "default": default if default is None else [default]
        }  # fmt: skip
    if name in NOW_CHOICES:
        assert (before["type"], now["type"]) == ("text", "choice")
        before = before | {"type": "choice", "choices": now["choices"]}

    assert {key: value for key, value in now.items() if key != "help"} == {
        key: value for key, value in before.items() if key != "help"
    }


def test_help_texts_are_those_recorded_but_for_changes_with_a_reason(today: dict[str, Any]) -> None:
    now = helps(today)
    differ = {name for name, text in helps(RECORDED).items() if now.get(name) != text}

    assert differ == set(HELP_CHANGED)


if __name__ == "__main__":
    json.dump(commands(egoctl.cli.app), sys.stdout, indent=1, sort_keys=True, ensure_ascii=False)
    sys.stdout.write("\n")
