"""The table of commands, and what becomes of a user's mistake."""

import sys

import typer

from egoctl.pipeline.commands import extract, manifest, store, teachers
from egoctl.pipeline.commands.options import WRONG_USE
from egoctl.pipeline.errors import EgoctlError
from egoctl.student.commands import (
    analyse,
    demo,
    evaluate,
    pretrain,
    profile,
    study,
    submission,
    train,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run the heavy video teacher once; train light students from its stored targets.",
)
app.add_typer(manifest.app, name="manifest")
app.add_typer(store.app, name="store")
app.add_typer(teachers.app, name="teachers")
app.add_typer(submission.app, name="submission")
app.add_typer(demo.app, name="demo")
app.command("finetune-teacher")(teachers.finetune_teacher)
app.command("extract-teacher")(extract.extract_teacher)
app.command("pretrain-imu")(pretrain.pretrain_imu)
app.command("train-student")(train.train_student)
app.command("evaluate")(evaluate.evaluate)
app.command("analyse")(analyse.analyse)
app.command("study")(study.study)
app.command("profile")(profile.profile)


def main() -> None:
    """Run a command; a user's mistake or a full disk becomes one line and exit code 2."""
    try:
        app()
    except (EgoctlError, OSError) as error:
        typer.secho(f"egoctl: {error}", fg="red", err=True)
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    main()
