"""`egoctl manifest ...`: make manifests of any source of videos, and check them."""

from pathlib import Path
from typing import Annotated

import typer

from egoctl.pipeline.command_line import (
    FAILED_ITEMS,
    EndpointOption,
    JsonOption,
    ManifestArg,
    echo,
)
from egoctl.pipeline.manifest import WINDOW_S

app = typer.Typer(no_args_is_help=True, help="Make and check manifests.")
build_app = typer.Typer(no_args_is_help=True, help="Make a manifest from a source of videos.")
app.add_typer(build_app, name="build")

WindowOption = Annotated[float, typer.Option("--window", help="Length of a clip, seconds.")]


@build_app.command("folder")
def build_folder(
    ann_csv: Annotated[Path, typer.Argument(metavar="ANN.csv", help="One row per segment.")],
    videos: Annotated[Path, typer.Option(help="Folder of the videos.")],
    out: Annotated[Path, typer.Option(help="The manifest to write (parquet).")],
    imu: Annotated[Path | None, typer.Option(help="Folder of the IMU CSV files.")] = None,
    window: WindowOption = WINDOW_S,
    stride: Annotated[
        float | None,
        typer.Option(help="Seconds between clip starts; without it one centred clip a segment."),
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="Class names, one a line.")] = None,
    ignore_unknown_columns: Annotated[
        bool, typer.Option("--ignore-unknown-columns", help="Take a CSV with further columns.")
    ] = False,
) -> None:
    """Make a manifest from a CSV of segments and a folder of videos.

    Example: egoctl manifest build folder ANN.csv --videos videos --imu imu --stride 0.5
    --out clips.parquet
    """
    from egoctl.pipeline.datasets.folder import FolderSource, read_annotations, read_class_names
    from egoctl.pipeline.manifest import write_manifest

    source = FolderSource(
        videos=videos,
        imu=imu,
        window_s=window,
        stride_s=stride,
        ignore_unknown_columns=ignore_unknown_columns,
    )
    names = read_class_names(classes) if classes else ()
    manifest = read_annotations(ann_csv, source, manifest_folder=out.parent, class_names=names)
    write_manifest(manifest, out)
    echo(manifest.summary_lines())


@build_app.command("dense")
def build_dense(
    videos: Annotated[Path, typer.Option(help="Folder of the videos.")],
    stride: Annotated[float, typer.Option(help="Seconds between the starts of two clips.")],
    out: Annotated[Path, typer.Option(help="The manifest to write (parquet).")],
    imu: Annotated[
        str | None,
        typer.Option(help="'self' (inside the videos), or a folder of NAME.csv for NAME.mp4."),
    ] = None,
    window: WindowOption = WINDOW_S,
) -> None:
    """Make an unlabelled manifest of dense windows over whole videos.

    Example: egoctl manifest build dense --videos gopro --imu self --stride 0.5 --out clips.parquet
    """
    from egoctl.pipeline.datasets.folder import FolderSource, whole_videos
    from egoctl.pipeline.manifest import write_manifest

    imu_folder = Path(imu) if imu not in (None, "self") else None
    source = FolderSource(videos=videos, imu=imu_folder, window_s=window, stride_s=stride)
    manifest, left_out = whole_videos(source, manifest_folder=out.parent, imu_inside=imu == "self")
    write_manifest(manifest, out)
    echo(manifest.summary_lines())
    echo(f"left out: {line}" for line in left_out)
    raise typer.Exit(FAILED_ITEMS if left_out else 0)


@app.command("check")
def check(
    manifest: ManifestArg, as_json: JsonOption = False, endpoint: EndpointOption = None
) -> None:
    """Open every video and IMU file of MANIFEST and print their health.

    Example: egoctl manifest check clips.parquet
    """
    from egoctl.pipeline.health import check_manifest, table_lines
    from egoctl.pipeline.manifest import read_manifest

    health = check_manifest(read_manifest(manifest))
    echo([health.to_json()] if as_json else table_lines(health))
    raise typer.Exit(FAILED_ITEMS if health.num_bad else 0)
