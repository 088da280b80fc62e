"""What an earlier version was asked for to write tests/fixtures/written_before, and how to look.

The files were made by these commands, and tests give the same ones again. Whatever is compared is
looked at by the functions here, then and now: by the command line, and by the reader of stores.
"""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.store import FeatureStore

RECORDED = "/recorded"
"""The folder that everything lay in when it was made; configs and receipts keep its path."""
ENCODER = "timm:test_convnext"

# --- the commands, as they were typed ---


def words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


MANIFEST = words(
    "manifest build folder ANN.csv --videos videos --imu imu --window 0.8 --stride 0.4"
    " --out clips.parquet"
)
FINETUNE = words(
    "finetune-teacher clips.parquet --teacher tiny --weights weights/start.safetensors --epochs 8"
    " --batch-size 3 --lr 0.03 --flip 0.5 --device cpu --workers 1 --save-every 1"
)
EXTRACT = words(
    "extract-teacher clips.parquet --teacher tiny --weights runs/teacher/teacher.safetensors"
    " --frame-px 32 --part-rows 8 --batch-size 4 --decoders 1 --device cpu"
)
OF_STUDENT = words(
    f"--image-encoder {ENCODER} --image-weights weights/image.safetensors --device cpu"
)
OF_BRANCH = words("--imu-out 8 --imu-readout last --fusion-hidden 8")
STORES = words("clips.parquet --store teacher.store --inputs inputs.store")
PLACES = words("--manifest clips.parquet --store teacher.store --inputs inputs.store")
PRETRAIN = (
    *words("pretrain-imu"), *STORES, *OF_STUDENT, *OF_BRANCH,
    *words("--epochs 3 --batch-size 5 --lr 0.01 --splits train,unlabelled"),
)  # fmt: skip
BRANCH = words("--imu-out 8 --imu-readout last --device cpu --pretrain runs/imu")
TRAIN = {
    "between": words("train-student --method imuonly-distill --schedule onecycle --epochs 4")
    + words("--batch-size 4 --lr 0.01 --epoch-over segments --tau 2 --tau-squared")
    + (*BRANCH, *STORES),
    "within": words("train-student --method egodistill --freeze-image-encoder --epochs 3")
    + words("--batch-size 4 --accumulate 2 --lr 0.01 --ema 0.7 --frame-selection random")
    + words("--pretrain runs/imu")
    + (*OF_BRANCH, *OF_STUDENT, *STORES),
    "seen": words("train-student --method egodistill --epochs 2 --batch-size 4 --lr 0.001")
    + words("--schedule onecycle --frames 2 --frame-selection random --alpha 0 --seed 3")
    + (*OF_BRANCH, *OF_STUDENT, *STORES),
    "frozen": words("train-student --method visonly-distill --freeze-image-encoder --epochs 3")
    + words("--batch-size 6 --lr 0.01 --standardise-targets --beta 0.5 --l1-reduction mean")
    + (*OF_STUDENT, *STORES),
}
RUNS = ("teacher", "imu", *TRAIN)
SCORES = {
    "frozen": ("evaluate", "runs/frozen", *PLACES),
    "frozen-val": ("evaluate", "runs/frozen", *PLACES, "--split", "val"),
    "within-stopped": ("evaluate", "runs/within-stopped", *PLACES),
    "within-stopped-other": ("evaluate", "runs/within-stopped", *PLACES, "--imu", "other"),
    "within-stopped-train": ("evaluate", "runs/within-stopped", *PLACES)
    + words("--imu other --split train"),
    "between-stopped": ("evaluate", "runs/between-stopped", *PLACES),
    "analysis": ("analyse", "runs/within-stopped", "--other", "runs/frozen", *PLACES),
}
STUDY_PLAN = f"""title = "A small study"
manifest = "clips.parquet"
out = "study"
seeds = [0, 1]
[inputs]
three = "inputs.store"
[teachers]
tiny = "teacher.store"
[settings]
image_encoder = "{ENCODER}"
image_weights = "weights/image.safetensors"
freeze_image_encoder = true
imu_out = 8
imu_readout = "last"
fusion_hidden = 8
num_epochs = 1
batch_size = 6
learning_rate = 1e-2
device = "cpu"
[pretrain.both]
losses = "nce+l1"
num_epochs = 1
batch_size = 5
learning_rate = 1e-2
[rows.egodistill]
pretrain = "both"
[rows.visonly-distill]
method = "visonly-distill"
[rows.few]
method = "imuonly"
labelled_share = 0.5
[tables.main]
title = "With and without IMU"
rows = ["teacher", "egodistill", "visonly-distill", "few"]
imu = ["own", "other"]
against = "visonly-distill"
costs = true
paper_source = "EgoDistill, Table 2"
paper = [{{ row = "egodistill", teacher = "tiny", numbers = {{ EPIC = 36.90 }} }}]
[tables.classes]
title = "Gain per class"
kind = "classes"
rows = ["egodistill"]
against = "visonly-distill"
[tables.features]
title = "Nearness to the teacher"
rows = ["egodistill", "visonly-distill"]
metric = "feature_cosine"
"""
STUDY = words("study study.toml --page study/page.md")
STUDY_TEXTS = ("tables.md", "tables.csv", "page.md")
MADE_ON = "Made by `egoctl study"
"""The line of the tables that names versions and the machine."""


def stores(prefix: str) -> tuple[str, ...]:
    return "--store", f"{prefix}teacher.store", "--inputs", f"{prefix}inputs.store"


# --- running them ---

ONE_AFTER_THE_OTHER = """
import json, sys
from typer.testing import CliRunner
from egoctl import cli
for line in json.loads(sys.argv[1]):
    result = CliRunner().invoke(cli.app, line)
    print(line, result.exit_code, result.output, repr(result.exception))
    assert result.exit_code == int(sys.argv[2])
"""
"""Torch and all teachers are imported once."""


def run(*line: str, code: int = 0) -> str:
    """A command in this process; its standard output."""
    result = CliRunner().invoke(cli.app, list(line))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, f"{shlex.join(line)}: {result.exit_code}\n{result.output}"
    return result.stdout


def run_with_teacher(plugin: Path, folder: Path, *lines: tuple[str, ...], code: int) -> None:
    """Commands one after the other, in one process that finds the tiny teacher."""
    path = os.pathsep.join([str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(lines), str(code)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def install_plugin(folder: Path, module: Path) -> None:
    """Put the tiny teacher into a folder as pip leaves a distribution."""
    info = folder / "tiny_teacher-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-teacher\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[egoctl.teachers]\ntiny = tiny_teacher:source\n")
    (folder / module.name).write_bytes(module.read_bytes())


# --- what is compared ---


def digest(name: str, value: NDArray[Any]) -> str:
    """Of an array's name, type, shape and bits; of byte strings, of each."""
    found = hashlib.sha256(f"{name} {value.dtype} {value.shape}".encode())
    parts = value.ravel().tolist() if value.dtype == object else [value.tobytes()]
    for part in parts:
        found.update(part)
    return found.hexdigest()


def probe() -> str:
    """Changes with whatever may change a run's last bits: torch, its kernels, its random numbers.

    A few steps of networks with all layers that the runs have, without a line of egoctl.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        imu = nn.Sequential(
            nn.ReplicationPad1d((6, 0)), nn.Conv1d(6, 16, 7), nn.BatchNorm1d(16), nn.GELU(),
            nn.Dropout(0.1), nn.Conv1d(16, 8, 1), nn.Flatten(), nn.LazyLinear(8),
        )  # fmt: skip
        image = nn.Sequential(
            nn.Conv2d(3, 24, 4, stride=4), nn.Conv2d(24, 24, 7, padding=3, groups=24), nn.Flatten(),
            nn.LayerNorm(24 * 64), nn.Linear(24 * 64, 8), nn.ReLU(), nn.Linear(8, 8),
        )  # fmt: skip
        video = nn.Sequential(
            nn.Conv3d(3, 8, (1, 3, 3), stride=(1, 2, 2)), nn.GroupNorm(2, 8), nn.LeakyReLU(),
            nn.Dropout(0.1), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        )  # fmt: skip
        shown = torch.randn(4, 6, 60), torch.randn(4, 3, 32, 32), torch.randn(4, 3, 4, 20, 20)
        imu(shown[0])
        nets = nn.ModuleList([imu, image, video])
        optimizer = torch.optim.AdamW(nets.parameters(), lr=1e-2)
        for _ in range(4):
            a, b, c = (net(x) for net, x in zip(nets, shown, strict=True))
            loss = (a - b).norm(dim=1).mean() + nn.functional.cross_entropy(
                nn.functional.normalize(b) @ c.T / 0.1, torch.arange(4)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.set_num_threads(threads)
    state = {name: value.numpy() for name, value in nets.state_dict().items()}
    text = " ".join(digest(name, value) for name, value in state.items()) + torch.__version__
    return hashlib.sha256(text.encode()).hexdigest()


def as_recorded(text: str) -> str:
    """With the paths that it had when the files were made in the folder RECORDED."""
    return text.replace(str(Path.cwd()), RECORDED)


def look_at_store(url: str) -> dict[str, Any]:
    """All that a store holds, its arrays as digests."""
    store = FeatureStore.open(url)
    table = store.rows()
    rows = table["row"].to_numpy().astype(np.int64)
    found = {
        "info": json.loads(as_recorded(run("store", "info", url, "--json"))),
        "fingerprint": store.header.fingerprint,
        "rows": json.loads(as_recorded(table.write_json())),
        "row_digest": store.digest_of(rows),
        "arrays": {name: digest(name, store.read(name, rows)) for name in store.array_specs()},
    }
    found["info"].pop("url")
    return found


def look_at_stores() -> dict[str, Any]:
    """Both whole stores, and what is printed of them."""
    found: dict[str, Any] = {url: look_at_store(url) for url in ("teacher.store", "inputs.store")}
    for url, of_store in found.items():
        of_store["verify"] = run("store", "verify", url, "--deep")
        of_store["half"] = run("store", "info", f"half-{url}")
        of_store["lines"] = run("store", "info", url)
    found["manifest"] = {
        "fingerprint": read_manifest("clips.parquet").fingerprint(),
        "clips": [clip.clip_id for clip in read_manifest("clips.parquet").clips()],
        "check": run("manifest", "check", "clips.parquet", code=1),
    }
    return found


def look_at_run(name: str) -> dict[str, Any]:
    """A finished run: its config, its metrics, and digests of its weights."""
    folder = Path("runs") / name
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    files = [folder / "checkpoints" / one / "model.safetensors" for one in ("best", "last")]
    files += [folder / "teacher.safetensors", folder / "pretrained.safetensors"]
    found: dict[str, Any] = {
        "config": json.loads(as_recorded((folder / "config.json").read_text())),
        "metrics": [
            {key: value for key, value in json.loads(line).items() if key != "clips_per_s"}
            for line in lines
        ],
        "weights": {},
    }
    # What these two are for is one file; their checkpoints are not kept among the fixtures.
    for file in files[2:] if name.startswith(("teacher", "imu")) else files:
        if file.is_file():
            weights = safetensors.torch.load_file(file)
            with safetensors.safe_open(file, framework="pt") as opened:
                metadata = opened.metadata()
            tensors = " ".join(digest(key, value.numpy()) for key, value in weights.items())
            found["weights"][file.relative_to(folder).as_posix()] = {
                "metadata": metadata,
                "values": sum(value.numel() for value in weights.values()),
                "digest": hashlib.sha256(tensors.encode()).hexdigest(),
            }
    return found


def scores() -> dict[str, Any]:
    """What evaluation and analysis find in the stored runs."""
    return {name: json.loads(run(*line, "--json")) for name, line in SCORES.items()}


def study_files(world: Path) -> dict[str, Any]:
    """The tables, without what names this machine."""
    study = world / "study"
    lines = {name: (study / name).read_text().splitlines() for name in STUDY_TEXTS}
    return {
        name: [line for line in of if not line.startswith(MADE_ON)] for name, of in lines.items()
    } | {
        "tables": json.loads((study / "results.json").read_text())["tables"],
        "folders": sorted(path.name for path in (study / "runs").iterdir()),
    }
