"""`egoctl profile`: sizes counted by hand, networks timed in turns, the paper's table beside."""

# B batch, N frames

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.flop_count import counted_gflops
from egoctl.pipeline.profiling import network_profile
from egoctl.pipeline.profiling.network_profile import (
    BatchProfile,
    MachineProfile,
    NetworkProfile,
    ProfileConfig,
    profile,
)
from egoctl.pipeline.profiling.profiled_teacher import ProfiledTeacher
from egoctl.pipeline.profiling.report import profile_report, report_lines
from egoctl.pipeline.teachers.cost import teacher_cost
from egoctl.student.evaluation.profiled import ProfiledStudent, profiled_student
from egoctl.student.model.student_config import StudentConfig
from egoctl.tests.worlds.invoked import run

CPU = torch.device("cpu")
ONCE = ProfileConfig(device=CPU, batch_sizes=(1,), repeats=1, with_memory=False)


def size_of(config: StudentConfig) -> tuple[int, float]:
    """Parameters, and multiply-adds of one clip."""
    student = ProfiledStudent(config=config)
    net = student.build(CPU)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return parameters, counted_gflops(net, student.inputs(1)) * 1e9


# --- sizes ---


def test_the_papers_student_of_one_frame_has_13_million_parameters_and_1_888_gflops():
    parameters, flops = size_of(StudentConfig())

    assert parameters == 13_230_609
    # ResNet-18 1,818,553,856; IMU 67,563,776; fusion 1024 x 1024 + 1024 x 768; classes 768 x 97.
    assert flops == 1_818_553_856 + 67_563_776 + 1_835_008 + 74_496
    assert round(flops / 1e9, 3) == 1.888


def test_another_frame_costs_another_resnet_and_a_step_of_the_gru():
    _, one = size_of(StudentConfig(num_frames=1))
    _, two = size_of(StudentConfig(num_frames=2))
    _, three = size_of(StudentConfig(num_frames=3))

    gru_step = 2 * 3 * 512 * 512  # 1.573 M: three gates, each from the input and from the state
    assert three - two == 1_818_553_856 + gru_step
    # There is no GRU over one frame.
    assert two - one == 1_818_553_856 + 2 * gru_step


def test_a_student_of_imu_alone_is_small_and_read_out_last_hardly_costs_anything():
    parameters, mean = size_of(StudentConfig(method="imuonly"))
    _, last = size_of(StudentConfig(method="imuonly", imu_readout="last"))

    layers = 512 * 768 + 768 * 97
    assert parameters == 611_281
    assert mean == 67_563_776 + layers
    # 65,536 of these are the 1 x 1 convolution's, 7,200 BatchNorm's: 0.35 M of dilated ones.
    assert last == 354_144 + 7_200 + 128 * 512 + layers


class TwoLayers(nn.Module):
    """A GRU of two layers and two directions."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 3, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, steps: Tensor) -> Tensor:
        found: Tensor = self.gru(steps)[0]
        return found


def test_a_gru_counts_every_weight_matrix_once_a_step():
    flops = counted_gflops(TwoLayers(), (torch.zeros(2, 7, 5),)) * 1e9

    # 3 gates of 3; two directions, from 5 and 3 values, then from both directions' 6 and 3.
    assert flops == pytest.approx(2 * 7 * 2 * 9 * ((5 + 3) + (6 + 3)))


def test_a_teacher_has_the_cost_that_teachers_show_tells():
    (found,) = profile([ProfiledTeacher(name="x3d_xs")], ONCE)

    cost = teacher_cost("x3d_xs")
    assert (found.num_parameters, found.gflops) == (cost.num_parameters, cost.gflops)
    assert (found.num_parameters, round(found.gflops, 2)) == (3_794_274, 0.63)


# --- times and memory ---


@dataclass(frozen=True)
class Called:
    """A network of one linear layer that writes down every pass."""

    name: str
    calls: list[tuple[str, int]] = field(default_factory=list)

    def build(self, device: torch.device) -> nn.Module:
        layer = nn.Linear(4, 2)
        layer.register_forward_pre_hook(
            lambda module, inputs: self.calls.append((self.name, len(inputs[0])))
        )
        return layer.eval()

    def inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        return (torch.ones(batch_size, 4),)


def test_networks_are_timed_in_turns_after_a_round_of_warming_up(monkeypatch):
    monkeypatch.setattr(network_profile, "SAMPLE_S", 0.0)
    calls: list[tuple[str, int]] = []
    config = replace(ONCE, batch_sizes=(1, 8), repeats=2)

    found = profile([Called("a", calls), Called("b", calls)], config)

    counted = [("a", 1), ("b", 1)]
    assert calls == counted + 3 * [("a", 1), ("b", 1)] + 3 * [("a", 8), ("b", 8)]
    assert [network.num_parameters for network in found] == [10, 10]
    assert [len(batch.ms_per_clip) for batch in found[0].batches] == [2, 2]


def test_a_time_is_of_one_clip_and_its_inverse_is_the_throughput(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(network_profile, "SAMPLE_S", 0.0)
    # Three looks at the clock per timing, so that each pass seems to take 2 s.
    monkeypatch.setattr(network_profile.time, "perf_counter", lambda: float(next(clock)))

    (found,) = profile([Called("a")], replace(ONCE, batch_sizes=(4,)))

    assert found.batches[0].ms_per_clip == (500.0,)
    assert found.batches[0].clips_per_s == 2.0


def test_memory_on_a_cpu_is_that_of_a_process_of_its_own():
    if not Path("/proc/self/status").is_file():
        pytest.skip("Linux alone tells a process's peak memory so")
    held = torch.zeros(400 * 2**20, dtype=torch.uint8)
    tiny = ProfiledStudent(config=StudentConfig(method="imuonly", imu_readout="last"))

    (found,) = profile([tiny], replace(ONCE, with_memory=True))

    assert held.numel() == 400 * 2**20
    peak_mib = found.batches[0].peak_mib
    assert peak_mib is not None
    # Of this process the peak is above 400 MiB of zeros, and the interpreter with torch.
    assert 50 < peak_mib < own_peak_mib()


def own_peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


class TooLarge(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        if len(values) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return values * 2


@dataclass(frozen=True)
class Large(Called):
    def build(self, device: torch.device) -> nn.Module:
        return TooLarge()


def test_a_batch_that_does_not_fit_is_named_with_what_to_do():
    with pytest.raises(EgoctlError, match="big: a batch of 8 does not fit.*smaller --batch"):
        profile([Large("big")], replace(ONCE, batch_sizes=(8,)))


# --- the report ---

MACHINE = MachineProfile(
    device="A machine", torch_version="2", torch_threads=1, precision="fp32", repeats=3
)


def measured(name: str, ms: tuple[float, float, float], peak_mib: float | None) -> NetworkProfile:
    batch = BatchProfile(
        batch_size=32, ms_per_clip=ms, median_ms_per_clip=sorted(ms)[1],
        clips_per_s=1000 / sorted(ms)[1], peak_mib=peak_mib,
    )  # fmt: skip
    size = 1_000_000 if name == "student" else 8_000_000
    return NetworkProfile(name=name, num_parameters=size, gflops=size / 1e6, batches=(batch,))


def test_the_table_stands_side_by_side_with_the_ratio_of_student_to_teacher():
    # The machine is ten times slower in the last round; the ratio is 1 : 5 in each.
    pair = (
        measured("student", (1.0, 1.5, 10.0), None),
        measured("teacher", (5.0, 7.5, 50.0), 4096.0),
    )

    lines = report_lines(profile_report(MACHINE, pair))

    assert lines[:8] == [
        "A machine, torch 2 with 1 threads, fp32; median of 3, in turns (smallest to largest)",
        "",
        "                           student        teacher  student : teacher",
        "parameters, M                 1.00           8.00              1 : 8",
        "GFLOPs                           1              8              1 : 8",
        "batch 32: ms a clip  1.5 (1 to 10)  7.5 (5 to 50)              1 : 5",
        "batch 32: clips/s            666.7          133.3              5 : 1",
        "batch 32: peak MiB             n/a          4,096",
    ]


def test_the_papers_table_is_told_apart_from_what_was_measured():
    text = "\n".join(report_lines(profile_report(MACHINE, [measured("student", (1, 2, 3), None)])))

    assert "the paper's numbers on an NVIDIA A40 at batch 32, not measured here" in text
    assert "MotionFormer  369.51      10.70         108.91" in text
    assert "EgoDistill      1.91       0.25          20.56" in text
    assert "20.56 M parameters cannot be derived" in text
    assert "13.23 M and 1.888 GFLOPs" in text
    assert "student : teacher" not in text


# --- the command ---


def test_the_command_puts_a_student_beside_a_teacher_as_json():
    code, said = run(
        "profile", "--method", "imuonly", "--imu-readout", "last", "--classes", "400",
        "--teacher", "x3d_xs", "--quick", "--device", "cpu", "--json",
    )  # fmt: skip

    found: dict[str, Any] = json.loads(said)
    student, teacher = found["networks"]
    assert code == 0
    assert (student["name"], teacher["name"]) == ("imuonly", "x3d_xs")
    # 97 classes would be 611,281; 303 more of 768 weights and a bias.
    assert student["num_parameters"] == 611_281 + 303 * 769
    assert [batch["batch_size"] for batch in student["batches"]] == [1]
    assert student["batches"][0]["peak_mib"] is None
    by_measure = {ratio["measure"]: ratio["value"] for ratio in found["ratios"]}
    assert by_measure["parameters, M"] == student["num_parameters"] / teacher["num_parameters"]
    assert by_measure["batch 1: ms a clip"] < 1
    assert found["paper"][-1]["million_parameters"] == 20.56


def test_a_run_has_the_shape_that_it_was_trained_in(tmp_path):
    from egoctl.student.training.train import train
    from egoctl.tests.worlds.student_world import make_world

    world = make_world(tmp_path, segments_of_split=3)
    config = world.config(num_epochs=1)
    train(config)

    student = profiled_student(str(config.run), {"method": None}, frame_px=32)

    assert student.config.method == config.student.method
    # The world's classes, not the default's 97.
    assert student.config.num_classes < 97
    (found,) = profile([student], ONCE)
    assert found.num_parameters > 0


def test_a_run_with_another_shape_is_refused():
    with pytest.raises(EgoctlError, match="runs/first has a shape of its own: leave out method"):
        profiled_student("runs/first", {"method": "imuonly", "num_frames": None}, frame_px=224)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch": "1,many"}, "--batch is numbers with commas.*'1,many'"),
        ({"batch": "0"}, "--batch must be numbers of 1 or more"),
        ({"repeats": 0}, "--repeats must be 1 or more, got 0"),
        ({"precision": "fp8"}, "--precision 'fp8' is not known; choose fp32, bf16"),
        ({"device": "gpu"}, "no device is called 'gpu'"),
    ],
)
def test_wrong_options_are_answered_with_what_is_wanted(options, sentence):
    usual = {
        "device": "cpu", "precision": "fp32", "batch": None, "repeats": None, "quick": False
    }  # fmt: skip

    with pytest.raises(EgoctlError, match=sentence):
        ProfileConfig.from_options(**(usual | options))


def test_half_precision_is_computed_in_and_said():
    config = ProfileConfig.from_options(
        device="cpu", precision="bf16", batch=None, repeats=None, quick=True
    )
    seen: list[torch.dtype] = []

    class Told(Called):
        def build(self, device: torch.device) -> nn.Module:
            layer = nn.Linear(4, 2)
            layer.register_forward_hook(lambda module, _, output: seen.append(output.dtype))
            return layer

    profile([Told("a")], config)

    assert set(seen[1:]) == {torch.bfloat16}  # the first pass counts operations
    assert network_profile.machine_profile(config).precision == "bf16"
