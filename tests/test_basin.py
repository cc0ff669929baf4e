"""Barriers on straight lines, and soups, against loops that are written out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sbtutor import basin, data, models, predict
from sbtutor.config import DataConfig, ModelConfig, TrainConfig
from sbtutor.cycles import train_cycle

NETWORKS = [("mlp", "batch"), ("small_cnn", "batch"), ("small_cnn", "group")]
networks = pytest.mark.parametrize(("name", "norm"), NETWORKS)


@pytest.fixture(scope="module")
def digits():
    return data.load(DataConfig(name="digits", limit=200))


@pytest.fixture(scope="module")
def trained(digits):
    """Two networks of each kind, trained from different first weights."""
    config = TrainConfig(epochs=20, batch_size=20, lr=0.1, milestones=(), device="cpu")
    return {
        (name, norm): [
            train_cycle(fresh(name, norm, seed), digits.train, config)[0]
            for seed in range(2)
        ]
        for name, norm in NETWORKS
    }


def fresh(name="small_cnn", norm="batch", seed=0, width=6):
    return models.build(
        ModelConfig(name=name, width=width, norm=norm), (1, 8, 8), 10, seed
    )


def random_split(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (samples, 1, 8, 8), generator=generator)
    labels = torch.randint(10, (samples,), generator=generator)
    return data.Split(images.to(torch.uint8), labels, tuple("0123456789"))


def state(model):
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def alike(a, b):
    """Bit for bit."""
    a, b = (x if isinstance(x, dict) else x.state_dict() for x in (a, b))
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())


def batch_norms(model):
    return {k: m for k, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


def with_statistics(model, images):
    """A copy; each BatchNorm has mean and unbiased variance of what enters it.

    Everything passes as one batch, which each BatchNorm scales by its own moments.
    """
    made, entered = copy.deepcopy(model).train(), {}
    for name, norm in batch_norms(made).items():
        norm.register_forward_pre_hook(
            lambda _, given, name=name: entered.__setitem__(name, given[0])
        )
    with torch.no_grad():
        made(images)
        for name, norm in batch_norms(made).items():
            pixels = entered[name].transpose(0, 1).flatten(1)  # a row a channel
            norm.running_mean.copy_(pixels.mean(1))
            norm.running_var.copy_(pixels.var(1, correction=1))
    return made.eval()


def line_by_hand(a, b, split, points, refresh):
    """Loss and accuracy of (1 - t) a + t b, one network after the other."""
    losses, accuracies = [], []
    images, fresh_images = (
        data.to_float(s.images).to(next(a.parameters())) for s in (split, refresh)
    )
    for i in range(points):
        t, between = i / (points - 1), copy.deepcopy(a)
        with torch.no_grad():
            for own, p, q in zip(between.parameters(), a.parameters(), b.parameters()):
                own.copy_((1 - t) * p + t * q)
        logits = with_statistics(between, fresh_images)(images).detach()
        losses.append(F.cross_entropy(logits, split.labels))
        accuracies.append((logits.argmax(1) == split.labels).float().mean())
    return torch.stack(losses), torch.stack(accuracies)


@networks
@pytest.mark.parametrize("points", [3, 8])
def test_line_and_barrier_are_those_of_a_plain_loop(
    trained, digits, name, norm, points
):
    """In float64, with the statistics of other images than those of the loss."""
    a, b = (copy.deepcopy(m).double() for m in trained[name, norm])
    refresh = random_split(40)
    for fresh_images in (refresh, None):
        losses, accuracies = line_by_hand(
            a, b, digits.val, points, fresh_images or digits.val
        )
        found = basin.straight_line(a, b, digits.val, points, fresh_images)
        torch.testing.assert_close(found.loss, losses)
        torch.testing.assert_close(found.accuracy.float(), accuracies)
        t = torch.arange(points) / (points - 1)
        rise = (losses - (1 - t) * losses[0] - t * losses[-1]).max()
        barrier = basin.barrier(a, b, digits.val, points, fresh_images)
        torch.testing.assert_close(barrier, rise, rtol=1e-6, atol=1e-8)
        assert rise > 0.1  # or the comparison would say little


@networks
@pytest.mark.parametrize("points", range(3, 22))
def test_two_copies_have_no_barrier_at_all(trained, name, norm, points):
    """Exactly 0, also where vectors of images end unevenly."""
    a = trained[name, norm][0]
    for samples in (1, 7, 29):
        found = basin.barrier(a, copy.deepcopy(a), random_split(samples), points)
        assert found == 0


def permuted(model):
    """The same function: hidden units, or channels, in another order."""
    made, order = copy.deepcopy(model), torch.tensor([3, 5, 0, 1, 2, 4])
    if hasattr(made, "hidden1"):
        first, second = made.hidden1, made.hidden2
        moved = [first.weight, first.bias]
    else:
        first, second = made.conv1, made.conv2
        moved = [first.weight, *made.norm1.parameters(), *made.norm1.buffers()]
    with torch.no_grad():
        for tensor in moved:
            if tensor.dim() > 0:  # num_batches_tracked is one number
                tensor.copy_(tensor[order])
        second.weight.copy_(second.weight[:, order])
    return made


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_the_same_function_with_units_in_another_order_lies_behind_a_barrier(
    trained, digits, name
):
    """Entezari et al. 2022: the line between permuted weights is no permutation."""
    a = trained[name, "batch"][0]
    b = permuted(a)
    logits = predict.predict([a, b], digits.train).logits
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    loss = basin.straight_line(a, b, digits.train).loss
    torch.testing.assert_close(loss[0], loss[-1], rtol=1e-4, atol=1e-5)
    assert basin.barrier(a, b, digits.train) > 0.1


@networks
def test_a_barrier_is_the_same_from_both_ends(trained, digits, name, norm):
    a, b = trained[name, norm]
    there, back = (basin.barrier(*pair, digits.train) for pair in ((a, b), (b, a)))
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-5)
    assert there > 0


def test_the_statistics_of_both_ends_do_not_matter(trained, digits):
    """They are estimated anew, as between the ends."""
    a, b = trained["small_cnn", "batch"]
    wrong = copy.deepcopy([a, b])
    for seed, model in enumerate(wrong):
        for norm in batch_norms(model).values():
            norm.running_mean.fill_(3 + seed)
            norm.running_var.fill_(torch.inf)
    found = [basin.straight_line(*pair, digits.val) for pair in ((a, b), wrong)]
    assert torch.equal(found[0].loss, found[1].loss)


@pytest.mark.parametrize("call", ["straight_line", "barrier", "soup", "greedy_soup"])
def test_networks_modes_and_global_randomness_are_left_alone(trained, digits, call):
    a, b = (copy.deepcopy(m) for m in trained["small_cnn", "batch"])
    b.train().norm2.eval()
    before = [state(m) for m in (a, b)]
    modes = [[m.training for m in net.modules()] for net in (a, b)]
    random = torch.random.get_rng_state()
    if call in ("soup", "greedy_soup"):
        getattr(basin, call)([a, b], digits.val)
    else:
        getattr(basin, call)(a, b, digits.val)
    assert alike(a, before[0])
    assert alike(b, before[1])
    assert modes == [[m.training for m in net.modules()] for net in (a, b)]
    assert all(norm.momentum == 0.1 for norm in batch_norms(a).values())
    assert torch.equal(torch.random.get_rng_state(), random)


def whole_numbers(model, seed, dtype=torch.float32):
    """Weights and statistics whose sums are exact."""
    made, generator = (
        copy.deepcopy(model).to(dtype),
        torch.Generator().manual_seed(seed),
    )
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.dim() == 1 or tensor.requires_grad:
                drawn = torch.randint(1, 1000, tensor.shape, generator=generator)
                tensor.copy_(drawn)
    return made


@networks
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_soup_is_the_mean_of_its_members_exactly(name, norm, dtype, count):
    """Statistics too, without a split. Scaling and counters are the members' own."""
    members = [whole_numbers(fresh(name, norm), m, dtype) for m in range(count)]
    found = basin.soup(members)
    states = [m.state_dict() for m in members]
    for key, tensor in found.state_dict().items():
        if key.startswith("normalize") or "tracked" in key:
            assert torch.equal(tensor, states[0][key])
        else:
            assert torch.equal(tensor, sum(s[key] for s in states) / count)
            assert tensor.dtype == dtype
    assert not any(m.training for m in found.modules())


def test_soups_are_those_of_the_first_members():
    members = [whole_numbers(fresh(), m) for m in range(4)]
    found = basin.soups(members)
    assert len(found) == 4
    for size, each in enumerate(found, start=1):
        assert alike(each, basin.soup(members[:size]))
        mean = sum(m.head.weight for m in members[:size]) / size
        assert torch.equal(each.head.weight, mean)
    assert alike(found[0], members[0])
    refreshed = basin.soups(members, random_split(20))
    assert alike(refreshed[2], basin.soup(members[:3], random_split(20)))


def test_a_soup_does_not_depend_on_the_members_order_and_shares_no_memory(digits):
    members = [fresh(seed=m).double() for m in range(3)]
    before = [state(m) for m in members]
    found, turned = basin.soup(members), basin.soup(members[::-1])
    for a, b in zip(found.parameters(), turned.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for tensor in found.state_dict().values():
        tensor.zero_()
    assert all(alike(m, kept) for m, kept in zip(members, before, strict=True))


@pytest.mark.parametrize("name", ["small_cnn", "resnet8"])
def test_a_soups_statistics_are_those_of_what_enters_each_batch_norm(name):
    """Batch mean and unbiased variance, by hooks, at the mean weights."""
    members = [fresh(name, seed=m).double() for m in range(3)]
    split = random_split(40)
    images = data.to_float(split.images).double()
    found = basin.soup(members, split)
    expected = with_statistics(basin.soup(members), images)
    for key, norm in batch_norms(found).items():
        theirs = expected.get_submodule(key)
        torch.testing.assert_close(norm.running_mean, theirs.running_mean)
        torch.testing.assert_close(norm.running_var, theirs.running_var)
        mean = sum(m.get_submodule(key).running_mean for m in members) / 3
        assert not torch.allclose(norm.running_mean, mean, atol=1e-3)
    torch.testing.assert_close(found(images), expected(images))
    assert not any(m.training for m in found.modules())


def test_a_soup_can_be_trained_on_as_any_network(digits):
    """BatchNorm's momentum stays what it was, whatever re-estimation needed."""
    found = basin.soup([fresh(seed=m) for m in range(2)], digits.val)
    assert {norm.momentum for norm in batch_norms(found).values()} == {0.1}


def test_without_batch_norm_a_split_has_no_effect():
    members = [fresh(norm="group", seed=m) for m in range(2)]
    assert alike(basin.soup(members), basin.soup(members, random_split(5)))


class Odd(nn.Module):
    """A layer under two names, and a buffer of whole numbers."""

    def __init__(self, steps=4, seed=0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Linear(2, 2)
        nn.init.normal_(self.first.weight, generator=generator)
        self.again = self.first
        self.norm = self.norm_again = nn.BatchNorm1d(2)
        self.norm.running_mean.fill_(seed)
        self.register_buffer("steps", torch.tensor([steps, 1]))


def test_layers_under_two_names_and_whole_numbers_come_into_a_soup():
    members = [Odd(seed=s) for s in range(2)]
    found = basin.soup(members)
    mean = (members[0].first.weight + members[1].first.weight) / 2
    assert torch.equal(found.first.weight, mean)
    assert found.again is found.first
    assert found.norm_again.running_mean.tolist() == [0.5, 0.5]
    assert found.steps.tolist() == [4, 1]


def shifted():
    made = fresh(seed=1)
    made.normalize.mean += 0.1
    return made


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [fresh(), fresh(width=4)],
            r"of one architecture: conv1.weight is \(6, 1, 3, 3\) in member 0, \(4, 1,",
        ),
        (
            [fresh(), fresh(seed=1), fresh(norm="group")],
            r"architecture: norm1.num_batches_tracked is \(\) in member 0, missing in "
            "member 2",
        ),
        ([fresh(norm="group"), fresh()], "is missing in member 0, .* in member 1"),
        (
            [fresh(), shifted()],
            "normalize.mean differs between members 0 and 1, .*from one checkpoint, or",
        ),
        ([Odd(), Odd(), Odd(5)], "steps differs between members 0 and 2"),
    ],
    ids=["width", "fewer tensors", "more tensors", "scaling", "whole numbers"],
)
def test_members_that_have_no_mean_are_refused(digits, members, message):
    with pytest.raises(ValueError, match=message):
        basin.soup(members)
    if isinstance(members[0], nn.Sequential):
        ends = members[0], members[-1]
        message = message.replace("member 2", "member 1")
        for measure in (basin.straight_line, basin.barrier):
            with pytest.raises(ValueError, match=message):
                measure(*ends, digits.val)
        with pytest.raises(ValueError, match=r"between members|of one architecture"):
            basin.greedy_soup(members, digits.val)


def test_a_soup_of_nothing_and_statistics_of_nothing_are_refused(digits):
    with pytest.raises(ValueError, match="a soup needs at least one member, got an em"):
        basin.soup([])
    with pytest.raises(ValueError, match="a soup needs at least one member, got an em"):
        basin.greedy_soup([], digits.val)
    with pytest.raises(ValueError, match="split has no images; give at least one"):
        basin.soup([fresh()], random_split(0))
    for measure in (basin.straight_line, basin.barrier):
        with pytest.raises(ValueError, match="split has no images; give at least one"):
            measure(fresh(), fresh(), random_split(0))
    with pytest.raises(ValueError, match="probs are empty"):
        basin.greedy_soup([fresh()], random_split(0))


@pytest.mark.parametrize("points", [2, 1, 0, -1])
def test_too_few_points_are_refused_before_anything_is_computed(monkeypatch, points):
    monkeypatch.delattr(basin.landscape, "survey")
    message = f"between the ends, so points must be >= 3, got {points}; 11 are usual"
    with pytest.raises(ValueError, match=message):
        basin.barrier(fresh(), fresh(), random_split(3), points)
    if points < 2:
        message = f"a line has two ends, so points must be >= 2, got {points}"
        with pytest.raises(ValueError, match=message):
            basin.straight_line(fresh(), fresh(), random_split(3), points)


def test_networks_of_two_precisions_are_refused():
    with pytest.raises(
        ValueError, match=r"weight differs between members 0 and 1.*floa"
    ):
        basin.barrier(fresh(), fresh().double(), random_split(3))


def test_a_network_that_has_diverged_has_no_barrier():
    bad = fresh(norm="group")
    nn.init.constant_(bad.head.weight, torch.nan)
    with pytest.raises(ValueError, match=r"losses must be finite.*has diverged"):
        basin.barrier(fresh(norm="group"), bad, random_split(3))


def greedy_by_hand(members, val, split):
    """Wortsman et al.'s recipe 1, with soups and accuracies of its own."""

    def accuracy(model):
        images = data.to_float(val.images)
        return float((model(images).argmax(1) == val.labels).double().mean())

    def mean_of(chosen):
        made = copy.deepcopy(members[0])
        with torch.no_grad():
            for key, own in made.named_parameters():
                own.copy_(sum(members[i].get_parameter(key) for i in chosen))
                own /= len(chosen)
        return with_statistics(made, data.to_float(split.images))

    single = [accuracy(m) for m in members]
    ranks = sorted(range(len(members)), key=lambda m: (-single[m], m))
    chosen = [ranks[0]]
    for m in ranks[1:]:
        if accuracy(mean_of([*chosen, m])) >= accuracy(mean_of(chosen)):
            chosen.append(m)
    return chosen


def around(center, factor=1.0):
    """Six networks around one, some near and some far: some soups fail."""
    made = []
    for m, spread in enumerate((0.3, 0.05, 0.8, 0.2, 0.1, 0.6)):
        net = copy.deepcopy(center)
        generator = torch.Generator().manual_seed(m)
        with torch.no_grad():
            for p in net.parameters():
                noise = torch.randn(p.shape, generator=generator)
                p += factor * spread * p.std() * noise
        made.append(net)
    return made


def test_a_greedy_soup_is_wortsmans(trained, digits):
    """For several orders of the members, of which some are left out."""
    sizes, wandering = set(), around(trained["small_cnn", "batch"][0])
    for shift in range(6):
        members = wandering[shift:] + wandering[:shift]
        for count in (2, 4, 6):
            found, chosen = basin.greedy_soup(members[:count], digits.val, digits.train)
            assert chosen == greedy_by_hand(members[:count], digits.val, digits.train)
            expected = basin.soup([members[i] for i in chosen], digits.train)
            assert alike(found, expected)
            sizes.add((count, len(chosen)))
    assert any(1 < size < count for count, size in sizes)


def test_a_greedy_soup_is_no_worse_than_the_best_member(trained, digits):
    """On the images it was chosen with."""
    members = around(trained["small_cnn", "group"][0], 0.5)
    found, chosen = basin.greedy_soup(members, digits.val, digits.train)
    assert 1 < len(chosen) < 6
    logits = predict.predict([found, *members], digits.val).logits
    accuracies = (logits.argmax(-1) == digits.val.labels).double().mean(1)
    assert accuracies[0] >= accuracies[1:].max() == accuracies[1 + chosen[0]]


def test_equal_members_all_come_into_a_greedy_soup_in_their_order(digits):
    """A tie is no fall."""
    one = fresh(norm="group")
    found, chosen = basin.greedy_soup(
        [copy.deepcopy(one) for _ in range(4)], digits.val
    )
    assert chosen == [0, 1, 2, 3]
    assert alike(found, one)


def test_a_member_that_has_diverged_is_named_by_the_greedy_soup(digits):
    bad = fresh()
    nn.init.constant_(bad.head.bias, torch.nan)
    with pytest.raises(ValueError, match="member 1 gives NaN or infinity: it has div"):
        basin.greedy_soup([fresh(), bad], digits.val)
