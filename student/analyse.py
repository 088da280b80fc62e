"""What EgoDistill's section 4.5 looks at, of a trained run: its feature space, its best and worst
clips, what the IMU changes in retrieval, and the classes it tells apart better than another run.
"""

# N clips, S segments, Q queries, M IMU windows of a query, k retrieved clips, D feature width

import dataclasses
import os
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.analysed_clips import best_and_worst, by_motion, clip_table
from egoctl.student.analysed_run import AnalysedRun, Places, analysed_run, in_common
from egoctl.student.analysis_report import report_html
from egoctl.student.analysis_result import Analysis, AnalysisConfig, RunAnalysis
from egoctl.student.class_gains import (
    ClassGain,
    PairGain,
    class_gains,
    halves,
    most_confused,
    pair_gain,
    pairs_named,
)
from egoctl.student.evaluate import file_suffix
from egoctl.student.feature_space import dimension_table, feature_metrics
from egoctl.student.losses import NO_LABEL
from egoctl.student.predict import mean_over_segments, segment_labels
from egoctl.student.retrieval import (
    NONE,
    Exchange,
    Retrieval,
    draw_exchange,
    exchange_metrics,
    nearest,
    neighbour_recall,
    random_clips,
)
from egoctl.student.run_folder import write_json
from egoctl.student.run_place import run_folder_at

REPORT_FILE = "report.html"
RECALL_AT = (1, 5, 10)
NUM_RETRIEVED = 5
NUM_DONORS = 4
NUM_PAIRS = 10


def analyse(
    run: Path | str,
    *,
    other: Path | str | None = None,
    config: AnalysisConfig,
    places: Places,
    device: str = "cpu",
) -> Analysis:
    """Look at a run, beside another one if it is given; both are paths or URLs.

    Writes analysis/ into the run (analysis-SPLIT/ for other splits than test): report.html,
    summary.json and tables as CSV.

    Raises:
        EgoctlError: if there is no such run, split or pair, or the two cannot be compared.
        StoreMismatchError: if manifest or stores are not those that a run was trained on.
    """
    if config.pairs is not None and other is None:
        raise EgoctlError("--pairs compares two runs: name the second one with --other.")
    on = torch.device(device)
    with run_folder_at(str(run)) as place:
        mine = analysed_run(place, config.split, places=places, device=on)
        num_own = len(mine.clips)
        theirs = None
        if other is not None:
            with run_folder_at(str(other)) as other_place:
                theirs = analysed_run(other_place, config.split, places=places, device=on)
            mine, theirs = in_common(mine, theirs)
        folder = place.folder / f"analysis{file_suffix(config.split, 'own')}"
        report = place.name_of(folder / REPORT_FILE)
        return _analyse(folder, report, mine, theirs, config, num_own=num_own)


def _analyse(
    folder: Path,
    report: str,
    mine: AnalysedRun,
    theirs: AnalysedRun | None,
    config: AnalysisConfig,
    *,
    num_own: int,
) -> Analysis:
    pairs, classes, num_scored = _gains(mine, theirs, config)
    is_near = mine.learns_from is not None
    other_is_near = is_near and theirs is not None and theirs.learns_from == mine.learns_from
    table = clip_table(mine, theirs, is_near=is_near, other_is_near=other_is_near)
    best, worst = best_and_worst(table, at_most=config.num_examples)

    has_target = mine.clips.has_target_N.nonzero()[:, 0]
    num_clips = len(mine.clips)
    if 0 < len(has_target) < num_clips:
        mine = mine.at(has_target)
        theirs = None if theirs is None else theirs.at(has_target)
    teacher_ND = mine.clips.feature_ND if len(has_target) else None
    query_Q = random_clips(len(mine.clips), at_most=config.num_queries, seed=config.seed)
    exchange = draw_exchange(
        mine.clips.segment_N, frame_Q=query_Q, num_donors=NUM_DONORS, seed=config.seed
    )
    analysed, retrievals = [], []
    for run, near in ((mine, is_near), (theirs, other_is_near)):
        if run is None:
            continue
        gallery_ND = teacher_ND if near and teacher_ND is not None else run.feature_ND
        retrieval = None if exchange is None else _retrieve(run, exchange, gallery_ND)
        retrievals.append(retrieval)
        analysed.append(
            RunAnalysis(
                run=run.url,
                method=run.method,
                features=None
                if teacher_ND is None
                else feature_metrics(run.feature_ND, teacher_ND, is_in_teacher_units=near),
                neighbours=()
                if teacher_ND is None
                else neighbour_recall(
                    run.feature_ND,
                    teacher_ND,
                    segment_N=mine.clips.segment_N,
                    query_Q=query_Q,
                    ks=RECALL_AT,
                ),
                gallery="student" if gallery_ND is run.feature_ND else "teacher",
                exchange=None
                if retrieval is None
                else exchange_metrics(
                    retrieval.index_QMk,
                    retrieval.exchange,
                    segment_N=mine.clips.segment_N,
                    label_N=mine.clips.label_N,
                ),
            )
        )
    analysis = Analysis(
        report=report,
        config=config,
        num_segments=table["segment_id"].n_unique(),
        num_scored=num_scored,
        num_clips=num_clips,
        num_target_clips=len(has_target),
        left_out=mine.clips.left_out_by_reason(),
        num_not_in_common=num_own - num_clips,
        run=analysed[0],
        other=analysed[1] if theirs is not None else None,
        by_motion=by_motion(table),
        best=best,
        worst=worst,
        pairs=pairs,
        classes=classes,
    )
    dimensions = None
    if is_near and teacher_ND is not None:
        dimensions = dimension_table(mine.feature_ND, teacher_ND)
    _write(folder, analysis, mine, table, dimensions, retrievals)
    return analysis


def _gains(
    mine: AnalysedRun, theirs: AnalysedRun | None, config: AnalysisConfig
) -> tuple[tuple[PairGain, ...], tuple[ClassGain, ...], int]:
    """Of pairs and of classes, and the number of segments with a label and a clip."""
    clips, names = mine.clips, mine.class_names
    label_S = segment_labels(clips)
    score_SC = mean_over_segments(mine.probability_NC, clips.segment_N, len(label_S))
    scored_S = (label_S != NO_LABEL) & ~score_SC.isnan().any(dim=1)
    num_scored = int(scored_S.sum())
    if theirs is None:
        return (), (), num_scored
    # By the run's own segments: the same clips in the same order may have other numbers there.
    other_SC = mean_over_segments(theirs.probability_NC, clips.segment_N, len(label_S))
    label_S, score_SC, other_SC = label_S[scored_S], score_SC[scored_S], other_SC[scored_S]
    if config.pairs is not None:
        asked = pairs_named(config.pairs, names)
        chosen_by_S = scored_on_S = torch.ones(num_scored, dtype=torch.bool)
    else:
        chosen_by_S, scored_on_S = halves(num_scored, seed=config.seed)
        asked = most_confused(other_SC[chosen_by_S], label_S[chosen_by_S], at_most=NUM_PAIRS)
    pairs = tuple(
        pair_gain(
            pair,
            score_SC,
            other_SC,
            label_S,
            chosen_by_S=chosen_by_S,
            scored_S=scored_on_S,
            names=names,
            seed=config.seed,
        )
        for pair in asked
    )
    classes = class_gains(score_SC, other_SC, label_S, names=names, seed=config.seed)
    return pairs, classes, num_scored


def _retrieve(run: AnalysedRun, exchange: Exchange, gallery_ND: Tensor) -> Retrieval:
    """The clips that the run retrieves for every frame and IMU of the exchange."""
    segment_N = run.clips.segment_N
    # Without IMU one answer stands for all: asked again, rounding could make it another.
    num_imus = exchange.donor_QM.shape[1] if run.student.imu is not None else 1
    feature_PD = run.features_of(
        exchange.frame_Q.repeat_interleave(num_imus), exchange.donor_QM[:, :num_imus].flatten()
    )
    similarity_Pk, index_Pk = nearest(
        feature_PD,
        gallery_ND,
        k=NUM_RETRIEVED,
        segment_N=segment_N,
        hidden_QX=exchange.hidden_QX(segment_N).repeat_interleave(num_imus, dim=0),
    )
    shape = (len(exchange.frame_Q), num_imus, NUM_RETRIEVED)
    all_imus = (-1, exchange.donor_QM.shape[1], -1)
    return Retrieval(
        run=run.url,
        method=run.method,
        exchange=exchange,
        similarity_QMk=similarity_Pk.view(shape).expand(all_imus),
        index_QMk=index_Pk.view(shape).expand(all_imus),
    )


def _write(
    folder: Path,
    analysis: Analysis,
    mine: AnalysedRun,
    table: pl.DataFrame,
    dimensions: pl.DataFrame | None,
    retrievals: list[Retrieval | None],
) -> None:
    """All files, each atomically; tables that have no rows are written too, so none is stale."""
    gain_columns = ("num_segments", "top1", "other_top1", "gain", "gain_low", "gain_high")
    pair_rows = [
        {
            "class_a": row.names[0],
            "class_b": row.names[1],
            "num_confused": row.num_confused,
            "num_a": row.num_of_each[0],
            "num_b": row.num_of_each[1],
            **{
                name: None if row.result is None else getattr(row.result, name)
                for name in gain_columns
            },
        }
        for row in analysis.pairs
    ]
    class_rows = [{"class": row.name, **dataclasses.asdict(row.result)} for row in analysis.classes]
    gains = {name: pl.Int64 if name == "num_segments" else pl.Float64 for name in gain_columns}
    counts = dict.fromkeys(("num_confused", "num_a", "num_b"), pl.Int64)
    tables = {
        "clips": table,
        "dimensions": dimensions
        if dimensions is not None
        else dimension_table(torch.zeros(0, 0), torch.zeros(0, 0)),
        "retrieved": _retrieved_table(mine, retrievals),
        "pairs": pl.DataFrame(
            pair_rows, schema={"class_a": pl.String, "class_b": pl.String, **counts, **gains}
        ),
        "classes": pl.DataFrame(class_rows, schema={"class": pl.String, **gains}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tables.items():
        _write_text(folder / f"{name}.csv", content.write_csv())
    write_json(folder / "summary.json", dataclasses.asdict(analysis))
    html = report_html(
        analysis, mine.clips, table, [item for item in retrievals if item is not None], mine.inputs
    )
    _write_text(folder / REPORT_FILE, html)


def _retrieved_table(mine: AnalysedRun, retrievals: list[Retrieval | None]) -> pl.DataFrame:
    """A row per clip that was retrieved; imu_clip_id is frame_clip_id where the IMU is its own."""
    ids = [clip.clip_id for clip in mine.clips.clips]
    rows = [
        (item.run, ids[frame], ids[donor], rank + 1, ids[index], similarity)
        for item in retrievals
        if item is not None
        for frame, donors, indices_Mk, similarities_Mk in zip(
            item.exchange.frame_Q.tolist(),
            item.exchange.donor_QM.tolist(),
            item.index_QMk.tolist(),
            item.similarity_QMk.tolist(),
            strict=True,
        )
        for donor, indices, similarities in zip(donors, indices_Mk, similarities_Mk, strict=True)
        for rank, (index, similarity) in enumerate(zip(indices, similarities, strict=True))
        if index != NONE
    ]
    schema = {
        "run": pl.String,
        "frame_clip_id": pl.String,
        "imu_clip_id": pl.String,
        "rank": pl.Int64,
        "clip_id": pl.String,
        "similarity": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _write_text(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
