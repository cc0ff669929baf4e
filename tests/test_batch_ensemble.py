"""A batch ensemble is M ordinary networks, and costs little more than one."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from sbtutor import batch_ensemble, models, predict
from sbtutor.batch_ensemble import convert, members_of
from sbtutor.config import ModelConfig
from sbtutor.data import Split
from sbtutor.rank_one import BatchLayer, HyperLayer
from sbtutor.space import Space

M, B, CLASSES = 3, 4, 5
IMAGE = (2, 16, 16)
NETWORKS = {
    "mlp": ModelConfig(name="mlp", width=6),
    "mlp, dropout": ModelConfig(name="mlp", width=6, dropout=0.3),
    "lenet": ModelConfig(name="lenet", width=3, dropout=0.3),
    "small_cnn, batch": ModelConfig(name="small_cnn", width=4),
    "small_cnn, group": ModelConfig(name="small_cnn", width=8, norm="group"),
    "small_cnn, none": ModelConfig(name="small_cnn", width=2, norm="none"),
    "resnet8": ModelConfig(name="resnet8", width=4),
    "resnet20": ModelConfig(name="resnet20", width=2),
    "wrn28_10": ModelConfig(name="wrn28_10", width=2),
}
KINDS = {"batch": {}, "hyper": {"hyper": True}, "tied": {"hyper": True, "tied": True}}
every_network = pytest.mark.parametrize("name", NETWORKS)
every_kind = pytest.mark.parametrize("kind", KINDS)
hyper_kinds = pytest.mark.parametrize("kind", ["hyper", "tied"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def built(name):
    return models.build(NETWORKS[name], IMAGE, CLASSES, 0).double()


@torch.no_grad()
def scatter(ensemble, seed=0):
    """Responses, biases, norms and ranges such that everything counts."""
    generator = seeded(seed)

    def noise(tensor):
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    for name, param in ensemble.network.named_parameters():
        if name.endswith("embed"):
            param.copy_(0.3 * noise(param))
        elif not name.endswith("weight") or param.dim() == 1:
            param.add_(0.3 * noise(param))
    for name, buffer in ensemble.network.named_buffers():
        if "running" in name:
            buffer.add_(0.2 * noise(buffer).abs())
    if ensemble.hyper:
        cut = torch.rand(2, *ensemble.low.shape, generator=generator)
        width = (ensemble.most - ensemble.least) / 3
        ensemble.low.add_(cut[0] * width)
        ensemble.high.sub_(cut[1] * width)
    return ensemble


def made(name, kind, **options):
    return scatter(convert(built(name), M, **KINDS[kind], **options)).eval()


def drawn(ensemble, images=B, seed=2):
    """Some log lambda for each example."""
    shape = (ensemble.members, images, len(ensemble.names))
    return ensemble.sample(uniform(*shape, seed=seed)).detach()


class Custom(nn.Module):
    """Not a Sequential: layers in a list, a dictionary, a block that is used twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(IMAGE[0], 4, 3, stride=2)
        self.twice = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.again = self.twice
        self.some = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, CLASSES)])
        self.other = nn.ModuleDict({"skip": nn.Linear(4, CLASSES, bias=False)})
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        x = self.again(self.twice(self.stem(x))).flatten(2).transpose(1, 2)
        tokens = self.some[1](torch.tanh(self.some[0](self.drop(x))))
        return tokens.mean(1) + self.other["skip"](x.mean(1))


@torch.no_grad()
def unit_factors(ensemble):
    """r = s = 1 and D = d = 0: nothing is left but the shared network."""
    for name, param in ensemble.network.named_parameters():
        if name.endswith((".r", ".s")):
            param.fill_(1)
        elif name.endswith(("response.weight", "bias_delta")):
            param.zero_()
    return ensemble


@every_kind
@every_network
def test_members_are_ordinary_networks_with_the_ensembles_outputs(name, kind):
    """Member k on some images is slice k of the ensemble; hyper at mean lambda."""
    ensemble, images = made(name, kind), uniform(B, *IMAGE)
    logits = ensemble(ensemble.tile(images)).unflatten(0, (M, B))
    members = members_of(ensemble)
    names = [key for key, _ in built(name).named_parameters()]
    for member, expected in zip(members, logits, strict=True):
        torch.testing.assert_close(member(images), expected)
        assert [key for key, _ in member.named_parameters()] == names
        assert not any(module.training for module in member.modules())
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@every_kind
def test_predict_takes_members_and_gives_the_ensembles_slices(kind):
    ensemble = made("small_cnn, batch", kind).float()
    pixels = torch.randint(0, 256, (20, *IMAGE), generator=seeded(), dtype=torch.uint8)
    split = Split(pixels, torch.zeros(20, dtype=torch.long), tuple("abcde"))
    found = predict.predict(members_of(ensemble), split).logits
    with torch.no_grad():
        expected = ensemble(ensemble.tile(pixels.float() / 255))
    torch.testing.assert_close(found, expected.unflatten(0, (M, 20)))


@every_kind
def test_members_are_copies(kind):
    """To train one of them changes neither the ensemble nor the other members."""
    ensemble = made("small_cnn, batch", kind)
    before = copy.deepcopy(ensemble.state_dict())
    first, second = members_of(ensemble)[:2]
    kept = copy.deepcopy(second.state_dict())
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.zero_()
    for state, old in ((ensemble.state_dict(), before), (second.state_dict(), kept)):
        assert all(torch.equal(state[key], old[key]) for key in old)


@hyper_kinds
def test_without_hyperparameters_each_member_is_at_its_mean(kind):
    """log E lambda, E lambda = (b - a) / (log b - log a)."""
    ensemble, images = made("mlp, dropout", kind), uniform(B, *IMAGE)
    a, b = ensemble.low.exp(), ensemble.high.exp()
    mean = ((b - a) / (b.log() - a.log())).log()
    torch.testing.assert_close(ensemble.mean(), mean)
    expected = ensemble(ensemble.tile(images), mean.repeat_interleave(B, 0))
    torch.testing.assert_close(ensemble(ensemble.tile(images)), expected)
    rates = [[m.dropout_hidden2.p, m.dropout_head.p] for m in members_of(ensemble)]
    expected = mean[:, ensemble.names.index("dropout")].exp()[:, None].expand(-1, 2)
    torch.testing.assert_close(torch.tensor(rates, dtype=mean.dtype), expected)


def test_a_batch_ensembles_members_keep_the_networks_dropout():
    member = made("mlp, dropout", "batch").member(1)
    assert [member.dropout_hidden2.p, member.dropout_head.p] == [0.3, 0.3]


@hyper_kinds
@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet8"])
def test_each_example_has_its_own_network(name, kind):
    """Ranges of no width around lambda_ki make member k that example's network."""
    ensemble, images = made(name, kind), uniform(M * B, *IMAGE)
    log_lambda = drawn(ensemble)
    logits = ensemble(images, log_lambda)
    for n, (k, _) in enumerate(itertools.product(range(M), range(B))):
        member = at(ensemble, log_lambda[n], k)
        torch.testing.assert_close(member(images[n : n + 1])[0], logits[n])


def at(ensemble, log_lambda, k):
    """Member k as an ordinary network at some hyperparameters."""
    ensemble = copy.deepcopy(ensemble)
    with torch.no_grad():
        ensemble.low.copy_(log_lambda)
        ensemble.high.copy_(log_lambda)
    return ensemble.member(k)


def l2_of(model):
    """Squared norm of each hyperparameter's layers, by its name, from scratch."""
    found = {}
    for name, param in model.named_parameters():
        is_norm = "norm" in name or "shortcut.1" in name
        if not is_norm:
            group = name.split(".")[0].split("_")[0]  # stage2_block1.conv1: stage2
            found[f"l2_{group}"] = found.get(f"l2_{group}", 0) + param.square().sum()
    return found


@every_kind
@pytest.mark.parametrize("name", ["mlp", "lenet", "small_cnn, batch", "resnet20"])
def test_the_penalty_is_that_of_each_examples_own_network(name, kind):
    """1/(M B) sum_ki sum_g lambda_kig ||W_g||^2, of all blocks of a stage together."""
    ensemble, images = made(name, kind), 2
    log_lambda = uniform(M * images, len(ensemble.names), seed=3) * 2 - 1
    if ensemble.hyper:
        log_lambda = drawn(ensemble, images)
    expected = 0
    for n, (k, _) in enumerate(itertools.product(range(M), range(images))):
        hyper = ensemble.hyper
        member = at(ensemble, log_lambda[n], k) if hyper else ensemble.member(k)
        squares = l2_of(member)
        assert set(squares) == set(ensemble.names) - {"dropout", "label_smoothing"}
        for i, group in enumerate(ensemble.names):
            expected = expected + log_lambda[n, i].exp() * squares.get(group, 0)
    expected = expected / (M * images)
    torch.testing.assert_close(ensemble.penalty(log_lambda), expected)


def test_a_batch_ensembles_penalty_needs_a_row_a_member():
    ensemble = made("mlp", "batch")
    rows = uniform(M, len(ensemble.names))
    repeated = rows.repeat_interleave(B, 0)
    torch.testing.assert_close(ensemble.penalty(rows), ensemble.penalty(repeated))


@hyper_kinds
def test_slopes_of_outputs_and_penalty_along_the_hyperparameters(kind):
    """By finite differences, in a network of several layers."""
    ensemble, images = made("mlp", kind), uniform(M * B, *IMAGE)
    log_lambda = drawn(ensemble).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: ensemble(images, rows), log_lambda)
    assert torch.autograd.gradcheck(ensemble.penalty, log_lambda)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("members", [1, 3])
@every_kind
@pytest.mark.parametrize(
    "name", ["mlp", "lenet", "small_cnn, batch", "small_cnn, group", "resnet8"]
)
def test_with_unit_factors_all_members_are_the_network(name, kind, members, training):
    """Norm layers see the whole, tiled batch, in train mode too."""
    plain = built(name)
    for layer in plain.modules():  # its draws would differ
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    ensemble = unit_factors(convert(plain, members, **KINDS[kind]))
    for layer in ensemble.modules():
        if isinstance(layer, batch_ensemble.HyperDropout):
            layer.forward = lambda x: x
    images = ensemble.tile(uniform(B, *IMAGE))
    plain.train(training), ensemble.train(training)
    torch.testing.assert_close(ensemble(images), plain(images))
    for key, buffer in plain.named_buffers():
        torch.testing.assert_close(ensemble.network.get_buffer(key), buffer)


@every_kind
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_order_of_members_is_the_order_of_the_batch(kind, mode):
    """Permuted members and examples give permuted outputs, first all of member 0."""
    ensemble, order = made("small_cnn, batch", kind), [2, 0, 1]
    images = uniform(M * B, *IMAGE)
    given = [drawn(ensemble)] if ensemble.hyper else []
    getattr(ensemble, mode)()
    moved = copy.deepcopy(ensemble)
    with torch.no_grad():
        for key, param in moved.named_parameters():
            if key.endswith((".r", ".s", "bias", "bias_delta", "low", "high")) and (
                param.dim() == 2
            ):
                param.copy_(param[order])

    def permute(x):
        return x.unflatten(0, (M, B))[order].flatten(0, 1)

    found = moved(permute(images), *map(permute, given))
    torch.testing.assert_close(found, permute(ensemble(images, *given)))


def test_tile_shows_every_image_to_every_member():
    ensemble, images = made("mlp", "batch"), uniform(B, *IMAGE)
    tiled = ensemble.tile(images).unflatten(0, (M, B))
    assert all(torch.equal(own, images) for own in tiled)
    labels = torch.arange(B)
    assert torch.equal(ensemble.tile(labels), torch.cat([labels] * M))


@every_kind
def test_networks_of_any_structure_can_be_converted(kind):
    """Lists, dictionaries, linear layers on tokens; a block in two places stays one."""
    plain = Custom().double()
    ensemble = scatter(convert(plain, M, **KINDS[kind])).eval()
    assert ensemble.network.again is ensemble.network.twice
    left = [m for m in ensemble.network.modules() if type(m) in (nn.Linear, nn.Conv2d)]
    assert all(layer.weight is None for layer in left)  # they know stride and padding
    images = uniform(B, *IMAGE)
    logits = ensemble(ensemble.tile(images)).unflatten(0, (M, B))
    rows = ensemble.mean() if ensemble.hyper else uniform(M, len(ensemble.names))
    penalty = 0
    for k, member in enumerate(members_of(ensemble)):
        torch.testing.assert_close(member(images), logits[k])
        assert member.again is member.twice
        strength = dict(zip(ensemble.names, rows[k].exp()))
        penalty += sum(strength[g] * square for g, square in l2_of(member).items()) / M
    torch.testing.assert_close(ensemble.penalty(rows), penalty)
    plain.eval()
    unit = unit_factors(convert(plain, M, **KINDS[kind]))
    torch.testing.assert_close(unit(ensemble.tile(images)), plain(images).repeat(M, 1))


def test_one_dropout_layer_in_two_places_is_replaced_in_both():
    drop = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(3, 4), drop, nn.Linear(4, 4), drop, nn.Linear(4, 2))
    network = convert(model, 2, hyper=True).network
    assert network[1] is network[3]
    assert isinstance(network[1], batch_ensemble.HyperDropout)


@every_kind
@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv2d(3, 2, 1)])
def test_a_single_layer_is_a_network(layer, kind):
    layer = layer.double()
    ensemble = unit_factors(convert(layer, M, **KINDS[kind]))
    x = uniform(M * B, 3, *[1] * (layer.weight.dim() - 2))
    if x.dim() == 2:
        torch.testing.assert_close(ensemble(x), layer(x))
    member = ensemble.member(0)
    torch.testing.assert_close(member[0].weight, layer.weight)


@every_kind
@pytest.mark.parametrize("training", [True, False])
def test_converting_leaves_the_network_alone_and_keeps_its_mode(kind, training):
    model = built("lenet").train(training)
    before = copy.deepcopy(model)
    ensemble = convert(model, M, **KINDS[kind])
    assert {module.training for module in ensemble.modules()} == {training}
    with torch.no_grad():
        for param in ensemble.parameters():
            param.zero_()
    assert [type(a) for a in model.modules()] == [type(b) for b in before.modules()]
    for a, b in zip(model.state_dict().values(), before.state_dict().values()):
        assert torch.equal(a, b)
    assert all(module.training == training for module in model.modules())


@every_kind
def test_the_seed_decides_the_factors(kind):
    a, b, c = (
        convert(built("lenet"), M, seed=seed, **KINDS[kind]).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(a[key], b[key]) for key in a)
    ours = [key for key in a if key.endswith((".r", ".s", "embed", "response.weight"))]
    assert len(ours) >= 10
    assert not any(torch.equal(a[key], c[key]) for key in ours)


@pytest.mark.parametrize(("kind", "std"), [("batch", 0.5), ("hyper", 0.75)])
def test_factors_start_as_widely_as_in_the_published_code(kind, std):
    """Mean 1 and the deviation within 4 standard errors."""
    network = convert(built("lenet"), 20, **KINDS[kind]).network
    layers = [m for m in network.modules() if isinstance(m, BatchLayer)]
    factors = [f.flatten() for m in layers for f in (m.own.r, m.own.s)]
    factors = torch.cat(factors).detach()
    assert abs(factors.mean() - 1) < 4 * std / math.sqrt(len(factors))
    assert abs(factors.std() - std) < 4 * std / math.sqrt(2 * len(factors))


@hyper_kinds
def test_layers_see_log_lambda_from_0_at_the_least_to_1_at_the_most(kind):
    ensemble, seen = made("lenet", kind), []
    for name in ("conv1", "head"):
        layer = ensemble.network.get_submodule(name)
        layer.register_forward_hook(lambda own, *_: seen.append(own.given.unit))
    share = uniform(M * B, len(ensemble.names))
    rows = ensemble.least + share * (ensemble.most - ensemble.least)
    ensemble(uniform(M * B, *IMAGE), rows)
    assert len(seen) == 2
    for unit in seen:
        torch.testing.assert_close(unit, share)


def test_ranges_stretch_over_the_space_at_first():
    space = Space(l2=(1e-2, 1e2), dropout=(1e-3, 0.5), label_smoothing=(1e-4, 0.1))
    ensemble = convert(built("mlp, dropout"), M, hyper=True, space=space)
    names = ("l2_hidden1", "l2_hidden2", "l2_head", "dropout", "label_smoothing")
    assert ensemble.names == names
    least = torch.tensor([1e-2] * 3 + [1e-3, 1e-4]).log().double()
    most = torch.tensor([1e2] * 3 + [0.5, 0.1]).log().double()
    for low, high in zip(ensemble.low, ensemble.high):
        torch.testing.assert_close(low, least, rtol=1e-6, atol=0)
        torch.testing.assert_close(high, most, rtol=1e-6, atol=0)


@hyper_kinds
def test_at_the_least_permitted_values_it_is_a_batch_ensemble(kind):
    """There e = 0, whatever D is."""
    ensemble, batch = made("lenet", kind), made("lenet", "batch")
    for path, layer in batch.network.named_modules():
        if isinstance(layer, BatchLayer):
            hyper = ensemble.network.get_submodule(path)
            layer.load_state_dict(hyper.state_dict(), strict=False)
    images = uniform(M * B, *IMAGE)
    found = ensemble(images, ensemble.least.expand(M * B, -1))
    torch.testing.assert_close(found, batch(images))
    assert (ensemble(images) - found).abs().max() > 1e-3


@hyper_kinds
def test_samples_run_through_the_ranges_member_by_member(kind):
    """log a + u (log b - log a), with slopes 1 - u and u along the bounds."""
    ensemble = made("mlp", kind)
    u = uniform(M, B, len(ensemble.names))
    found = ensemble.sample(u)
    for k, i in itertools.product(range(M), range(B)):
        low, high = ensemble.low[k], ensemble.high[k]
        torch.testing.assert_close(found[k * B + i], low + u[k, i] * (high - low))
    slopes = torch.autograd.grad(found.sum(), (ensemble.low, ensemble.high))
    torch.testing.assert_close(slopes[0], (1 - u).sum(1))
    torch.testing.assert_close(slopes[1], u.sum(1))


def test_projection_brings_the_bounds_back_into_range_and_order():
    ensemble = made("mlp", "hyper")
    low, high = ensemble.low, ensemble.high
    kept = low[2].clone(), high[2].clone()
    with torch.no_grad():
        low[0] -= 100
        high[0] += 100
        low[1], high[1] = high[1].clone(), low[1].clone()
    ensemble.project()
    assert torch.equal(low[0], ensemble.least)
    assert torch.equal(high[0], ensemble.most)
    assert (low < high).all()
    assert (high[1] - low[1]).max() < 1e-4
    assert torch.equal(low[2], kept[0])
    assert torch.equal(high[2], kept[1])
    assert low.requires_grad
    assert ensemble.mean().isfinite().all()


@every_kind
def test_copies_are_independent_and_whole(kind):
    """A copy answers to its own hyperparameters, not to the original's."""
    ensemble, images = made("mlp, dropout", kind), uniform(M * B, *IMAGE)
    given = [drawn(ensemble)] if ensemble.hyper else []
    twin = copy.deepcopy(ensemble)
    torch.testing.assert_close(twin(images, *given), ensemble(images, *given))
    expected = ensemble(images, *given)
    with torch.no_grad():
        for param in twin.parameters():
            param.zero_()
    twin(images)
    torch.testing.assert_close(ensemble(images, *given), expected)
    if kind != "batch":
        layer = twin.network.head
        assert layer.given is twin.given is not ensemble.given
        assert (layer.response.r is layer.own.r) == (kind == "tied")


@every_kind
def test_a_state_dict_brings_everything_back(kind):
    old = made("small_cnn, batch", kind)
    new = convert(built("small_cnn, batch"), M, seed=7, **KINDS[kind]).eval()
    images = uniform(M * B, *IMAGE)
    assert not torch.equal(new(images), old(images))
    new.load_state_dict(old.state_dict())
    assert torch.equal(new(images), old(images))


@every_kind
def test_an_ensemble_can_change_its_precision(kind):
    """32 bits agree with 64 to their precision; tied factors stay tied."""
    double = made("lenet", kind)
    single = copy.deepcopy(double).float()
    images = uniform(M * B, *IMAGE)
    found = single(images.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), double(images), rtol=1e-4, atol=1e-4)
    back = single.double()
    assert {p.dtype for p in back.parameters()} == {torch.float64}
    if kind == "tied":
        assert back.network.head.response.r is back.network.head.own.r
    assert back(images).dtype == torch.float64


@hyper_kinds
def test_dropout_obeys_each_examples_rate_inside_a_network(kind):
    """Outputs vary between passes where the rate is 1/2, and not where it is 1e-12."""
    space = Space(dropout=(1e-12, 0.9))
    ensemble = made("mlp, dropout", kind, space=space).train()
    images, rows = uniform(M * 20, *IMAGE), drawn(ensemble, images=20)
    often = torch.arange(M * 20) % 20 >= 10
    at = ensemble.names.index("dropout")
    rows[:, at] = torch.where(often, 0.5, 1e-12).log()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = (ensemble(images, rows) for _ in range(2))
    torch.testing.assert_close(a[~often], b[~often])
    changed = (a - b).abs().amax(1).unflatten(0, (M, 20)) > 1e-3
    assert changed[:, 10:].any(1).all()


@hyper_kinds
def test_nothing_is_left_of_a_pass_even_of_one_that_failed(kind):
    ensemble = made("mlp, dropout", kind)
    ensemble(uniform(M * B, *IMAGE))
    ensemble.penalty(drawn(ensemble))
    ensemble.member(0)
    with pytest.raises(RuntimeError, match="must match the size"):
        ensemble(uniform(M, 3, 16, 16))
    assert ensemble.given.unit is None
    assert ensemble.given.rate is None


def count(model):
    return sum(param.numel() for param in model.parameters())


@pytest.mark.parametrize(("kind", "most"), [("batch", 1.1), ("tied", 2.2)])
def test_four_members_cost_little_more_than_one_or_two_networks(kind, most):
    """ResNet-8: a batch ensemble at most 1.1 networks, a hyper-batch one 2.2."""
    model = models.build(ModelConfig(name="resnet8"), (3, 32, 32), 10, 0)
    ratio = count(convert(model, 4, **KINDS[kind])) / count(model)
    assert math.floor(most) < ratio <= most


@pytest.mark.parametrize("members", [1, 4])
def test_a_batch_ensembles_parameters_are_counted_as_in_the_paper(members):
    """d_in d_out + K (d_in + d_out) for each layer, and K biases."""
    model = built("mlp")
    shapes = [(512, 6), (6, 6), (6, 5)]
    weights = sum(a * b + members * (a + b) for a, b in shapes)
    biases = members * (6 + 6 + 5)
    assert count(convert(model, members)) == weights + biases


class Masked(nn.Linear):
    """Computes otherwise than a linear layer."""

    def forward(self, x):
        return super().forward(x) * 0


def untaken(layer):
    return nn.Sequential(nn.Conv2d(2, 4, 3), layer)


WRONG_MODELS = {
    "Conv1d": (untaken(nn.Conv1d(4, 4, 3)), "layer 1 is a Conv1d: only Linear, Conv2d"),
    "ConvTranspose2d": (
        untaken(nn.ConvTranspose2d(4, 4, 3)),
        "layer 1 is a ConvTranspose2d: only",
    ),
    "Embedding": (untaken(nn.Embedding(4, 4)), "layer 1 is a Embedding: only"),
    "LSTM": (untaken(nn.LSTM(4, 4)), "layer 1 is a LSTM: only"),
    "groups": (
        untaken(nn.Conv2d(4, 4, 3, groups=2)),
        r"layer 1 is Conv2d\(4, 4.*groups=2\): only Linear.*with groups=1",
    ),
    "reflect": (
        untaken(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
        "layer 1 is Conv2d.*padding_mode=reflect.*with.*padding_mode='zeros'",
    ),
    "alone": (nn.Conv2d(4, 4, 3, groups=4), "layer the model is Conv2d.*groups=4"),
    "subclass": (untaken(Masked(3, 3)), r"layer 1 is Masked\(.*Conv2d themselves"),
    "weight norm": (
        untaken(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))),
        "layer 1 is ParametrizedLinear",
    ),
    "no layer": (nn.Sequential(nn.Flatten()), "no Linear or Conv2d layer that could"),
    "twice": (convert(nn.Linear(3, 2), 2), "is a batch ensemble already; convert the"),
    "inside": (
        nn.Sequential(convert(nn.Linear(3, 2), 2), nn.Linear(2, 2)),
        "layer 0.network.0 is a BatchLayer: only",
    ),
}


@pytest.mark.parametrize("hyper", [False, True])
@pytest.mark.parametrize(
    ("model", "message"), WRONG_MODELS.values(), ids=WRONG_MODELS.keys()
)
def test_networks_that_cannot_be_converted_are_refused(model, message, hyper):
    with pytest.raises(ValueError, match=message):
        convert(model, 2, hyper)


@pytest.mark.parametrize("members", [0, -1])
def test_an_ensemble_has_members(members):
    with pytest.raises(ValueError, match=f"members must be at least 1, got {members}"):
        convert(nn.Linear(3, 2), members)


@pytest.mark.parametrize("options", [{"space": Space()}, {"tied": True}])
def test_space_and_tied_are_for_hyper_batch_ensembles(options):
    with pytest.raises(
        ValueError, match=r"space and tied are for hyper-batch.*hyper=T"
    ):
        convert(nn.Linear(3, 2), 2, **options)


@pytest.mark.parametrize("k", [-1, M])
def test_there_is_no_other_member(k):
    with pytest.raises(ValueError, match=f"members run from 0 to 2, got {k}"):
        made("mlp", "batch").member(k)


@pytest.mark.parametrize("n", [0, 1, M + 1])
@every_kind
def test_a_batch_must_be_divisible_among_the_members(kind, n):
    message = rf"batch of {n} examples cannot be divided among 3.*ensemble\.tile"
    ensemble = made("mlp", kind)
    with pytest.raises(ValueError, match=message):
        ensemble(torch.zeros(n, *IMAGE, dtype=torch.float64))
    with pytest.raises(ValueError, match=message):
        ensemble.penalty(uniform(n, len(ensemble.names)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(M, 4), (M * B, 3), (M * B, 5), (M * B,), (1, 4)])
def test_hyperparameters_must_fit_the_batch(shape):
    message = (
        r"log_lambda must be \(12, 4\), a row an example with l2_hidden1, l2_hidden2, "
        rf"l2_head, label_smoothing; got \({', '.join(map(str, shape))}"
    )
    with pytest.raises(ValueError, match=message):
        made("mlp", "hyper")(uniform(M * B, *IMAGE), uniform(*shape))


@pytest.mark.usefixtures("unchecked")
@every_kind
@pytest.mark.parametrize("shape", [(M, 3), (M, 5), (M,)])
def test_the_penalty_needs_all_hyperparameters(kind, shape):
    with pytest.raises(ValueError, match=r"log_lambda must be \(3, 4\), a row an ex"):
        made("mlp", kind).penalty(uniform(*shape))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.01, "l2_head must lie between 0.1 and 10, got values from 0.01 to 1; write"),
        (20.0, "l2_head must lie between 0.1 and 10, got values from 1 to 20; write"),
        (torch.nan, "l2_head must lie between 0.1 and 10, got values from nan to nan"),
    ],
)
def test_hyperparameters_must_lie_in_the_permitted_ranges(value, message):
    ensemble = made("mlp", "hyper", space=Space(l2=(0.1, 10.0)))
    rows = torch.zeros(M, 4, dtype=torch.float64)
    rows[:, -1] = -5
    ensemble(uniform(M, *IMAGE), rows)
    rows[1, ensemble.names.index("l2_head")] = math.log(value)
    with pytest.raises(ValueError, match=message):
        ensemble(uniform(M, *IMAGE), rows)
    with pytest.raises(ValueError, match=message):
        ensemble.penalty(rows)


def test_bounds_at_the_border_are_permitted_in_either_precision():
    for dtype in (torch.float32, torch.float64):
        ensemble = convert(built("mlp, dropout"), M, hyper=True).to(dtype)
        for bound in (ensemble.low, ensemble.high):
            images = uniform(M, *IMAGE).to(dtype)
            assert ensemble(images, bound.exp().log()).isfinite().all()


def test_a_batch_ensemble_does_not_answer_to_hyperparameters():
    ensemble = made("mlp", "batch")
    with pytest.raises(ValueError, match=r"does not answer to.*write convert.*hyper=T"):
        ensemble(uniform(M, *IMAGE), uniform(M, len(ensemble.names)))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"l2": (1.0, 0.1)}, r"range of l2 must be.*got \(1, 0.1\)"),
        ({"dropout": (0.1, 1.0)}, "dropout is a share and must stay below 1"),
    ],
)
def test_ranges_that_cannot_be_are_refused_before_the_conversion(ranges, message):
    with pytest.raises(ValueError, match=message):
        convert(nn.Linear(3, 2), 2, True, space=Space(**ranges))


def test_layers_are_of_the_kind_that_was_asked_for():
    for kind, expected in (("batch", BatchLayer), ("hyper", HyperLayer)):
        head = convert(built("resnet8"), M, **KINDS[kind]).network.head
        assert type(head) is expected
