"""`egoctl manifest ...`: make manifests of any source of videos, and check them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from egoctl.pipeline.commands.options import (
    FAILED_ITEMS,
    EndpointOption,
    JsonOption,
    ManifestArg,
    echo,
)
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import WINDOW_S

if TYPE_CHECKING:
    from egoctl.pipeline.datasets.dataset_recipe import DatasetBuild, DatasetRecipe

app = typer.Typer(no_args_is_help=True, help="Make and check manifests.")
build_app = typer.Typer(no_args_is_help=True, help="Make a manifest from a source of videos.")
app.add_typer(build_app, name="build")

GOPRO_STRIDE_S = 0.5
OutOption = Annotated[Path, typer.Option(help="The manifest to write (parquet).")]
WindowOption = Annotated[float, typer.Option("--window", help="Length of a clip, seconds.")]
MaybeWindowOption = Annotated[
    float | None, typer.Option("--window", help="Length of a clip, seconds; 64/30 by default.")
]
StrideOption = Annotated[
    float | None,
    typer.Option(
        "--stride", help="Seconds between clip starts; without it one centred clip a segment."
    ),
]


def _print_how(context: typer.Context, is_asked: bool) -> None:
    if not is_asked:
        return
    from egoctl.pipeline.datasets.dataset_recipe import read_recipe

    if (recipe := context.params["recipe"]) is None:
        raise EgoctlError("--how prints how to download a recipe's data; name one with --recipe.")
    typer.echo(read_recipe(recipe, dataset=str(context.info_name)).download.strip())
    raise typer.Exit


# --recipe is eager and --how is not: so the recipe is read before --how, in any order of options,
# and --how is answered before options that only building needs are missed.
HowOption = Annotated[
    bool,
    typer.Option("--how", callback=_print_how, help="Only print how to download what is needed."),
]


@contextmanager
def _printing_how(recipe: "DatasetRecipe | None") -> Iterator[None]:
    """Where the dataset is not found, print how the recipe has it downloaded."""
    from egoctl.pipeline.datasets.dataset_recipe import NotDownloadedError

    try:
        yield
    except NotDownloadedError:
        if recipe is not None:
            typer.echo(recipe.download.strip(), err=True)
        raise


def _write(build: "DatasetBuild", out: Path, recipe: "DatasetRecipe | None") -> None:
    """The manifest to its file; to people what it holds, beside what the recipe expects."""
    from egoctl.pipeline.datasets.dataset_recipe import compare_counts
    from egoctl.pipeline.manifest import write_manifest

    write_manifest(build.manifest, out)
    echo(build.manifest.summary_lines())
    echo(f"note: {line}" for line in build.notes)
    if recipe is not None:
        echo(compare_counts(build.manifest, recipe.expected))
    echo(f"left out: {line}" for line in build.left_out)


@build_app.command("folder")
def build_folder(
    ann_csv: Annotated[Path, typer.Argument(metavar="ANN.csv", help="One row per segment.")],
    videos: Annotated[Path, typer.Option(help="Folder of the videos.")],
    out: OutOption,
    imu: Annotated[Path | None, typer.Option(help="Folder of the IMU CSV files.")] = None,
    window: WindowOption = WINDOW_S,
    stride: StrideOption = None,
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
    out: OutOption,
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


@build_app.command("epic-kitchens")
def build_epic_kitchens(
    annotations: Annotated[Path, typer.Option(help="Folder of the EPIC_100_*.csv files.")],
    data: Annotated[Path, typer.Option(help="Folder that holds EPIC-KITCHENS, or flat files.")],
    out: OutOption,
    recipe: Annotated[
        Path | None,
        typer.Option(is_eager=True, help="A file as manifests/epic-kitchens-egodistill.toml."),
    ] = None,
    how: HowOption = False,
    label: Annotated[str | None, typer.Option(help="verb (default), noun or action.")] = None,
    split: Annotated[
        str | None, typer.Option(help="official (default), egodistill or egodistill-clean.")
    ] = None,
    only_with_imu: Annotated[
        bool, typer.Option("--only-with-imu", help="Leave out what has no IMU files.")
    ] = False,
    participants: Annotated[
        str | None, typer.Option(help="Only these, such as P01,P30; else everybody.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="Classes to keep, a name a line.")] = None,
    min_segments: Annotated[
        int | None, typer.Option(help="Leave out classes with fewer segments.")
    ] = None,
    window: MaybeWindowOption = None,
    stride: StrideOption = None,
) -> None:
    """Make a manifest of EPIC-KITCHENS-100 from its official files. Options overrule the recipe.

    Example: egoctl manifest build epic-kitchens --annotations epic-kitchens-100-annotations
    --data /data --recipe manifests/epic-kitchens-egodistill.toml --out epic.parquet
    """
    from egoctl.pipeline.datasets.dataset_recipe import read_recipe
    from egoctl.pipeline.datasets.epic.kitchens import build_epic, epic_source
    from egoctl.pipeline.datasets.folder import read_class_names

    chosen = None if recipe is None else read_recipe(recipe, dataset="epic-kitchens")
    source = epic_source(
        chosen,
        annotations=annotations,
        data=data,
        label=label,
        split_rule=split,
        only_with_imu=only_with_imu,
        participants=tuple(participants.split(",")) if participants else None,
        keep_classes=read_class_names(classes) if classes else None,
        min_segments=min_segments,
        window_s=window,
        stride_s=stride,
    )
    with _printing_how(chosen):
        build = build_epic(source, manifest_folder=out.parent)
    _write(build, out, chosen)
    raise typer.Exit(FAILED_ITEMS if build.left_out else 0)


@build_app.command("ego4d")
def build_ego4d_hands(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder of Ego4D's downloader (holds v2).")
    ],
    out: OutOption,
    recipe: Annotated[
        Path | None,
        typer.Option(is_eager=True, help="A file such as manifests/ego4d-egodistill.toml."),
    ] = None,
    how: HowOption = False,
    annotations: Annotated[
        Path | None, typer.Option(help="fho_main.json, where it lies elsewhere.")
    ] = None,
    videos: Annotated[
        str, typer.Option(help="full_scale, video_540ss, or a folder of UID.mp4.")
    ] = "full_scale",
    split_rule: Annotated[
        str | None, typer.Option(help="egodistill (default: random per class) or by-video.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split; 0 by default.")] = None,
    only_with_imu: Annotated[
        bool, typer.Option("--only-with-imu/--also-without-imu", help="Take videos with IMU alone.")
    ] = True,
    min_segments: Annotated[
        int | None, typer.Option(help="Leave out verbs with fewer segments; 2 by default.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="Verbs to take, one a line.")] = None,
    window: MaybeWindowOption = None,
    stride: StrideOption = None,
) -> None:
    """Make a manifest of Ego4D's Hands + Objects actions. Options overrule the recipe.

    Example: egoctl manifest build ego4d /data/ego4d --recipe manifests/ego4d-egodistill.toml
    --stride 0.5 --out ego4d.parquet
    """
    from egoctl.pipeline.datasets.dataset_recipe import read_recipe
    from egoctl.pipeline.datasets.ego4d.hands_objects import build_ego4d, ego4d_source
    from egoctl.pipeline.datasets.folder import read_class_names

    chosen = None if recipe is None else read_recipe(recipe, dataset="ego4d")
    source = ego4d_source(
        chosen,
        root=root,
        annotations=annotations,
        videos=videos,
        split_rule=split_rule,
        seed=seed,
        only_with_imu=only_with_imu,
        min_segments=min_segments,
        class_names=read_class_names(classes) if classes else None,
        window_s=window,
        stride_s=stride,
    )
    with _printing_how(chosen):
        build = build_ego4d(source, manifest_folder=out.parent)
    _write(build, out, chosen)


@build_app.command("gopro")
def build_gopro(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of GoPro files.")],
    out: OutOption,
    stride: Annotated[
        float, typer.Option(help="Seconds between the starts of two clips.")
    ] = GOPRO_STRIDE_S,
    labels: Annotated[
        Path | None, typer.Option(help="Segments with labels: a CSV as for build folder.")
    ] = None,
    window: WindowOption = WINDOW_S,
) -> None:
    """Make a manifest of GoPro files, with the motion that is recorded inside them.

    Example: egoctl manifest build gopro DCIM --stride 0.5 --out gopro.parquet
    """
    from egoctl.pipeline.datasets.folder import FolderSource
    from egoctl.pipeline.datasets.gopro import chapter_lines, gopro_folder
    from egoctl.pipeline.manifest import write_manifest

    source = FolderSource(videos=folder, imu=None, window_s=window, stride_s=stride)
    manifest, left_out = gopro_folder(source, manifest_folder=out.parent, labels=labels)
    write_manifest(manifest, out)
    echo(manifest.summary_lines())
    echo(chapter_lines(manifest))
    echo(f"left out: {line}" for line in left_out)
    raise typer.Exit(FAILED_ITEMS if left_out else 0)


@app.command("check")
def check(
    manifest: ManifestArg, as_json: JsonOption = False, endpoint: EndpointOption = None
) -> None:
    """Open every video and IMU file of MANIFEST and print their health.

    Example: egoctl manifest check clips.parquet
    """
    from egoctl.pipeline.datasets.health import check_manifest, table_lines
    from egoctl.pipeline.manifest import read_manifest

    health = check_manifest(read_manifest(manifest))
    echo([health.to_json()] if as_json else table_lines(health))
    raise typer.Exit(FAILED_ITEMS if health.num_bad else 0)
