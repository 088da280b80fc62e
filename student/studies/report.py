"""What the study command writes and prints."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from egoctl.pipeline.files.whole_file import write_whole
from egoctl.student.studies.costs import CountGflops
from egoctl.student.studies.curves import draw_curves
from egoctl.student.studies.page import markdown_lines, page_lines
from egoctl.student.studies.plan import StudyPlan
from egoctl.student.studies.result import StudyResult, study_result, write_tables
from egoctl.student.studies.study import RunState, rows_of


def report_study(
    plan: StudyPlan,
    states: Sequence[RunState],
    count_gflops: CountGflops,
    *,
    page: Path | None = None,
) -> StudyResult:
    """Write results.json, tables.md, tables.csv and curves/ into the study's folder.

    page: a file for the tables with sentences on what follows from them.
    """
    result = study_result(plan, states, count_gflops)
    write_tables(result, "\n".join(markdown_lines(result)) + "\n")
    draw_curves(result)
    if page is not None:
        write_whole(page, "\n".join(page_lines(result)) + "\n")
    return result


def plan_lines(plan: StudyPlan, states: Sequence[RunState], only: Sequence[str]) -> Iterator[str]:
    """What a dry run tells: every run with its folder, and how much is left."""
    wanted = rows_of(plan, only)
    shown = [state for state in states if state.run.row in wanted]
    pretrainings = {s.run.pretraining.folder: s.run.pretraining for s in shown if s.run.pretraining}
    for folder, pretraining in pretrainings.items():
        yield f"{'found' if pretraining.is_done else 'to do':<6} pretraining {folder}"
    for state in shown:
        yield f"{'found' if state.has_metrics else 'to do':<6} {state.run.name}: {state.run.folder}"
    left = sum(not state.has_metrics for state in shown)
    before = sum(not pretraining.is_done for pretraining in pretrainings.values())
    yield f"{left} of {len(shown)} runs and {before} of {len(pretrainings)} pretrainings to do."
