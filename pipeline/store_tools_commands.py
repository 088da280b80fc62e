"""The `egoctl store` commands that set stores beside each other, or beside their videos."""

import sys
from typing import Annotated

import typer

from egoctl.pipeline.commands.options import (
    FAILED_ITEMS,
    DeviceOption,
    EndpointOption,
    JsonOption,
    StoreArg,
    WeightsOption,
    as_text,
    echo,
    stoppable,
)
from egoctl.pipeline.errors import EgoctlError

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
    from egoctl.pipeline.sharing.diff import difference, difference_lines

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
    from egoctl.pipeline.sharing.merge import merge, merge_lines

    with stoppable("Stopped. Every finished part is stored; run the same command to go on."):
        echo(merge_lines(merge(urls, out, part_rows=part_rows)))


@app.command("card")
def write_card(
    url: StoreArg,
    out: Annotated[str, typer.Option(help="The file to write, a path or a URL; - prints it.")],
    teacher_license: Annotated[
        str | None, typer.Option(help="Licence of the teacher's weights.")
    ] = None,
    dataset_license: Annotated[str | None, typer.Option(help="Licence of the videos.")] = None,
    dataset: Annotated[str | None, typer.Option(help="What the videos' collection is called.")] = (
        None
    ),
    endpoint: EndpointOption = None,
) -> None:
    """Write a README for a store that is to be published: recipe, counts, statistics, licences.

    The two licences are never guessed: without their options it asks for them.

    Example: egoctl store card mvit.store --out README.md --teacher-license CC-BY-NC-4.0
    --dataset-license CC-BY-4.0 --dataset EPIC-KITCHENS-100
    """
    from egoctl.pipeline.files.place import file_at
    from egoctl.pipeline.sharing.card import CardFacts, card, licences_of
    from egoctl.pipeline.store import FeatureStore

    store = FeatureStore.open(url)
    wanted = licences_of(store.header)
    given = {"--teacher-license": teacher_license, "--dataset-license": dataset_license}
    said = _asked_for({option: given[option] for option in wanted})
    text = card(store, CardFacts(licences=said, dataset=dataset))
    if out == "-":
        typer.echo(text, nl=False)
        return
    place, name = file_at(out)
    place.put(name, text.encode())


@app.command("reuse")
def reuse_rows(
    url: StoreArg,
    sources: Annotated[
        list[str], typer.Option("--from", help="A store to copy from; may be given many times.")
    ],
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
) -> None:
    """Copy what teammates' stores have of a store's unfinished parts, without loading a teacher.

    Rows are found by content and recipe, whatever they are called. Only parts of which every row
    is found are filled; extract-teacher does the others. Exit code 1 if damage was met.

    Example: egoctl store reuse mvit.store --from s3://team/alice.store --from s3://team/bob.store
    """
    from egoctl.pipeline.sharing.reuse import reuse, reuse_lines

    with stoppable("Stopped. Every finished part is stored; run the same command to go on."):
        report = reuse(url, sources)
    echo([as_text(report)] if as_json else reuse_lines(report))
    raise typer.Exit(FAILED_ITEMS if report.faults else 0)


@app.command("reproduce")
def reproduce_rows(
    url: StoreArg,
    manifest: Annotated[str, typer.Option(help="The manifest that names the videos: path or URL.")],
    teacher: Annotated[
        str | None, typer.Option(help="Name of the network; inputs stores have none.")
    ] = None,
    weights: WeightsOption = "default",
    sample: Annotated[int, typer.Option(help="How many rows to compute again.")] = 32,
    seed: Annotated[int, typer.Option(help="Which rows these are.")] = 0,
    device: DeviceOption = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Go on where weights, settings or videos differ.")
    ] = False,
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
) -> None:
    """Compute random rows of a store again from videos and teacher at hand, and compare.

    Exit code 1 if a cosine is below 0.999 or a clip gives no data any more.

    Example: egoctl store reproduce mvit.store --manifest clips.parquet --teacher mvit_v2_s
    """
    from egoctl.pipeline.extraction.reproduce import reproduce, reproduction_lines
    from egoctl.pipeline.manifest import read_manifest
    from egoctl.pipeline.teachers.lineup import load_teacher
    from egoctl.pipeline.teachers.protocol import pick_device

    clips, where = read_manifest(manifest), pick_device(device)
    found = reproduce(
        url,
        clips,
        None if teacher is None else load_teacher(teacher, weights=weights, device=where),
        device=where,
        num_rows=sample,
        seed=seed,
        forced=force,
    )
    echo([as_text(found)] if as_json else reproduction_lines(found))
    raise typer.Exit(0 if found.is_reproduced else FAILED_ITEMS)


def _asked_for(given: dict[str, str | None]) -> dict[str, str]:
    """Every option's value; those that were not given are asked for, if anybody can answer."""
    if None in given.values() and not sys.stdin.isatty():
        raise EgoctlError(
            f"a card names licences, and they are not guessed. Give {' and '.join(given)}."
        )
    return {
        option: typer.prompt(f"{option}, such as CC-BY-4.0", err=True) if said is None else said
        for option, said in given.items()
    }
