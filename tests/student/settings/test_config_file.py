"""Settings of a training run: from a file and options, checked by name and type."""

from pathlib import Path
from typing import Any

import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.settings.config_file import read_settings, setting_types, train_config
from egoctl.student.settings.train_config import TrainConfig
from egoctl.tests.worlds.invoked import run as run_egoctl

NEEDED = {"manifest": "clips.parquet", "inputs": "in.store", "teacher": "t.store", "run": "run"}


def refusal(**settings: Any) -> str:
    with pytest.raises(EgoctlError) as caught:
        train_config(NEEDED | settings)
    return str(caught.value)


def test_a_file_sets_what_it_names_and_defaults_stay(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'manifest = "clips.parquet"\ninputs = "in.store"\nteacher = "t.store"\nrun = "run"\n'
        'method = "imuonly-distill"\nnum_epochs = 3\nlearning_rate = 1e-3\ntau = 10\n'
        'kd_tau_squared = true\nfeature_cache = "cache"\n'
    )

    assert train_config(read_settings(path)) == TrainConfig(
        manifest="clips.parquet",
        inputs="in.store",
        teacher="t.store",
        run="run",
        student=StudentConfig(method="imuonly-distill"),
        loss=LossConfig(tau=10.0, kd_tau_squared=True),
        num_epochs=3,
        learning_rate=0.001,
        feature_cache=Path("cache"),
    )


def test_an_option_wins_over_the_file() -> None:
    from_file = NEEDED | {"num_epochs": 3, "beta": 0.5}

    found = train_config(from_file | {"num_epochs": 7})

    assert (found.num_epochs, found.loss.beta) == (7, 0.5)


@pytest.mark.parametrize(
    ("name", "schedule", "num_epochs", "tau", "learning_rate"),
    [
        ("epic", "steps", 50, 1.0, 1e-4),
        ("ego4d", "steps", 150, 10.0, 1e-4),
        ("short", "onecycle", 30, 1.0, 1e-3),
        ("steps", "steps", 50, 1.0, 1e-4),
        ("onecycle", "onecycle", 50, 1.0, 1e-4),
    ],
)
def test_a_plan_by_name_becomes_its_settings(
    name: str, schedule: str, num_epochs: int, tau: float, learning_rate: float
) -> None:
    found = train_config(NEEDED | {"schedule": name})

    assert (found.schedule, found.num_epochs) == (schedule, num_epochs)
    assert (found.loss.tau, found.learning_rate) == (tau, learning_rate)


def test_settings_that_are_given_win_over_a_plan() -> None:
    found = train_config(NEEDED | {"schedule": "ego4d", "num_epochs": 9, "tau": None})

    assert (found.num_epochs, found.loss.tau) == (9, 10.0)


@pytest.mark.parametrize("name", ["cosine", ["epic"]])
def test_an_unknown_schedule_is_answered_with_all_of_them(name: Any) -> None:
    assert refusal(schedule=name).startswith(
        "schedule must be one of epic, ego4d, short, steps, onecycle, got "
    )


def test_a_setting_that_is_none_keeps_its_default() -> None:
    assert train_config(NEEDED | {"num_epochs": None}) == train_config(NEEDED)


def test_a_whole_number_is_a_number() -> None:
    found = train_config(NEEDED | {"alpha": 1, "feature_cache": Path("elsewhere")})

    assert (found.loss.alpha, type(found.loss.alpha)) == (1.0, float)
    assert found.feature_cache == Path("elsewhere")


def test_every_setting_has_an_option_of_train_student(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[TrainConfig] = []

    def keep(config: TrainConfig) -> None:
        trained.append(config)
        raise SystemExit  # nothing is trained here

    monkeypatch.setattr("egoctl.student.training.train.train", keep)

    run_egoctl(
        *("train-student", "m.parquet", "--inputs", "i", "--run", "r", "--store", "t"),
        *("--method", "visimu", "--pretrain", "p", "--train-split", "a", "--val-split", "b"),
        *("--image-encoder", "efficientnet_lite0", "--image-weights", "random"),
        *("--freeze-image-encoder", "--feature-cache", "c", "--frames", 4),
        *("--frame-selection", "random", "--imu-readout", "last", "--imu-last-form", "full"),
        *("--imu-out", 8, "--fusion-hidden", 9, "--schedule", "onecycle", "--epochs", 3),
        *("--epoch-over", "segments", "--early-stopping", 2, "--batch-size", 6),
        *("--accumulate", 2, "--lr", 0.5, "--weight-decay", 0.5, "--ema", 0.5, "--alpha", 0.5),
        *("--beta", 0.5, "--tau", 0.5, "--tau-squared", "--l1-reduction", "mean"),
        *("--standardise-targets", "--seed", 7, "--device", "cpu", "--devices", 2),
        *("--precision", "bf16-mixed", "--compile", "--workers", 1, "--cache-frames", "disk"),
        *("--save-every-steps", 5, "--allow-missing"),
    )

    (config,) = trained
    plain = train_config(NEEDED)
    parts = {
        TrainConfig: (config, plain),
        StudentConfig: (config.student, plain.student),
        LossConfig: (config.loss, plain.loss),
    }
    left_as_it_was = [
        name
        for name, (owner, _) in setting_types().items()
        if getattr(parts[owner][0], name) == getattr(parts[owner][1], name)
    ]
    assert left_as_it_was == []


def test_every_setting_of_the_three_configs_can_be_set_but_what_the_data_tell() -> None:
    names = set(setting_types())

    assert {"manifest", "epoch_over", "method", "imu_readout", "alpha", "l1_reduction"} <= names
    assert not names & {"student", "loss", "imu_samples", "teacher_dim", "num_classes"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("num_epoch", "Did you mean 'num_epochs'?"),
        ("learning-rate", "Did you mean 'learning_rate'?"),
        ("temprature_of_the_softmax", "Known: accumulate, allow_missing, alpha, "),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_one(name: str, hint: str) -> None:
    assert refusal(**{name: 3}).startswith(f"no setting is called {name!r}. {hint}")


def test_what_the_data_tell_cannot_be_set() -> None:
    assert refusal(num_classes=5).startswith("no setting is called 'num_classes'.")


def test_a_table_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[student]\nmethod = "visonly"\n')

    assert refusal(**read_settings(tmp_path / "run.toml")).startswith(
        "no setting is called 'student'."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_epochs": "ten"}, "num_epochs must be a whole number, got 'ten'."),
        ({"num_epochs": 2.5}, "num_epochs must be a whole number, got 2.5."),
        ({"num_epochs": True}, "num_epochs must be a whole number, got True."),
        ({"alpha": "0.5"}, "alpha must be a number, got '0.5'."),
        ({"alpha": False}, "alpha must be a number, got False."),
        ({"allow_missing": 1}, "allow_missing must be true or false, got 1."),
        ({"inputs": 7}, "inputs must be text, got 7."),
        ({"teacher": ["a", "b"]}, "teacher must be text, got ['a', 'b']."),
        ({"manifest": 7}, "manifest must be text, got 7."),
        ({"device": "gpu"}, "device must be one of auto, cpu, cuda, mps, got 'gpu'."),
        ({"imu_readout": ["mean"]}, "imu_readout must be one of mean, last, flatten, got ['mean']"),
    ],
)
def test_a_wrong_type_names_the_setting_and_the_value(
    settings: dict[str, Any], message: str
) -> None:
    assert refusal(**settings).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be 1 or more, got 0."),
        ({"alpha": 1.5}, "alpha must be in [0, 1], got 1.5."),
        ({"tau": 0}, "tau must be above 0, got 0.0."),
        ({"teacher": None}, "method egodistill learns from a teacher"),
    ],
)
def test_a_wrong_value_is_refused_by_the_record_it_belongs_to(
    settings: dict[str, Any], message: str
) -> None:
    assert refusal(**settings).startswith(message)


@pytest.mark.parametrize("name", ["manifest", "inputs", "run"])
def test_a_setting_that_is_needed_is_asked_for(name: str) -> None:
    settings = {key: value for key, value in NEEDED.items() if key != name}

    with pytest.raises(EgoctlError, match=f"^{name} is missing\\.$"):
        train_config(settings)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EgoctlError, match=r"--config .*none\.toml: No such file or directory\."):
        read_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("content", [b"num_epochs: 3\n", b"a = 1\na = 2\n", b'run = "\xff"\n'])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.yaml").write_bytes(content)

    with pytest.raises(EgoctlError, match=r"--config .*run\.yaml is not TOML: "):
        read_settings(tmp_path / "run.yaml")
