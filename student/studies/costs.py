"""What a study's students cost: multiply-adds and parameters, counted from their shape."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from egoctl.pipeline.runs.run_folder import CONFIG_FILE, read_json
from egoctl.pipeline.store import FeatureStore
from egoctl.student.evaluation.profiled import ProfiledStudent
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.studies.plan import StudyPlan
from egoctl.student.studies.study import RunState

CountGflops = Callable[[nn.Module, tuple[Tensor, ...]], float]
PAPER_FRAME_PX = 224


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one clip."""

    gflops: float
    """10^9 multiply-adds, as the paper counts."""
    million_parameters: float
    frame_px: int


def study_costs(
    plan: StudyPlan, states: Sequence[RunState], count_gflops: CountGflops
) -> dict[str, Cost]:
    """By row, of the rows in tables that ask for it and that have a finished run."""
    wanted = {row for table in plan.tables if table.costs for row in table.rows}
    costs: dict[str, Cost] = {}
    for state in states:
        if state.has_metrics and state.run.row in wanted - costs.keys():
            costs[state.run.row] = _cost(state, count_gflops)
    return costs


def _cost(state: RunState, count_gflops: CountGflops) -> Cost:
    file = state.run.folder / CONFIG_FILE
    shape = StudentConfig(**read_json(file, where=str(file))["student"])
    inputs = FeatureStore.open(state.run.config.inputs)
    frame_px = inputs.header.recipe.get("frame_px", PAPER_FRAME_PX)
    inputs.close()
    assert isinstance(frame_px, int), "the recipe has whole pixels"
    student = ProfiledStudent(config=shape, frame_px=frame_px)
    network = student.build(torch.device("cpu"))
    return Cost(
        gflops=count_gflops(network, student.inputs(1)),
        million_parameters=sum(p.numel() for p in network.parameters()) / 1e6,
        frame_px=frame_px,
    )
