"""A study's plan: what a TOML file may say, and the sentences for what it may not."""

from pathlib import Path

import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.studies.plan import PaperNumber, read_plan
from egoctl.tests.worlds.places import MANIFESTS

PLAN = """
manifest = "clips.parquet"
out = "study"
seeds = [0, 1]
[inputs]
one = "inputs.store"
[teachers]
mvit = "s3://team/mvit.store"
[settings]
num_epochs = 2
[rows.ego]
method = "egodistill"
[rows.vis]
method = "visonly-distill"
num_frames = 2
[tables.main]
title = "Main"
rows = ["teacher", "ego", "vis"]
against = "vis"
paper_source = "EgoDistill, Table 2"
paper = [{ row = "ego", teacher = "mvit", numbers = { EPIC = 36.90 } }]
"""


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    file = tmp_path / "plan.toml"
    file.write_text(PLAN)
    return file


def changed(file: Path, old: str, new: str) -> Path:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    return file


def test_a_plan_is_read_with_paths_from_its_own_folder(plan_file, tmp_path):
    plan = read_plan(plan_file)

    assert plan.name == "plan"
    assert plan.manifest == str(tmp_path / "clips.parquet")
    assert plan.inputs == {"one": str(tmp_path / "inputs.store")}
    assert plan.teachers == {"mvit": "s3://team/mvit.store"}
    assert plan.seeds == (0, 1)
    assert plan.settings == {"num_epochs": 2}
    assert plan.row("vis").settings == {"method": "visonly-distill", "num_frames": 2}
    (table,) = plan.tables
    assert table.paper == (PaperNumber(row="ego", teacher="mvit", numbers={"EPIC": 36.90}),)
    assert plan.teachers_of(table) == ("mvit",)


def test_changes_win_and_their_paths_stay_as_typed(plan_file):
    changes = ["manifest=here/my.parquet", "settings.num_epochs=7", "teachers.x3d=x.store",
               "seeds=[4]"]  # fmt: skip

    plan = read_plan(plan_file, changes)

    assert plan.manifest == "here/my.parquet"
    assert plan.settings == {"num_epochs": 7}
    assert plan.teachers == {"mvit": "s3://team/mvit.store", "x3d": "x.store"}
    assert plan.seeds == (4,)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seeds = [0, 1]", "seed = [0, 1]", "the plan: unknown key 'seed'. Did you mean 'seeds'?"),
        ("seeds = [0, 1]", "seeds = 3", "the plan: seeds must be a list, got 3."),
        ("seeds = [0, 1]", "seeds = [0, 0]", "each once, got [0, 0]"),
        ('out = "study"\n', "", "the plan: out is missing."),
        ('title = "Main"', 'titel = "Main"', "main: unknown key 'titel'. Did you mean 'title'?"),
        ('rows = ["teacher", "ego", "vis"]', 'rows = ["eg"]', "table main: rows: the plan has no"),
        ('against = "vis"', 'against = "teacher"', "against: the plan has no 'teacher'"),
        ('against = "vis"', 'metric = "top2"', "metric 'top2' is not one of top1"),
        ('against = "vis"', 'kind = "classes"', "a table of classes has one row, and 'against'"),
        ('against = "vis"', 'imu = ["others"]', "imu is own, other or zero, got others"),
        ('paper_source = "EgoDistill, Table 2"\n', "", "paper numbers need a paper_source"),
        ('row = "ego", t', 'rw = "ego", t', "main: paper.0: unknown key 'rw'. Did you mean 'row'"),
        ("{ EPIC = 36.90 }", "{ EPIC = true }", "paper.0.numbers.EPIC must be a number, got"),
        ("[rows.ego]", "[rows.teacher]", "a row cannot be called 'teacher'"),
        ("[rows.ego]", '[rows."a/b"]', "'a/b' becomes part of a folder's name"),
        ("num_frames = 2", "labelled_share = 1.5", "row vis: labelled_share must be between 0"),
        ("num_frames = 2", 'pretrain = "both"', "row vis: pretrain: the plan has no 'both'"),
        ("num_frames = 2", 'inputs = "two"', "row vis: inputs: the plan has no 'two'; it has one"),
        ("[teachers]", "[teachers", "is not TOML"),
    ],
)  # fmt: skip
def test_what_a_plan_must_not_say_is_refused_with_a_sentence(plan_file, old, new, sentence):
    with pytest.raises(EgoctlError) as refused:
        read_plan(changed(plan_file, old, new))

    assert str(refused.value).startswith(str(plan_file))
    assert sentence in str(refused.value)


@pytest.mark.parametrize("change", ["seeds", "=3", "manifest.here=3"])
def test_a_change_that_names_no_place_is_refused(plan_file, change):
    with pytest.raises(EgoctlError, match=f"--set '{change}'"):
        read_plan(plan_file, [change])


def test_a_plan_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(EgoctlError, match="none.toml: No such file"):
        read_plan(tmp_path / "none.toml")


SHIPPED = sorted((MANIFESTS / "studies").glob("*.toml"))


def test_six_of_the_papers_tables_and_figures_and_the_demo_are_shipped():
    assert {file.stem for file in SHIPPED} == {
        "table1", "table2", "table3", "table4", "fig3", "fig4", "demo",
    }  # fmt: skip


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_plan_can_be_read_and_its_settings_are_known(file):
    from egoctl.student.settings.config_file import setting_types

    plan = read_plan(file)

    known = set(setting_types())
    assert set(plan.settings) <= known
    for row in plan.rows:
        assert set(row.settings) <= known, row.name
        assert any(row.name in (*table.rows, table.against) for table in plan.tables), row.name
