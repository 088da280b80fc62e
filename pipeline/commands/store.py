"""The `egoctl store` commands: look into stores, check them, share them."""

import dataclasses
import json
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

app = typer.Typer(no_args_is_help=True, help="Look into stores, check them, share them.")


@app.command("info")
def info(url: StoreArg, as_json: JsonOption = False, endpoint: EndpointOption = None) -> None:
    """What a store holds, how it was made, and how much of it is done.

    Example: egoctl store info mvit.store
    """
    from egoctl.pipeline.sharing.info import info_lines, store_info
    from egoctl.pipeline.store import FeatureStore

    store = FeatureStore.open(url)
    echo([json.dumps(store_info(store), indent=1)] if as_json else info_lines(store))


@app.command("verify")
def verify_store(
    url: StoreArg,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare every value with what rows must hold.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Restore what can be; damaged parts are to be redone.")
    ] = False,
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
) -> None:
    """Recompute every digest of a store and name the files and rows that are not as written.

    Exit code 1 if something is damaged or not done.

    Example: egoctl store verify mvit.store --deep
    """
    from egoctl.pipeline.sharing.repair import repair as repair_faults
    from egoctl.pipeline.sharing.verify import verification_lines, verify

    found = verify(url, is_deep=deep)
    echo([as_text(found)] if as_json else verification_lines(found))
    if repair and any(not fault.is_undone for fault in found.faults):
        done = repair_faults(found)
        if not as_json:
            echo(f"repaired: {line}" for line in done)
    raise typer.Exit(FAILED_ITEMS if found.faults else 0)


@app.command("ls")
def list_stores(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="Folders or buckets.")],
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
) -> None:
    """The stores in folders and buckets and below them, each in a line.

    Exit code 1 if one cannot be read.

    Example: egoctl store ls s3://team/stores
    """
    from egoctl.pipeline.sharing import listing as store_list

    entries = store_list.list_stores(urls)
    lines = store_list.entry_lines(entries)
    as_dicts = [dataclasses.asdict(entry) for entry in entries]
    echo([json.dumps(as_dicts, indent=1)] if as_json else lines)
    raise typer.Exit(FAILED_ITEMS if any(entry.problem for entry in entries) else 0)


PUSH_HELP = """Bring a store to a bucket or a folder; what is there already is not sent again.

Parts are compared with their receipts on the way, and count in TARGET once they are whole.
Damaged ones are named and left out: exit code 1. Run it again after an interruption.

Example: egoctl store push mvit.store s3://team/mvit.store
"""
PULL_HELP = """Fetch a store, or the parts with the wanted rows, from a bucket or a folder.

Works like push. Parts come whole, so with --rows or --split a few more rows than wanted.

Example: egoctl store pull s3://team/mvit.store mvit.store --split train --manifest m.parquet
"""


@app.command("pull", help=PULL_HELP)
@app.command("push", help=PUSH_HELP)
def copy(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Path or URL of a store.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Path or URL of its copy.")],
    split: Annotated[
        str | None, typer.Option(help="Only clips of this split of --manifest.")
    ] = None,
    manifest: Annotated[str | None, typer.Option(help="Only clips of this manifest.")] = None,
    arrays: Annotated[str | None, typer.Option(help="Only these arrays: feature,logits.")] = None,
    rows: Annotated[str | None, typer.Option(help="Only these rows, A:B without B.")] = None,
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
) -> None:
    """Copy a store: push and pull differ in their names alone."""
    from egoctl.pipeline.sharing.copy import copy_lines, copy_store
    from egoctl.pipeline.sharing.selection import Selection

    selection = Selection.of(arrays=arrays, rows=rows, split=split, manifest=manifest)
    with stoppable("Stopped. Finished parts are there; run the same command to go on."):
        report = copy_store(source, target, selection, title=str(context.info_name))
    echo([as_text(report)] if as_json else copy_lines(report))
    raise typer.Exit(FAILED_ITEMS if report.faults else 0)


@app.command("gc")
def collect_garbage(
    url: StoreArg,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would go.")] = False,
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
) -> None:
    """Remove what killed processes left: expired claims, files of parts that never got a receipt.

    What others are writing at the moment is not touched.

    Example: egoctl store gc mvit.store --dry-run
    """
    from egoctl.pipeline.sharing.garbage import collect, gc_lines

    report = collect(url, is_dry_run=dry_run)
    echo([as_text(report)] if as_json else gc_lines(report))


@app.command("diff")
def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="Path or URL of a store.")],
    right: Annotated[str, typer.Argument(metavar="B", help="Path or URL of another.")],
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
) -> None:
    """What two stores do not have in common: recipe, clips, outcomes, values.

    Values are compared by their digests; rows that differ are read, up to 1,000 of an array, to
    report how far apart they are. Exit code 1 if the stores differ.

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
    licences = _asked_for({option: given[option] for option in wanted})
    text = card(store, CardFacts(licences=licences, dataset=dataset))
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
    from egoctl.pipeline.devices import pick_device
    from egoctl.pipeline.extraction.reproduce import reproduce, reproduction_lines
    from egoctl.pipeline.manifest import read_manifest
    from egoctl.pipeline.teachers.lineup import load_teacher

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
        option: typer.prompt(f"{option}, such as CC-BY-4.0", err=True) if value is None else value
        for option, value in given.items()
    }
