"""The `egoctl store` commands that set stores beside each other, or beside their videos."""

from typing import Annotated

import typer

from egoctl.pipeline.command_line import (
    FAILED_ITEMS,
    EndpointOption,
    JsonOption,
    as_text,
    echo,
    stoppable,
)

app = typer.Typer()


@app.command("diff")
def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="Path or URL of a store.")],
    right: Annotated[str, typer.Argument(metavar="B", help="Path or URL of another.")],
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
) -> None:
    """What two stores do not have in common: recipe, clips, outcomes, values.

    Values are compared by their digests; rows that differ are read, up to 1,000 of an array, to
    say how far apart they are. Exit code 1 if the stores differ.

    Example: egoctl store diff alice.store bob.store
    """
    from egoctl.pipeline.store_diff import difference, difference_lines

    found = difference(left, right)
    echo([as_text(found)] if as_json else difference_lines(found))
    raise typer.Exit(0 if found.is_none else FAILED_ITEMS)


@app.command("merge")
def merge_stores(
    urls: Annotated[list[str], typer.Argument(metavar="STORE...", help="Two stores or more.")],
    out: Annotated[str, typer.Option(help="Path or URL of the new store.")],
    part_rows: Annotated[int, typer.Option(help="Clips per part of the new store.")] = 8192,
    endpoint: EndpointOption = None,
) -> None:
    """Write one store of all finished rows of several that share recipe and class names.

    The sources are not changed. Run it again to go on where it was stopped.

    Example: egoctl store merge alice.store bob.store --out all.store
    """
    from egoctl.pipeline.store_merge import merge, merge_lines

    with stoppable("Stopped. Every finished part is stored; run the same command to go on."):
        echo(merge_lines(merge(urls, out, part_rows=part_rows)))
