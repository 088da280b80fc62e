"""The analyses of EgoDistill's section 4.5 for a trained run: its feature space, its best and worst
clips, what the IMU changes in retrieval, and the classes it separates better than another run.
"""

# N clips, S segments, Q queries, M IMU windows of a query, k retrieved clips, D feature width

from pathlib import Path

import torch
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.run_place import run_folder_at
from egoctl.student.analysis.analysed_clips import best_and_worst, by_motion, clip_table
from egoctl.student.analysis.analysed_run import AnalysedRun, analysed_run, in_common
from egoctl.student.analysis.class_gains import (
    ClassGain,
    PairGain,
    class_gains,
    halves,
    most_confused,
    pair_gain,
    pairs_named,
)
from egoctl.student.analysis.feature_space import dimension_table, feature_metrics
from egoctl.student.analysis.report import report_html
from egoctl.student.analysis.result import (
    REPORT_FILE,
    Analysis,
    AnalysisConfig,
    RunAnalysis,
    class_table,
    pair_table,
    retrieved_table,
    write_files,
)
from egoctl.student.analysis.retrieval import (
    Exchange,
    NeighbourRecall,
    Retrieval,
    draw_exchange,
    exchange_metrics,
    nearest,
    neighbour_recall,
    random_clips,
)
from egoctl.student.evaluation.evaluate import file_suffix
from egoctl.student.evaluation.predict import mean_over_segments, segment_labels
from egoctl.student.model.losses import NO_LABEL
from egoctl.student.runs.run_data import Places

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
    """Analyse a run, beside another one if it is given; both are paths or URLs.

    Writes analysis/ into the run (analysis-SPLIT/ for other splits than test): report.html,
    summary.json and tables as CSV.

    Raises:
        EgoctlError: if there is no such run, split, pair or device, or the two runs cannot be
            compared.
        StoreMismatchError: if manifest or stores are not those that a run was trained on.
    """
    if config.pairs is not None and other is None:
        raise EgoctlError("--pairs compares two runs: name the second one with --other.")
    on = _usable_device(device)
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


def _usable_device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name)
    # A torch without CUDA asserts that it has it.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise EgoctlError(f"--device {name} cannot be used here ({reason}). Pass cpu.") from error
    return torch.device(name)


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
    if 0 < len(has_target) < len(table):
        mine = mine.at(has_target)
        theirs = None if theirs is None else theirs.at(has_target)
    teacher_ND = mine.clips.feature_ND if len(has_target) else None
    query_Q = random_clips(len(mine.clips), at_most=config.num_queries, seed=config.seed)
    exchange = draw_exchange(
        mine.clips.segment_N, frame_Q=query_Q, num_donors=NUM_DONORS, seed=config.seed
    )
    looked_at = [_looked_at(mine, teacher_ND, query_Q, exchange, is_near=is_near)]
    if theirs is not None:
        looked_at.append(_looked_at(theirs, teacher_ND, query_Q, exchange, is_near=other_is_near))
    retrievals = [retrieval for _, retrieval in looked_at if retrieval is not None]
    analysis = Analysis(
        report=report,
        config=config,
        num_segments=table["segment_id"].n_unique(),
        num_scored=num_scored,
        num_clips=len(table),
        num_target_clips=len(has_target),
        left_out=mine.clips.left_out_by_reason(),
        num_not_in_common=num_own - len(table),
        run=looked_at[0][0],
        other=None if theirs is None else looked_at[1][0],
        by_motion=by_motion(table),
        best=best,
        worst=worst,
        pairs=pairs,
        classes=classes,
    )
    compared = torch.zeros(0, 0), torch.zeros(0, 0)
    if is_near and teacher_ND is not None:
        compared = mine.feature_ND, teacher_ND
    tables = {
        "clips": table,
        "dimensions": dimension_table(*compared),
        "retrieved": retrieved_table(mine.clips, retrievals),
        "pairs": pair_table(analysis),
        "classes": class_table(analysis),
    }
    page = report_html(analysis, mine.clips, table, retrievals, mine.inputs)
    write_files(folder, analysis, tables, page)
    return analysis


def _looked_at(
    run: AnalysedRun,
    teacher_ND: Tensor | None,
    query_Q: Tensor,
    exchange: Exchange | None,
    *,
    is_near: bool,
) -> tuple[RunAnalysis, Retrieval | None]:
    """Metrics of one run's feature space, and the clips it retrieved.

    is_near: it was trained to be near this teacher, so z is comparable with its features.
    """
    clips = run.clips
    features = None
    neighbours: tuple[NeighbourRecall, ...] = ()
    if teacher_ND is not None:
        features = feature_metrics(run.feature_ND, teacher_ND, is_in_teacher_units=is_near)
        neighbours = neighbour_recall(
            run.feature_ND, teacher_ND, segment_N=clips.segment_N, query_Q=query_Q, ks=RECALL_AT
        )
    gallery_ND = run.feature_ND if teacher_ND is None or not is_near else teacher_ND
    retrieval = exchanged = None
    if exchange is not None:
        retrieval = _retrieve(run, exchange, gallery_ND)
        exchanged = exchange_metrics(
            retrieval.index_QMk, exchange, segment_N=clips.segment_N, label_N=clips.label_N
        )
    analysed = RunAnalysis(
        run=run.url,
        method=run.method,
        features=features,
        neighbours=neighbours,
        gallery="student" if gallery_ND is run.feature_ND else "teacher",
        exchange=exchanged,
    )
    return analysed, retrieval


def _gains(
    mine: AnalysedRun, theirs: AnalysedRun | None, config: AnalysisConfig
) -> tuple[tuple[PairGain, ...], tuple[ClassGain, ...], int]:
    """Gains of pairs, gains of classes, and the number of segments with a label and a clip."""
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
    # Without IMU one answer serves for all: computed again, it could differ by rounding.
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
        uses_imu=num_imus > 1,
        exchange=exchange,
        similarity_QMk=similarity_Pk.view(shape).expand(all_imus),
        index_QMk=index_Pk.view(shape).expand(all_imus),
    )
