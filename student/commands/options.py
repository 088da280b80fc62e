"""Options that several commands of students have."""

from typing import Annotated

import typer

RunArg = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a training run: path or URL.")
]
StoreOption = Annotated[str | None, typer.Option("--store", help="Store of the teacher's targets.")]
InputsCopyOption = Annotated[str | None, typer.Option(help="The inputs store, or a copy of it.")]
TeacherCopyOption = Annotated[str | None, typer.Option(help="The teacher's, or a copy of it.")]
