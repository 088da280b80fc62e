"""egoctl in the test's process, as a shell would call it.

Test files name this module in `pytest_plugins` and then ask for `run` and `with_mean_teacher`.
PYTEST_DONT_REWRITE: test files also import from it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from egoctl import cli
from egoctl.pipeline.teachers import lineup
from egoctl.tests.worlds.extract_world import MeanTeacher, World, mean_teacher

EXTRACT = ["--teacher", "means", "--dtype", "float32", "--frame-px", "64", "--device", "cpu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """egoctl in this process, as a shell would call it."""

    def run(*args: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["egoctl", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return Ran(code=exit.value.code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def with_mean_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *, weights: str, device: torch.device) -> MeanTeacher:
        return mean_teacher(name)

    monkeypatch.setattr(lineup, "load_teacher", load)


def extract(run: Run, world: World, *more: str) -> Ran:
    stores = ["--store", world.teacher_url, "--inputs", world.inputs_url]
    return run("extract-teacher", world.manifest_path, *stores, *EXTRACT, *more)
