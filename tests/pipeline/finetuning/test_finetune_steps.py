"""The steps of fine-tuning: passes, blocks that are computed again, networks that are real."""

# B batch, C classes, T frames

from dataclasses import replace

import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning.config import Augment
from egoctl.pipeline.finetuning.trainee import checkpoint_blocks, fit_of
from egoctl.pipeline.manifest import read_manifest, write_manifest
from egoctl.pipeline.teachers import lineup
from egoctl.tests.worlds import finetune_world
from egoctl.tests.worlds.finetune_world import (
    CLASSES,
    TinyNet,
    config_in,
    fitted,
    load_tiny,
    same_bits,
)

pytest_plugins = ("egoctl.tests.worlds.finetune_colours",)
pytestmark = pytest.mark.usefixtures("tiny")

CPU = torch.device("cpu")


def test_passes_of_a_step_add_up_to_the_step_in_one(folder):
    settings = {"teacher": "tiny_plain", "num_epochs": 2, "learning_rate": 1e-3}

    _, at_once = fitted(config_in(folder, "at-once", batch_size=6, **settings))
    _, in_three = fitted(config_in(folder, "in-three", batch_size=6, accumulate=3, **settings))
    _, other = fitted(config_in(folder, "other", batch_size=3, **settings))

    for name, value in at_once.items():
        torch.testing.assert_close(in_three[name], value, rtol=1e-4, atol=1e-5)
    assert (other["classifier.weight"] - at_once["classifier.weight"]).abs().max() > 1e-3


def test_recomputed_blocks_give_the_gradients_and_the_statistics_of_kept_ones():
    frames = torch.randint(0, 256, (3, 4, 20, 20, 3), dtype=torch.uint8)
    found = []
    for is_recomputed in (False, True):
        teacher = load_tiny("tiny", weights="random:0", device=CPU)
        trainee = fit_of(teacher, head_only=False).trainee.train()
        assert not is_recomputed or checkpoint_blocks(teacher.body) == 2
        torch.manual_seed(5)
        trainee(frames).square().sum().backward()
        grads = {n: p.grad for n, p in trainee.named_parameters() if p.grad is not None}
        found.append((grads, {n: b.clone() for n, b in trainee.named_buffers()}))

    (grads, statistics), (again, statistics_again) = found
    assert same_bits(grads, again) and len(grads) == 10
    assert same_bits(statistics, statistics_again)


def test_a_block_that_changes_the_list_it_gets_is_recomputed_from_what_it_got():
    class InPlace(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, pathways):
            pathways[0] = self.linear(pathways[0])
            return pathways

    body = torch.nn.Module()
    body.blocks = torch.nn.ModuleList([InPlace()])
    wanted = body.blocks[0]([torch.ones(3, 2)])[0].square().sum()
    (grad,) = torch.autograd.grad(wanted, body.blocks[0].linear.weight)

    checkpoint_blocks(body)
    body.blocks[0]([torch.ones(3, 2)])[0].square().sum().backward()

    assert torch.equal(body.blocks[0].linear.weight.grad, grad)


def test_batchnorm_that_gets_a_clip_alone_is_told_as_such(folder, monkeypatch):
    class Normed(TinyNet):
        def __init__(self, num_classes, **_):
            super().__init__(num_classes)
            self.norm = torch.nn.BatchNorm1d(12)

        def forward(self, video_BCTHW):
            x_BCTHW = self.blocks[1](self.blocks[0](video_BCTHW))
            return self.classifier(self.norm(x_BCTHW.mean(dim=(2, 3, 4))))

    monkeypatch.setattr(finetune_world, "TinyNet", Normed)

    with pytest.raises(EgoctlError, match="BatchNorm cannot learn from one clip.*--batch-size"):
        fitted(config_in(folder, "alone", batch_size=1))


def test_a_body_without_blocks_cannot_be_recomputed():
    assert checkpoint_blocks(torch.nn.Linear(2, 2)) == 0


# Of pytorchvideo's swish, which is asked for a gradient nowhere else.
@pytest.mark.filterwarnings("ignore:.*saved_variables:DeprecationWarning")
def test_a_step_moves_the_body_and_the_head_of_a_real_network(folder):
    before = lineup.load_teacher("x3d_xs", weights="random:0", device=CPU)
    size = {"augment": Augment(short_sides_px=(160, 164)), "num_epochs": 1, "batch_size": 2}
    manifest = read_manifest(folder / "clips.parquet")
    write_manifest(replace(manifest, segments=manifest.segments[:2]), folder / "two.parquet")
    config = config_in(folder, "x3d", teacher="x3d_xs", checkpoint_gradients=True, **size)

    report, after = fitted(replace(config, manifest=str(folder / "two.parquet")))

    assert after["blocks.5.proj.weight"].shape == (3, 2048)
    body = before.state()["blocks.0.conv.conv_t.weight"]
    assert not torch.equal(after["blocks.0.conv.conv_t.weight"], body)
    again = lineup.load_teacher("x3d_xs", weights=report.weights, device=CPU)
    assert again.spec.num_classes == 3 and again.weights.class_names == CLASSES
