"""Analyses of runs in the tiny world of tests of training, and the tables they leave there."""

import polars as pl

from egoctl.student.analysis.analyse import analyse
from egoctl.student.analysis.result import Analysis, AnalysisConfig
from egoctl.student.runs.run_data import Places
from egoctl.tests.worlds.student_world import World


def look(world: World, run="imu", *, other=None, **settings) -> Analysis:
    """The analysis of a run of the world, compared with another of its runs."""
    return analyse(
        world.folder / run,
        other=None if other is None else world.folder / other,
        config=AnalysisConfig(**settings),
        places=Places(),
    )


def table_of(world: World, name: str, run="imu") -> pl.DataFrame:
    """A CSV file of the run's last analysis."""
    return pl.read_csv(world.folder / run / "analysis" / f"{name}.csv")
