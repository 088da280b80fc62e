"""What all commands share: exit codes, options, and how records and lines are printed."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

FAILED_ITEMS = 1
WRONG_USE = 2
INTERRUPTED = 130

ManifestArg = Annotated[
    str, typer.Argument(metavar="MANIFEST", help="A manifest (parquet): path or URL.")
]
StoreArg = Annotated[str, typer.Argument(metavar="STORE", help="Path or URL of a store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
WeightsOption = Annotated[
    str, typer.Option(help="'default' (published), a checkpoint file, or 'random:SEED'.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def _use_endpoint(url: str | None) -> str | None:
    from egoctl.pipeline.files.place import use_endpoint  # slow to load, and --help should not be

    use_endpoint(url)
    return url


EndpointOption = Annotated[
    str | None,
    typer.Option(
        help="URL of a private S3 server; else AWS_ENDPOINT_URL, else Amazon's.",
        callback=_use_endpoint,
    ),
]


@contextmanager
def stoppable(sentence: str) -> Iterator[None]:
    """Ctrl-C ends the command with a sentence instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\n{sentence}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def echo(lines: Iterable[str]) -> None:
    """Print the lines."""
    for line in lines:
        typer.echo(line)


def warn(text: str) -> None:
    """Print to stderr: stdout belongs to the result, which may be JSON."""
    typer.echo(text, err=True)


def say(text: str) -> None:
    """Print at once, so that the lines of commands it starts come after it."""
    print(text, flush=True)


def as_text(record: object) -> str:
    """A record as indented JSON."""
    assert dataclasses.is_dataclass(record) and not isinstance(record, type)
    return json.dumps(dataclasses.asdict(record), indent=1, default=str)
