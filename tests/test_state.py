"""Members that share their weights' memory train as if each were alone."""

import copy

import pytest
import torch
from torch.nn import functional as F

from sbtutor import models, state
from sbtutor.batches import Batch
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.epochs import train_step
from sbtutor.files import BrokenFileError

M, B, STEPS = 3, 8, 5
ABOUT = {"in_shape": [1, 8, 8], "classes": 10}
CONFIG = TrainConfig(lr=0.1, momentum=0.9, weight_decay=1e-2, rho=0.2, milestones=())
NETWORKS = [
    ("mlp", "batch"),
    ("lenet", "batch"),
    *[(name, norm) for name in ("small_cnn", "resnet8") for norm in ("batch", "group")],
]


def members_of(name="small_cnn", norm="batch"):
    model = ModelConfig(name=name, width=4, norm=norm)
    return [models.build(model, (1, 8, 8), 3, m).double().train() for m in range(M)]


def optimizer_of(params, fused=True):
    return torch.optim.SGD(params, 0.1, momentum=0.9, weight_decay=1e-2, fused=fused)


def shared(members):
    params, buffers = state.share_state(members)
    for param in params.values():
        param.grad = torch.empty_like(param)
    return state.State(members, params, buffers, optimizer_of(params.values()), {})


def batches():
    """Each member its own images, labels and sample numbers."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        index = torch.stack(
            [torch.randperm(20, generator=generator)[:B] for _ in range(M)]
        )
        shape = (M, B, 1, 8, 8)
        images = torch.rand(shape, generator=generator, dtype=torch.float64)
        yield Batch(index, images, torch.randint(3, (M, B), generator=generator))


def sgd_alone(member, optimizer, images, labels):
    optimizer.zero_grad()
    F.cross_entropy(member(images), labels).backward()
    optimizer.step()


def sam_alone(member, optimizer, images, labels):
    """Foret et al.'s two steps on one network with its own optimizer."""
    optimizer.zero_grad()
    F.cross_entropy(member(images), labels).backward()
    kept = {k: v.clone() for k, v in member.state_dict().items()}
    grads = [p.grad.clone() for p in member.parameters()]
    length = torch.cat([g.flatten() for g in grads]).norm()
    with torch.no_grad():
        for p, g in zip(member.parameters(), grads, strict=True):
            p += CONFIG.rho * g / length
    optimizer.zero_grad()
    F.cross_entropy(member(images), labels).backward()
    member.load_state_dict(kept)  # weights, and statistics of the first pass
    optimizer.step()


@pytest.mark.parametrize("alone", [sgd_alone, sam_alone])
@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_side_by_side_is_one_after_the_other(name, norm, alone):
    """Same trajectory with momentum and weight decay, statistics included."""
    members = members_of(name, norm)
    references = copy.deepcopy(members)
    optimizers = [optimizer_of(r.parameters(), fused=False) for r in references]
    together = shared(members)
    masks = torch.full((M, 20), alone is sam_alone)
    for batch in batches():
        losses = train_step(together, batch, masks, CONFIG, 0)
        for m, reference in enumerate(references):
            x, y = batch.images[m], batch.labels[m]
            loss = F.cross_entropy(copy.deepcopy(reference)(x), y)
            torch.testing.assert_close(losses[m], loss.detach(), rtol=1e-9, atol=0)
            alone(reference, optimizers[m], x, y)
    for member, reference in zip(members, references, strict=True):
        theirs = reference.state_dict()
        for key, value in member.state_dict().items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_sharing_changes_no_number(name, norm):
    members = members_of(name, norm)
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    before = [copy.deepcopy(m)(x) for m in members]
    state.share_state(members)
    for member, logits in zip(members, before, strict=True):
        torch.testing.assert_close(member(x), logits)


@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_members_are_slices_of_the_shared_tensors(name, norm):
    members = members_of(name, norm)
    params, buffers = state.share_state(members)
    for key, tensor in params.items():
        tensor.data[1] = 7.0
        assert (members[1].get_parameter(key) == 7).all()
        assert not (members[0].get_parameter(key) == 7).any()
    for key, tensor in buffers.items():
        members[2].get_buffer(key).fill_(3)
        assert (tensor[2] == 3).all()
        assert not (tensor[0] == 3).all()


def test_a_checkpoint_brings_back_weights_momentum_and_statistics(tmp_path):
    """Training on from it is bit for bit training on without it."""
    masks, steps = torch.ones(M, 20).bool(), list(batches())
    first, second = shared(members_of()), shared(members_of("small_cnn"))
    for batch in steps[:3]:
        train_step(first, batch, masks, CONFIG, 0)
    first.history.append({"epoch": 0, "member": 0, "lr": 0.1, "loss": 0.1 + 0.2})
    first.epoch, first.scores, first.sam_masks = 4, torch.rand(M, 20), masks
    first.save(tmp_path / "checkpoint.pt")
    train_step(second, steps[4], masks, CONFIG, 0)  # somewhere else
    second.restore(tmp_path / "checkpoint.pt")
    assert (second.epoch, second.history) == (4, first.history)
    assert torch.equal(second.scores, first.scores)
    assert torch.equal(second.sam_masks, masks)
    for each in (first, second):
        for batch in steps[3:]:
            train_step(each, batch, masks, CONFIG, 0)
    for a, b in zip(first.members, second.members, strict=True):
        ours, theirs = a.state_dict(), b.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_broken_checkpoint_changes_nothing(tmp_path):
    one = shared(members_of())
    one.save(tmp_path / "checkpoint.pt")
    content = bytearray((tmp_path / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "checkpoint.pt").write_bytes(bytes(content))
    before = {k: p.detach().clone() for k, p in one.params.items()}
    with pytest.raises(
        BrokenFileError, match=r"checkpoint\.pt was cut .*delete it and"
    ):
        one.restore(tmp_path / "checkpoint.pt")
    assert all(torch.equal(p, before[k]) for k, p in one.params.items())


def test_fresh_members_draw_from_seed_plus_m():
    model = ModelConfig(name="lenet")
    three = Experiment(model=model, train=TrainConfig(seed=4, device="cpu"))
    members = state.fresh(three, ABOUT).members
    for m, member in enumerate(members):
        alone = models.build(model, (1, 8, 8), 10, 4 + m)
        assert torch.equal(member.head.weight, alone.head.weight)
        assert torch.equal(member.conv1.weight, alone.conv1.weight)


def test_convolution_weights_have_their_channels_last():
    """Both the members' and their gradients', or each step would copy them."""
    experiment = Experiment(
        data=DataConfig(name="digits"),
        model=ModelConfig(name="resnet8"),
        train=TrainConfig(device="cpu"),
    )
    fresh = state.fresh(experiment, ABOUT)
    weight = fresh.members[1].stage1_block1.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for param in fresh.params.values():
        assert param.grad.stride() == param.stride()


@pytest.mark.parametrize("name", ["gpu", "cuda:77", "cpu:x"])
def test_a_device_that_is_not_there_is_named(name):
    message = f"device '{name}' cannot be used .*; write device='auto' or 'cpu'"
    with pytest.raises(ValueError, match=message):
        state.device_of(TrainConfig(device=name))


def test_auto_takes_a_gpu_if_there_is_one():
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    assert state.device_of(TrainConfig(device="auto")).type == kind
    assert state.device_of(TrainConfig(device="cpu")).type == "cpu"


def adam_by_hand(params, slopes, settings, decoupled):
    """Kingma and Ba 2015, and with decoupled decay Loshchilov and Hutter 2019.

    w <- w - lr decay w (decoupled) - lr m_hat / (sqrt(v_hat) + 1e-8)
    """
    lr, decay, beta = settings
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for t, each in enumerate(slopes, start=1):
        for i, p in enumerate(params):
            g = each[i] if decoupled else each[i] + decay * p
            first[i] = beta * first[i] + (1 - beta) * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            if decoupled:
                p -= lr * decay * p
            speed = (second[i] / (1 - 0.999**t)).sqrt() + 1e-8
            p -= lr * first[i] / (1 - beta**t) / speed
    return params


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_has_the_decay_in_its_gradient_and_adamw_apart_from_it(kind):
    """Five steps with known gradients, in float64, written out."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,)]
    params = [torch.randn(s, generator=generator).double() for s in shapes]
    slopes = [
        [torch.randn(s, generator=generator).double() for s in shapes] for _ in range(5)
    ]
    settings = (0.01, 0.5, 0.8)
    expected = adam_by_hand([p.clone() for p in params], slopes, settings, kind[4:])
    config = TrainConfig(optimizer=kind, lr=0.01, weight_decay=0.5, momentum=0.8)
    step = state.optimizer(config, params, torch.device("cpu"))
    for each in slopes:
        for p, slope in zip(params, each, strict=True):
            p.grad = slope
        step.step()
    for p, wanted in zip(params, expected, strict=True):
        torch.testing.assert_close(p, wanted)


def test_groups_keep_their_own_decay():
    """Without a gradient, AdamW only shrinks: by lr times the decay a step."""
    a, b = torch.ones(2), torch.ones(2)
    config = TrainConfig(optimizer="adamw", lr=0.1, weight_decay=0.5)
    groups = [{"params": [a]}, {"params": [b], "weight_decay": 0.0}]
    step = state.optimizer(config, groups, torch.device("cpu"))
    a.grad, b.grad = torch.zeros(2), torch.zeros(2)
    step.step()
    torch.testing.assert_close(a, torch.full((2,), 0.95))
    assert torch.equal(b, torch.ones(2))


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_is_pytorchs_with_the_momentum_as_its_first_beta(kind):
    """Both members, in one optimizer over common tensors, as if each were alone."""
    config = TrainConfig(
        members=2, optimizer=kind, lr=1e-2, momentum=0.8, weight_decay=1e-2, seed=4
    )
    model = ModelConfig(name="mlp", width=4)
    ours = state.fresh(Experiment(model=model, train=config), ABOUT)
    stock = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    assert type(ours.optimizer) is stock
    x = torch.rand(2, B, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(B).expand(2, B) % 10
    batch = Batch(torch.arange(B).expand(2, B), x, y)
    masks = torch.zeros(2, B, dtype=torch.bool)
    for step in range(STEPS):
        train_step(ours, batch, masks, config, step)
    for m, member in enumerate(ours.members):
        alone = models.build(model, (1, 8, 8), 10, 4 + m)
        adam = stock(alone.parameters(), 1e-2, betas=(0.8, 0.999), weight_decay=1e-2)
        for _ in range(STEPS):
            adam.zero_grad()
            F.cross_entropy(alone(x[m]), y[m]).backward()
            adam.step()
        for own, other in zip(member.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
