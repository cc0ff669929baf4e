"""Weights as points, and networks evaluated at points."""

import copy

import pytest
import torch
from torch import nn

from sbtutor import data, models, stack
from sbtutor.config import ModelConfig
from sbtutor.predict import predict

NAMES = ["mlp", "small_cnn", "resnet8"]


def split(samples=23, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (samples, channels, 8, 8), generator=generator)
    return data.Split(images.to(torch.uint8), torch.arange(samples) % 3, tuple("abc"))


def members(name="small_cnn", norm="group", channels=1, count=3, dtype=torch.float64):
    config = ModelConfig(name=name, width=4, norm=norm)
    nets = [models.build(config, (channels, 8, 8), 3, m) for m in range(count)]
    return [net.to(dtype).eval() for net in nets]


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def assert_unchanged(model, before):
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_points_and_models_are_each_others_inverse(name):
    nets = members(name, "batch")
    points = stack.points_of(nets)
    for net, point in zip(nets, points, strict=True):
        back = dict(stack.model_at(nets[0], point).named_parameters())
        assert all(torch.equal(p, back[n]) for n, p in net.named_parameters())


def test_a_point_holds_the_parameters_in_the_order_of_named_parameters():
    net = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    for value, p in enumerate(net.parameters()):
        nn.init.constant_(p, value)
    assert stack.points_of([net]).tolist() == [[0, 0, 1, 2, 3]]


def test_points_do_not_depend_on_the_weights_memory_format():
    net = members()[0]
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    points = stack.points_of([net, other])
    assert torch.equal(points[0], points[1])


def test_a_model_at_a_point_shares_no_memory_and_keeps_mode_and_buffers():
    net = members(norm="batch")[0].train()
    net.norm1.running_mean += 1
    before, point = state(net), stack.points_of([net])[0] + 1
    kept = point.clone()
    moved = stack.model_at(net, point)
    assert moved.training
    assert torch.equal(moved.norm1.running_mean, net.norm1.running_mean)
    for p in moved.parameters():
        p.data.zero_()
    moved.norm1.running_mean.zero_()
    assert torch.equal(point, kept)
    assert_unchanged(net, before)


def test_a_model_takes_the_precision_of_its_point():
    net = members(dtype=torch.float32)[0]
    moved = stack.model_at(net, stack.points_of([net])[0].double())
    assert {t.dtype for t in moved.parameters()} == {torch.float64}
    assert {t.dtype for t in net.parameters()} == {torch.float32}


def test_a_model_at_a_point_can_be_trained():
    moved = stack.model_at(members()[0], stack.points_of(members())[1])
    moved(torch.rand(2, 1, 8, 8).double()).sum().backward()
    assert all(p.grad is not None for p in moved.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_logits_at_the_members_points_are_the_members(name, channels, batch_size):
    nets = members(name, channels=channels)
    images = split(channels=channels)
    found = stack.logits_at(
        nets[0], stack.points_of(nets), images, batch_size=batch_size
    )
    torch.testing.assert_close(found, predict(nets, images).logits)


@pytest.mark.parametrize("name", ["small_cnn", "resnet8"])
def test_refreshed_statistics_are_those_of_update_bn(name):
    """`torch.optim.swa_utils.update_bn`, one pass over one batch, at each point.

    The model's own statistics, here infinite, do not matter.
    """
    nets, fresh = members(name, "batch"), split(40, seed=1)
    points = stack.points_of(nets)
    for module in nets[0].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(torch.inf)
    found = stack.logits_at(nets[0], points, split(), refresh=fresh)
    for net in nets[1:]:
        torch.optim.swa_utils.update_bn([fresh.images.double() / 255], net)
    expected = predict(nets[1:], split()).logits
    torch.testing.assert_close(found[1:], expected)
    assert found.isfinite().all()


def test_refreshed_logits_depend_on_the_images_they_are_refreshed_with():
    nets = members(norm="batch")
    point = stack.points_of(nets[:1])
    one, two = (
        stack.logits_at(nets[0], point, split(), split(40, seed=seed))
        for seed in (1, 2)
    )
    assert (one - two).abs().max() > 1e-3


def test_an_overflown_point_does_not_touch_the_next():
    """Running statistics with infinities must not be carried over by momentum."""
    nets = members(norm="batch", dtype=torch.float32)
    point = stack.points_of(nets[:1])
    far = torch.full_like(point, 1e30)
    found = stack.logits_at(nets[0], torch.cat([far, point]), split(), split())
    alone = stack.logits_at(nets[0], point, split(), split())
    assert not found[0].isfinite().all()
    assert torch.equal(found[1:], alone)


def test_refresh_changes_nothing_without_batch_norm():
    nets = members()
    points = stack.points_of(nets)
    with_refresh = stack.logits_at(nets[0], points, split(), split(5))
    assert torch.equal(with_refresh, stack.logits_at(nets[0], points, split()))


def test_dropout_is_off_and_the_model_is_left_alone():
    """Also while statistics are refreshed: else two calls would differ."""
    body = [nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.BatchNorm1d(8)]
    net = nn.Sequential(*body, nn.Linear(8, 3)).train()
    before = state(net)
    point = stack.points_of([net]) + 0.1
    first, second = (stack.logits_at(net, point, split(), split()) for _ in range(2))
    assert torch.equal(first, second)
    assert all(module.training for module in net.modules())
    assert net[3].momentum == 0.1
    assert_unchanged(net, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_have_the_precision_of_the_points_and_no_graph(dtype):
    net = members(dtype=torch.float32)[0]
    points = stack.points_of([net]).to(dtype).requires_grad_()
    found = stack.logits_at(net, points, split())
    assert found.dtype == dtype
    assert not found.requires_grad


@pytest.mark.parametrize("name", ["small_cnn", "resnet8"])
def test_a_refreshed_model_has_the_statistics_of_update_bn(name):
    """And the logits that `logits_at` finds at its weights; nothing else is new."""
    net, fresh = members(name, "batch", count=1)[0], split(40, seed=1)
    expected = copy.deepcopy(net)
    torch.optim.swa_utils.update_bn([fresh.images.double() / 255], expected)
    before = state(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(torch.inf)
    found = stack.refreshed(net.train(), fresh)
    theirs = expected.state_dict()
    for key, tensor in found.state_dict().items():
        torch.testing.assert_close(tensor, theirs[key])
    assert all(torch.equal(p, before[k]) for k, p in found.named_parameters())
    at = stack.logits_at(net, stack.points_of([net]), split(), refresh=fresh)
    torch.testing.assert_close(predict([found], split()).logits, at)
    assert not any(module.training for module in found.modules())
    assert all(module.training for module in net.modules())


def test_refreshing_leaves_the_model_and_its_own_momentum_alone():
    """A refreshed model can be trained on: its statistics still follow slowly."""
    net = members(norm="batch")[0].train()
    net.norm2.momentum, net.norm3.momentum = 0.3, None
    before = state(net)
    found = stack.refreshed(net, split())
    assert_unchanged(net, before)
    assert [getattr(found, f"norm{i}").momentum for i in (1, 2, 3)] == [0.1, 0.3, None]
    assert [getattr(net, f"norm{i}").momentum for i in (1, 2, 3)] == [0.1, 0.3, None]
    found.norm1.running_mean += 1
    assert_unchanged(net, before)


def test_a_model_without_batch_norm_is_only_copied():
    net = members()[0].train()
    found = stack.refreshed(net, split())
    assert_unchanged(found, state(net))
    found.head.weight.data.zero_()
    assert net.head.weight.abs().max() > 0
    assert not found.training


def test_a_model_that_cannot_be_refreshed_is_refused():
    body = [nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False)]
    net = nn.Sequential(*body, nn.Linear(64, 3))
    with pytest.raises(ValueError, match="track_running_stats=False, so that an image"):
        stack.refreshed(net, split())
    with pytest.raises(ValueError, match="split has no images; give at least one"):
        stack.refreshed(members(norm="batch")[0], split(0))


def test_no_members_have_no_points():
    with pytest.raises(ValueError, match="at least one member, got an empty list"):
        stack.points_of([])


def test_members_without_parameters_have_no_points():
    with pytest.raises(
        ValueError, match="a Flatten has no parameters, so there is no w"
    ):
        stack.points_of([nn.Flatten(), nn.Flatten()])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1)),
            "members 0 and 1 are of different architectures: where one has 0.bias, the "
            "other has 1.weight",
        ),
        (
            nn.Sequential(nn.Linear(2, 3)),
            "where one has 1.weight, the other has nothing",
        ),
        (
            nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)),
            r"0.weight differs between members 0 and 1: \(\(3, 2\), torch.float32, "
            r"'cpu'\) against \(\(4, 2\),",
        ),
        (
            nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).double(),
            "0.weight differs between members 0 and 1: .* against .*torch.float64",
        ),
        (
            nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).to("meta"),
            "0.weight differs between members 0 and 1: .*'cpu'.* against .*'meta'",
        ),
    ],
)
def test_members_that_cannot_be_compared_are_named(other, message):
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with pytest.raises(ValueError, match=message):
        stack.points_of([net, other])


@pytest.mark.parametrize(
    ("points", "got"),
    [
        (torch.zeros(2, 3), r"got \(2, 3\)"),
        (torch.zeros(0, 5), r"got \(0, 5\)"),
        (torch.zeros(5), r"got \(5,\); a single one is point\[None\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_points_that_do_not_fit_the_model_are_named(points, got):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=rf"points must be \(S, 5\), S >= 1 .*{got}"):
        stack.logits_at(net, points, split())


def test_a_point_of_another_model_is_named():
    with pytest.raises(ValueError, match=r"points must be \(S, 5\), .* got \(1, 4\)"):
        stack.model_at(nn.Linear(4, 1), torch.zeros(4))


def test_batch_norm_without_refresh_is_refused():
    nets = members(norm="batch")
    with pytest.raises(ValueError, match=r"has BatchNorm.*refresh=data\.subset\("):
        stack.logits_at(nets[0], stack.points_of(nets), split())


@pytest.mark.parametrize("refresh", [None, split()])
def test_batch_norm_without_running_statistics_is_refused(refresh):
    body = [nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False)]
    net = nn.Sequential(*body, nn.Linear(64, 3))
    with pytest.raises(ValueError, match="track_running_stats=False, so that an image"):
        stack.logits_at(net, stack.points_of([net]), split(), refresh)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_empty_batch_is_refused(batch_size):
    nets = members()
    message = f"batch_size must be at least 1, got {batch_size}; 128 is usual"
    with pytest.raises(ValueError, match=message):
        stack.logits_at(nets[0], stack.points_of(nets), split(), batch_size=batch_size)


@pytest.mark.parametrize("which", ["split", "refresh"])
def test_a_split_without_images_is_named(which):
    nets = members(norm="batch")
    splits = {"split": split(), "refresh": split()} | {which: split(0)}
    with pytest.raises(ValueError, match=f"{which} has no images; give at least one"):
        stack.logits_at(nets[0], stack.points_of(nets), **splits)
