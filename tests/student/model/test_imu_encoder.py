"""The IMU encoder: parity with the published network, and the exact short way to its last step."""

import numpy as np
import pytest
import torch

from egoctl.student.model.imu_encoder import RECEPTIVE_FIELD, ImuEncoder
from egoctl.tests.fixtures.student.hashed_weights import fill, hash_uniform, tokens
from egoctl.tests.worlds.places import FIXTURES


def encoder(readout="last", out=32, num_samples=422) -> ImuEncoder:
    torch.manual_seed(3)
    return ImuEncoder(out=out, readout=readout, num_samples=num_samples)


def with_used_batchnorm(net: ImuEncoder) -> ImuEncoder:
    fill(net, gain=1.5)
    return net.eval()


def test_the_hash_gives_its_published_first_values():
    expected = [0.6805960300870374, 0.10487419499160455, 0.25143722125675516]

    assert hash_uniform(3, 12345).tolist() == expected


def test_the_parameters_have_the_published_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in encoder().state_dict().items()}

    assert shapes["mean_u"] == shapes["std_u"] == (6,)
    assert shapes["cnn.1.weight"] == (16, 6, 7)
    assert shapes["cnn.5.weight"] == (32, 16, 7)
    assert shapes["cnn.9.weight"] == (64, 32, 7)
    assert shapes["cnn.13.weight"] == (128, 64, 7)
    assert shapes["cnn.14.running_var"] == (128,)
    assert shapes["cnn.17.weight"] == (32, 128, 1)
    assert len(shapes) == 2 + 5 * 2 + 4 * 5


def test_the_outputs_are_those_of_the_published_network():
    stored = np.load(FIXTURES / "student" / "imu_cnn_brossard_out32.npz")
    net = with_used_batchnorm(encoder()).double()
    imu = tokens((2, 422, 6), seed=6422).double()

    with torch.no_grad():
        out = net.all_steps(imu)
        last = net(imu)
        net.readout = "mean"
        mean = net(imu)

    np.testing.assert_allclose(out.float().numpy(), stored["out"], atol=1e-5)
    np.testing.assert_allclose(last.numpy(), stored["last"], atol=1e-9)
    np.testing.assert_allclose(mean.numpy(), stored["mean_pool"], atol=1e-9)


@pytest.mark.parametrize("num_samples", [7, 422, 511, 700])
def test_the_short_way_gives_the_last_step_exactly_in_eval_mode(num_samples):
    net = with_used_batchnorm(encoder()).double()
    imu = torch.randn(3, num_samples, 6, generator=torch.Generator().manual_seed(1)).double()

    with torch.no_grad():
        difference = (net.last_step(imu) - net.all_steps(imu)[..., -1]).abs().max()

    assert difference < 1e-12


def test_in_float32_the_short_way_differs_by_rounding_at_most():
    net = with_used_batchnorm(encoder())
    imu = tokens((4, 422, 6), seed=1)

    with torch.no_grad():
        short, long = net.last_step(imu), net.all_steps(imu)[..., -1]

    assert (short - long).abs().max() < 1e-6 * long.abs().max()


def test_in_train_mode_the_short_way_is_the_long_one_but_for_batchnorm_and_dropout():
    net = with_used_batchnorm(encoder()).double().train()
    for layer in net.cnn:
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.Dropout):
            layer.eval()
    imu = tokens((2, 422, 6), seed=5).double()

    assert torch.allclose(net.last_step(imu), net.all_steps(imu)[..., -1], atol=1e-12)


def test_the_full_form_of_the_last_step_is_the_long_way_in_training_and_exact_in_eval_mode():
    imu = tokens((2, 422, 6), seed=5).double()
    nets = []
    for form in ("full", "exact"):
        torch.manual_seed(3)
        net = ImuEncoder(out=32, readout="last", num_samples=422, last_form=form)
        fill(net, gain=1.5)
        nets.append(net.double().train())
    full, exact = nets

    torch.manual_seed(0)
    trained = full(imu)
    torch.manual_seed(0)
    expected = exact.all_steps(imu)[..., -1]

    assert torch.equal(trained, expected)
    assert torch.equal(full.cnn[2].running_mean, exact.cnn[2].running_mean)
    assert torch.equal(full.eval()(imu), full.last_step(imu))


def test_gradients_of_the_short_way_are_those_of_the_long_one():
    net = with_used_batchnorm(encoder()).double()
    imu = tokens((2, 422, 6), seed=6).double()

    net.last_step(imu).square().sum().backward()
    short = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    net.all_steps(imu)[..., -1].square().sum().backward()

    for parameter, gradient in zip(net.parameters(), short, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-10)


def test_an_output_does_not_see_later_samples():
    net = with_used_batchnorm(encoder())
    imu = tokens((1, 422, 6), seed=7)
    changed = imu.clone()
    changed[:, 200:] += 1

    with torch.no_grad():
        before, after = net.all_steps(imu), net.all_steps(changed)

    assert torch.equal(before[..., :200], after[..., :200])
    assert not torch.equal(before[..., 200], after[..., 200])


def test_the_receptive_field_is_511_samples():
    net = with_used_batchnorm(encoder()).double()
    imu = torch.zeros(1, 600, 6).double().requires_grad_()

    net.all_steps(imu)[..., -1].sum().backward()

    reached = imu.grad.abs().sum(dim=(0, 2)).nonzero()
    assert RECEPTIVE_FIELD == 511
    assert int(reached.min()) == 600 - 511


@pytest.mark.parametrize(
    ("readout", "width"), [("last", 5), ("mean", 5), ("flatten", 5 * 30)], ids=str
)
def test_every_readout_has_the_width_it_tells(readout, width):
    net = encoder(readout, out=5, num_samples=30).eval()

    feature = net(tokens((2, 30, 6), seed=8))

    assert net.feature_dim == width
    assert feature.shape == (2, width)


@pytest.mark.parametrize(("out", "parameters"), [(32, 80_784), (512, 142_704)])
def test_the_parameter_count_is_76656_plus_129_per_output(out, parameters):
    assert sum(p.numel() for p in encoder(out=out).parameters()) == parameters
