"""egoctl with the teacher of frame means, for tests that need a process of their own to end.

python -m egoctl.tests.worlds.extract_script extract-teacher MANIFEST --teacher means ...
"""

import os
import sys
from pathlib import Path

import torch

from egoctl import cli
from egoctl.pipeline.teachers import lineup
from egoctl.tests.worlds.extract_world import MeanTeacher, mean_teacher


def main() -> None:
    """The command line, with MeanTeacher for every name of a teacher."""
    lineup.load_teacher = load_mean_teacher
    cli.main()


def run(args: list[str], log: Path) -> None:
    """`main` in a process that multiprocessing started; its output goes to the file log."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.argv = ["egoctl", *args]
        main()


def load_mean_teacher(name: str, *, weights: str, device: torch.device) -> MeanTeacher:
    return mean_teacher(name)


if __name__ == "__main__":
    main()
