"""`egoctl analyse`: options to a config, an analysis to lines."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from egoctl.pipeline.commands.options import EndpointOption, JsonOption, as_text, echo
from egoctl.student.commands.options import InputsCopyOption, RunArg, TeacherCopyOption

if TYPE_CHECKING:
    from egoctl.student.analysis.result import Analysis, RunAnalysis


def analyse(
    run: RunArg,
    other: Annotated[
        str | None, typer.Option(help="A run to compare with, such as one of visonly-distill.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the manifest to look at.")] = "test",
    pairs: Annotated[
        str | None,
        typer.Option(help="'open,close;put,take'; default: what OTHER confuses most."),
    ] = None,
    queries: Annotated[
        int, typer.Option(help="Random clips whose neighbours are looked for.")
    ] = 1000,
    examples: Annotated[int, typer.Option(help="Clips the report shows of each kind.")] = 6,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    manifest: Annotated[
        str | None, typer.Option(help="The manifest, if not where the runs found it.")
    ] = None,
    inputs: InputsCopyOption = None,
    store: TeacherCopyOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or mps.")] = "cpu",
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a student's features capture, where it is best and worst, what its IMU is worth.

    Writes RUN/analysis: report.html, summary.json and tables (analysis-SPLIT for others than test).

    Example: egoctl analyse runs/ego --other runs/visonly-distill
    """
    from egoctl.student.analysis.analyse import analyse as analyse_run
    from egoctl.student.analysis.result import AnalysisConfig
    from egoctl.student.runs.run_data import Places

    analysis = analyse_run(
        run,
        other=other,
        config=AnalysisConfig(
            split=split, pairs=pairs, num_queries=queries, num_examples=examples, seed=seed
        ),
        places=Places(manifest=manifest, inputs=inputs, teacher=store),
        device=device,
    )
    echo([as_text(analysis)] if as_json else analysis_lines(analysis))


def analysis_lines(analysis: "Analysis") -> Iterator[str]:
    """The main numbers for people; the rest is in the files."""
    yield (
        f"{analysis.run.method} on split {analysis.config.split!r}: {analysis.num_clips} clips of "
        f"{analysis.num_segments} segments, {analysis.num_target_clips} clips with a target."
    )
    for of in (analysis.run, analysis.other):
        if of is not None:
            yield from _run_lines(of)
    for pair in analysis.pairs[:5]:
        if pair.result is not None:
            yield (
                f"  {' / '.join(pair.names):<30} {pair.result.top1:.3f}, other "
                f"{pair.result.other_top1:.3f} ({pair.result.num_segments} segments; gain "
                f"{_points(pair.result.gain_low)} to {_points(pair.result.gain_high)} points)"
            )
    yield f"Written: {analysis.report}"


def _run_lines(of: "RunAnalysis") -> Iterator[str]:
    yield f"  {of.method} ({of.run})"
    if of.features is not None:
        yield (
            f"    feature: L1 {_share(of.features.l1_norm)}, cosine {_share(of.features.cosine)} "
            f"(a constant: {of.features.constant_cosine:.3f}), CKA {_share(of.features.cka)}"
        )
    for item in of.neighbours:
        yield f"    neighbours at {item.k}: {_share(item.recall)} (chance {_share(item.chance)})"
    if of.exchange is not None:
        yield (
            f"    with another's IMU {of.exchange.topk_changed:.3f} of the {of.exchange.k} nearest "
            f"clips change; {_share(of.exchange.frame_label)} have the frame's label, "
            f"{_share(of.exchange.imu_label)} the IMU's "
            f"(chance {_share(of.exchange.imu_label_chance)})"
        )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
