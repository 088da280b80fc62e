"""The `egoctl store` commands: look into stores, check them, share them."""

import json
from typing import Annotated

import typer

from egoctl.pipeline.command_line import (
    FAILED_ITEMS,
    EndpointOption,
    JsonOption,
    StoreArg,
    as_text,
    echo,
)

app = typer.Typer(no_args_is_help=True, help="Look into stores, check them, share them.")


@app.command("info")
def info(url: StoreArg, as_json: JsonOption = False, endpoint: EndpointOption = None) -> None:
    """What a store holds, how it was made, and how much of it is done.

    Example: egoctl store info mvit.store
    """
    from egoctl.pipeline import report
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
    from egoctl.pipeline.repair import repair as repair_faults
    from egoctl.pipeline.verify import verification_lines, verify

    found = verify(url, is_deep=deep)
    echo([as_text(found)] if as_json else verification_lines(found))
    if repair and any(not fault.is_undone for fault in found.faults):
        done = repair_faults(found)
        if not as_json:
            echo(f"repaired: {line}" for line in done)
    raise typer.Exit(FAILED_ITEMS if found.faults else 0)
