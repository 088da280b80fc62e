"""Options that several commands of students have."""

from typing import Annotated

import typer

RunArg = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a training run: path or URL.")
]
RunOption = Annotated[str, typer.Option(help="Folder of this run: path or URL.")]
InputsOption = Annotated[str, typer.Option(help="Store of frames and IMU: path or URL.")]
InputsCopyOption = Annotated[str | None, typer.Option(help="The inputs store, or a copy of it.")]
TeacherCopyOption = Annotated[str | None, typer.Option(help="The teacher's, or a copy of it.")]
