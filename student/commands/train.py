"""`egoctl train-student`: options to settings, settings to a run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from egoctl.pipeline.commands.options import (
    EndpointOption,
    JsonOption,
    ManifestArg,
    as_text,
    echo,
    stoppable,
)
from egoctl.pipeline.commands.record_options import options_of
from egoctl.student.commands.options import StoreOption
from egoctl.student.settings.config_file import TAKEN_FROM_DATA, read_settings, train_config
from egoctl.student.settings.train_config import TrainConfig

ScheduleOption = Annotated[
    str | None,
    typer.Option(
        help="steps or onecycle; or a whole plan, of which given options win: epic (50 epochs, "
        "x0.1 at 30 and 40), ego4d (150, at 90 and 120, tau 10), short (30, onecycle, lr 1e-3)."
    ),
]


@options_of(
    TrainConfig,
    asked={"manifest": ManifestArg, "teacher": StoreOption, "schedule": ScheduleOption},
    required=("method",),
    left_out=TAKEN_FROM_DATA,
    only_given=True,
)
def train_student(
    settings: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="TOML of settings; options win.")] = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a student from stored targets, frames and IMU. No teacher is loaded.

    Run it again to go on after an interruption; the result is the same. Ctrl-C or SIGTERM saves
    after the present step.

    Example: egoctl train-student clips.parquet --store mvit.store --inputs inputs.store
    --run runs/first --method egodistill
    """
    from egoctl.student.training.train import run_lines, train

    of_file = read_settings(config) if config else {}
    with stoppable("Stopped. What was printed as saved is; run the same command to go on."):
        result = train(train_config(of_file | settings))
    echo([as_text(result)] if as_json else run_lines(result))
