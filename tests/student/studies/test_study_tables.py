"""What a study says of its numbers: intervals, warnings, sentences, and the command around it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egoctl.cli import app
from egoctl.pipeline.manifest import read_manifest, write_manifest
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.student.studies.plan import read_plan
from egoctl.student.studies.planned_runs import planned_runs
from egoctl.student.studies.report import report_study
from egoctl.student.studies.study import run_study, study_states
from egoctl.student.studies.tables import Spread
from egoctl.tests.worlds.student_world import make_world

PLAN = """
manifest = "manifest.parquet"
out = "study"
seeds = [0, 1, 2]
[inputs]
all = "inputs.store"
[teachers]
tiny = "teacher.store"
[settings]
image_encoder = "torchvision:mobilenet_v3_small"
image_weights = "random"
freeze_image_encoder = true
imu_out = 8
imu_readout = "last"
fusion_hidden = 8
num_epochs = 1
batch_size = 6
device = "cpu"
[pretrain.both]
batch_size = 6
num_epochs = 1
[rows.labels]
method = "imuonly"
[rows.distilled]
method = "imuonly-distill"
[tables.main]
title = "Main"
rows = ["teacher", "distilled"]
against = "labels"
[tables.classes]
title = "Per class"
kind = "classes"
rows = ["distilled"]
against = "labels"
"""


def of_seeds(*values: float) -> Spread:
    return Spread(of_seed=tuple(enumerate(values)))


def test_the_interval_is_students_t_of_the_mean():
    gain = of_seeds(0.01, 0.02, 0.06)

    assert gain.mean == pytest.approx(0.03)
    assert gain.std == pytest.approx(0.0264575)
    # 4.302653 standard errors, two degrees of freedom.
    assert gain.interval == pytest.approx((0.03 - 0.0657237, 0.03 + 0.0657237), abs=1e-6)
    assert not gain.is_clear


def test_a_difference_is_clear_only_if_its_interval_leaves_out_zero_and_seeds_are_three():
    assert of_seeds(0.10, 0.11, 0.12).is_clear
    assert of_seeds(-0.10, -0.11, -0.12).is_clear
    assert not of_seeds(0.10, -0.11, 0.12).is_clear
    assert not of_seeds(0.10, 0.10).is_clear
    assert not of_seeds(0.10).is_clear


def test_differences_are_of_the_seeds_that_both_have():
    ours = Spread(of_seed=((0, 0.5), (1, 0.6), (7, 0.9)))
    theirs = Spread(of_seed=((1, 0.4), (0, 0.5), (3, 0.0)))

    gain = ours.minus(theirs)

    assert gain is not None
    assert gain.of_seed == ((0, 0.0), (1, pytest.approx(0.2)))
    assert ours.minus(Spread(of_seed=((9, 0.1),))) is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan with every run done; their metrics are then written by hand."""
    folder = tmp_path_factory.mktemp("tables")
    make_world(folder)
    (folder / "plan.toml").write_text(PLAN)
    plan = read_plan(folder / "plan.toml")
    for run in planned_runs(plan):
        run.folder.mkdir(parents=True)
        (run.folder / "metrics.jsonl").write_text('{"epoch": 1, "val_top1": 0.5}\n')
        run.metrics_file("own").write_text(json.dumps(metrics(0.5)))
    return folder


def metrics(top1: float, **more) -> dict[str, object]:
    classes = [{"name": name, "num_segments": 5, "top1": top1} for name in ("cut", "stir")]
    return {"top1": top1, "teacher_top1": 0.8, "num_scored": 10, "teacher_memory": None,
            "per_class": classes, **more}  # fmt: skip


@pytest.fixture
def plan_file(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "plan.toml"


def found(plan_file: Path, distilled: tuple[float, ...], labels: tuple[float, ...], **more) -> str:
    """The page of runs with these accuracies."""
    plan = read_plan(plan_file)
    for run in planned_runs(plan):
        top1 = {"distilled": distilled, "labels": labels}[run.row][run.seed]
        run.metrics_file("own").write_text(json.dumps(metrics(top1, **more)))
    page = plan_file.parent / "page.md"
    report_study(plan, study_states(plan), lambda network, inputs: 1.0, page=page)
    return page.read_text()


def test_the_page_calls_a_difference_one_where_seeds_agree(plan_file):
    page = found(plan_file, (0.60, 0.62, 0.61), (0.50, 0.51, 0.52))

    told = "distilled has more top1 than labels: +10.00 [+7.52, +12.48], 3 seeds."
    assert f"- Main: {told}" in page
    told = "distilled is better than labels at 2, worse at 0, and no difference is shown at 0."
    assert f"- Per class: of 2 classes (teacher tiny), {told}" in page
    assert "- Main: no row's mean stands above teacher tiny (80.00)." in page
    # One of the table, two of the classes.
    assert "- 3 comparisons are made, each at 95%" in page
    assert "3 are called differences." in page


def test_the_page_calls_a_loss_a_loss(plan_file):
    page = found(plan_file, (0.40, 0.42, 0.41), (0.50, 0.51, 0.52))

    assert "distilled has less top1 than labels: -10.00" in page


def test_the_page_shows_no_difference_where_seeds_disagree(plan_file):
    page = found(plan_file, (0.60, 0.40, 0.50), (0.50, 0.50, 0.45))

    assert "no difference of top1 is shown between distilled and labels:" in page
    assert "3 seeds; 0 is inside." in page
    assert "0 are called differences." in page


def test_the_page_says_so_where_students_stand_above_their_teacher(plan_file):
    page = found(plan_file, (0.90, 0.91, 0.92), (0.50, 0.50, 0.50))

    assert "- Main: above teacher tiny (80.00) on average: distilled." in page


def test_what_the_teacher_had_seen_is_a_warning(plan_file):
    memory = {"num_seen": 4, "num_scored": 10}

    page = found(plan_file, (0.6, 0.6, 0.6), (0.5, 0.5, 0.5), teacher_memory=memory)

    assert "**Warning.** Teacher tiny was fitted to 4 of the 10 segments that are scored" in page


def as_epic(plan_file: Path, participant_id: str) -> None:
    manifest = read_manifest(plan_file.parent / "manifest.parquet")
    segments = [dataclasses.replace(s, participant_id=participant_id) for s in manifest.segments]
    epic = dataclasses.replace(manifest, segments=tuple(segments), dataset_name="EPIC-KITCHENS-100")
    write_manifest(epic, plan_file.parent / "manifest.parquet")


@pytest.mark.parametrize(
    ("participant_id", "num_seen", "is_told"),
    [("P30", 10, True), ("P30", None, True), ("P30", 0, False), ("P01", 10, False)],
)
def test_the_papers_epic_split_is_told_unless_the_teacher_never_saw_it(
    plan_file, participant_id, num_seen, is_told
):
    as_epic(plan_file, participant_id)
    memory = None if num_seen is None else {"num_seen": num_seen, "num_scored": 10}

    page = found(plan_file, (0.6, 0.6, 0.6), (0.5, 0.5, 0.5), teacher_memory=memory)

    told = "P30, P35 and P37, who evaluate here, lie inside the official training split"
    assert (told in page) is is_told


def test_the_memory_of_a_real_store_arrives(tmp_path):
    seen = TrainedOn(
        dataset="other",
        num_segments=3,
        spans_s={f"video-test-{i}": ((0.0, 9.0),) for i in range(3)},
    )
    make_world(tmp_path, trained_on=seen)
    (tmp_path / "plan.toml").write_text(PLAN)
    plan = read_plan(tmp_path / "plan.toml", ["seeds=[0]"])

    states = run_study(plan, only=["distilled"], say=lambda text: None)
    result = report_study(plan, states, lambda network, inputs: 1.0)

    assert result.warnings == (
        "Teacher tiny was fitted to 3 of the 9 segments that are scored here: its accuracy, and "
        "what students learn of it, is partly memory.",
    )


ROWS_WITH_PRETRAINING = (
    "rows.a={pretrain='both'}",
    "rows.b={pretrain='both', alpha=0.0, labelled_share=0.3}",
    "rows.wide={pretrain='both', imu_out=16}",
)


def test_rows_that_want_the_same_pretraining_share_it(plan_file):
    plan = read_plan(plan_file, ROWS_WITH_PRETRAINING)

    of = {
        (run.row, run.seed): run.pretraining.folder
        for run in planned_runs(plan)
        if run.pretraining is not None
    }

    assert of["a", 0] == of["b", 0]
    assert of["a", 0] != of["a", 1]
    assert of["a", 0] != of["wide", 0]


def test_a_row_begins_with_its_pretraining(plan_file):
    said: list[str] = []
    plan = read_plan(plan_file, [*ROWS_WITH_PRETRAINING, "seeds=[0]"])

    states = run_study(plan, only=["a", "b"], say=said.append)

    assert {s.run.row: (s.state, s.reason) for s in states if s.run.row in "ab"} == {
        "a": ("done", ""),
        "b": ("done", ""),
    }
    assert [line.split(" done")[0].split("--")[0] for line in said] == [
        "[1/3] pretraining both", "[2/3] a tiny seed 0:", "[3/3] b tiny seed 0:",
    ]  # fmt: skip
    logs = [(s.run.folder / "train.log").read_text() for s in states if s.run.row in "ab"]
    assert all("begin as pretrained in" in log for log in logs)


def test_a_pretraining_that_fails_fails_its_rows_alone(plan_file):
    changes = ["rows.a={pretrain='both'}", "pretrain.both.batch_size=64", "seeds=[0]"]

    states = run_study(read_plan(plan_file, changes), say=lambda text: None)

    assert {s.run.row: s.state for s in states} == {
        "labels": "found", "distilled": "found", "a": "failed",
    }  # fmt: skip
    (failed,) = (s for s in states if s.state == "failed")
    assert failed.reason.startswith("its pretraining: split train has 18 usable clips")


def test_settings_that_pretraining_does_not_know_are_refused(plan_file):
    changes = ["rows.a={pretrain='both'}", "pretrain.both.epochs=3"]

    done = CliRunner().invoke(app, ["study", str(plan_file), *set_options(changes)])

    assert "row a: pretrain both: unknown key 'epochs'" in str(done.exception)


def set_options(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def test_the_command_prints_its_result_as_json_and_exits_1_if_a_run_failed(plan_file):
    clean = CliRunner().invoke(app, ["study", str(plan_file), "--json"])
    failing = CliRunner().invoke(
        app, ["study", str(plan_file), "--set", "rows.lost={method='imuonly', train_split='x'}"]
    )

    assert clean.exit_code == 0
    assert json.loads(clean.stdout)["tables"]["main"]["lines"][1]["num_seeds"] == 3
    assert failing.exit_code == 1
    assert "FAILED lost seed 0: the manifest has no split 'x'" in failing.stdout
