"""The `egoctl store` commands: look into stores, check them, share them."""

import dataclasses
import json
from typing import Annotated

import typer

from egoctl.pipeline import store_tools_commands
from egoctl.pipeline.commands.options import (
    FAILED_ITEMS,
    EndpointOption,
    JsonOption,
    StoreArg,
    as_text,
    echo,
    stoppable,
)

app = typer.Typer(no_args_is_help=True, help="Look into stores, check them, share them.")

app.add_typer(store_tools_commands.app)  # without a name: they stand among these


@app.command("info")
def info(url: StoreArg, as_json: JsonOption = False, endpoint: EndpointOption = None) -> None:
    """What a store holds, how it was made, and how much of it is done.

    Example: egoctl store info mvit.store
    """
    from egoctl.pipeline.extraction import report
    from egoctl.pipeline.store import FeatureStore

    store = FeatureStore.open(url)
    echo([json.dumps(report.store_info(store), indent=1)] if as_json else report.info_lines(store))


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
    """Push and pull are one thing, told from two sides."""
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
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
