"""Per-sample Fisher traces against closed forms and one backward pass a sample."""

import itertools

import jaxtyping
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from sbtutor import fisher, models, sharpness
from sbtutor.config import ModelConfig

NETWORKS = [
    ("mlp", "batch", 3),
    ("lenet", "batch", 3),
    ("medium_cnn", "batch", 2),
    *itertools.product(("small_cnn", "resnet8"), ("batch", "group"), (3,)),
    *itertools.product(("resnet20", "resnet18", "wrn28_10"), ("batch", "group"), (2,)),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images_like(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def case(name="mlp", norm="batch", count=7, width=3):
    """A float64 network with statistics unlike the batch's own, images, labels."""
    side = 16 if name == "medium_cnn" else 8
    model = models.build(
        ModelConfig(name=name, width=width, norm=norm), (2, side, side), 3, 0
    )
    shape = (20, 2, side, side)
    images = torch.rand(shape, generator=seeded(), dtype=torch.float64)
    model.double().train()(images)  # moves the running statistics
    labels = torch.randint(3, (count,), generator=seeded(1))
    return model, images[:count], labels


def loop(model, images, labels):
    """One backward pass a sample, in eval mode."""
    rows, params = [], list(model.parameters())
    with models.evaluating(model):
        for image, label in zip(images, labels, strict=True):
            loss = F.cross_entropy(model(image[None]), label[None])
            slopes = torch.autograd.grad(loss, params, allow_unused=True)
            rows.append(sum(s.square().sum() for s in slopes if s is not None))
    return torch.stack(rows)


def built(make, *args):
    """A module with fixed random weights, in float64, biases and gains included."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(*args).double()
        for p in model.parameters():
            if p.dim() < 2:
                nn.init.normal_(p)
    return model


def same_as_loop(model, images, batch_size=3, classes=3):
    labels = torch.arange(len(images)) % classes
    ours = sharpness.fisher_trace(model, images, labels, batch_size)
    torch.testing.assert_close(
        ours, loop(model, images, labels), rtol=1e-10, atol=1e-300
    )


@pytest.fixture
def fallback(monkeypatch):
    """The names of the parameters that went through torch.func, batch by batch."""
    names, real = [], fisher._by_vmap

    def by_vmap(model, params, wanted, images, labels):
        names.append(sorted(wanted))
        return real(model, params, wanted, images, labels)

    monkeypatch.setattr(fisher, "_by_vmap", by_vmap)
    return names


@pytest.mark.parametrize(("name", "norm", "width"), NETWORKS)
def test_fisher_trace_is_the_per_sample_loops(name, norm, width, fallback):
    model, images, labels = case(name, norm, count=4, width=width)
    ours = sharpness.fisher_trace(model, images, labels, batch_size=3)
    torch.testing.assert_close(ours, loop(model, images, labels), rtol=1e-10, atol=0)
    assert fallback == []  # all layers of the course are known ones


def test_in_single_precision_the_traces_keep_four_digits():
    model, images, labels = case("resnet8", width=8)
    exact = sharpness.fisher_trace(model, images, labels)
    rough = sharpness.fisher_trace(model.float(), images.float(), labels)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=1e-4, atol=0)


def test_fisher_trace_of_logistic_regression():
    """||p - onehot||^2 (||x||^2 + 1) for logits Wx + b."""
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 3)))
    x = images_like(5, 2, 2, 2)
    labels = torch.tensor([0, 1, 2, 1, 0])
    error = model(x).softmax(1) - F.one_hot(labels, 3)
    expected = error.square().sum(1) * (x.flatten(1).square().sum(1) + 1)
    torch.testing.assert_close(sharpness.fisher_trace(model, x, labels), expected)


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.t = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, x):
        return self.t * x.flatten(1)


def test_fisher_trace_knows_parameters_that_are_single_numbers():
    """logits = t z, t a number: s = ((p - onehot)' z)^2."""
    z = images_like(4, 3, 1, 1)
    labels = torch.tensor([0, 1, 2, 0])
    error = (1.5 * z.flatten(1)).softmax(1) - F.one_hot(labels, 3)
    expected = (error * z.flatten(1)).sum(1).square()
    ours = sharpness.fisher_trace(Temperature(), z, labels)
    torch.testing.assert_close(ours, expected)


def test_fisher_trace_is_a_property_of_the_sample_not_of_its_batch():
    model, images, labels = case("resnet8")
    whole = sharpness.fisher_trace(model, images, labels)
    order = torch.randperm(7, generator=seeded(1))
    shuffled = sharpness.fisher_trace(model, images[order], labels[order], 2)
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-10, atol=0)


class Tiny(nn.Module):
    """Two-layer network; a subclass says what it does with its parts."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 4)
        self.middle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.inside(self.first(x.flatten(1)).tanh()))


class CalledTwice(Tiny):
    def inside(self, h):
        return self.middle(self.middle(h).tanh())


class CalledTwiceOnceInVain(Tiny):
    def inside(self, h):
        self.middle(h.square())
        return self.middle(h)


class SharedWeight(Tiny):
    def __init__(self):
        super().__init__()
        self.twin = nn.Linear(4, 4)
        self.twin.weight = self.middle.weight

    def inside(self, h):
        return self.twin(self.middle(h).tanh())


class SharedWeightOfIdleModule(SharedWeight):
    def inside(self, h):
        return self.twin(h)


class WeightUsedAgain(Tiny):
    def inside(self, h):
        return self.middle(h) + h @ self.middle.weight


class WeightUsedByFunctionOnly(Tiny):
    def inside(self, h):
        return F.linear(h, self.middle.weight) * self.middle.bias


class WeightPenalised(Tiny):
    def inside(self, h):
        return self.middle(h) * self.middle.weight.square().sum()


class IdleModule(Tiny):
    def inside(self, h):
        return h


class NoGradient(Tiny):
    def inside(self, h):
        with torch.no_grad():
            return self.middle(h)


class Detached(Tiny):
    def inside(self, h):
        return self.middle(h).detach() + h


class Keyword(Tiny):
    def inside(self, h):
        return self.middle(input=h)


class SideBySide(Tiny):
    """The second branch does not pass through the first known layer."""

    def __init__(self):
        super().__init__()
        self.side = nn.Linear(8, 3)

    def inside(self, h):
        return self.middle(h)

    def forward(self, x):
        return super().forward(x) + self.side(x.flatten(1))


class FirstInVain(Tiny):
    def inside(self, h):
        return self.middle(h)

    def forward(self, x):
        self.first(x.flatten(1).square())
        return super().forward(x)


class InPlace(Tiny):
    def forward(self, x):
        h = F.relu_(self.first(x.flatten(1)))
        return self.head(self.middle(h).relu_())


class OwnParameter(Tiny):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def inside(self, h):
        return self.gain * self.middle(h)


class Tokens(Tiny):
    """Linear layers on (B, T, D), T = 2; the bias meets each token."""

    def forward(self, x):
        h = self.middle(x.reshape(len(x), 2, 4)).tanh()
        return self.head(self.middle.weight.new_ones(2) @ h)


class ManyAxes(Tiny):
    def forward(self, x):
        return self.head(self.middle(x.reshape(len(x), 1, 2, 1, 4)).sum((1, 2, 3)))


class FoldedBatch(Tiny):
    """Tokens as samples: the first axis of the layer's input is B T."""

    def forward(self, x):
        return self.head(self.middle(x.reshape(-1, 4)).reshape(len(x), 2, 4).prod(1))


class TokensFirst(Tiny):
    def forward(self, x):
        h = x.reshape(len(x), 2, 4).transpose(0, 1)
        return self.head(self.middle(h).prod(0))


MODULES = [
    CalledTwice,
    CalledTwiceOnceInVain,
    SharedWeight,
    SharedWeightOfIdleModule,
    WeightUsedAgain,
    WeightUsedByFunctionOnly,
    WeightPenalised,
    IdleModule,
    NoGradient,
    Detached,
    Keyword,
    SideBySide,
    FirstInVain,
    InPlace,
    OwnParameter,
    Tokens,
    ManyAxes,
    FoldedBatch,
]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_fisher_trace_of_modules_that_use_their_layers_in_odd_ways(module, batch_size):
    same_as_loop(built(module), images_like(5, 2, 2, 2), batch_size)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_fisher_trace_of_layers_whose_first_axis_is_not_the_samples(batch_size):
    """Noticed unless a batch has as many samples as there are tokens (here two)."""
    same_as_loop(built(TokensFirst), images_like(5, 2, 2, 2), batch_size)


def test_each_token_and_each_sample_takes_the_quick_way(fallback):
    same_as_loop(built(ManyAxes), images_like(5, 2, 2, 2))
    assert {*itertools.chain(*fallback)} == {"first.weight", "first.bias"}  # unused


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, x):
        return self.table((x.flatten(1).abs() * 3).long().clamp(max=9)).mean(1)


class Plain(nn.Linear):
    """A subclass may do anything: here it uses its weight squared."""

    def forward(self, x):
        return F.linear(x, self.weight.square(), self.bias)


def pruned():
    return prune.l1_unstructured(nn.Linear(32, 4), "weight", 0.5)


def with_a_fixed_bias():
    layer = nn.Linear(32, 4)
    bias = layer.bias.detach()
    del layer.bias
    layer.register_buffer("bias", bias)
    return layer


def with_a_fixed_weight():
    layer = nn.Linear(32, 4)
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    return layer


def with_an_extra_parameter():
    layer = nn.Linear(32, 4)
    layer.extra = nn.Parameter(torch.ones(4))
    layer.register_forward_hook(lambda module, args, out: out * module.extra)
    return layer


FLAT = {  # on 32 numbers
    "LayerNorm": lambda: nn.LayerNorm(32),
    "LayerNorm without bias": lambda: nn.LayerNorm(32, bias=False),
    "RMSNorm": lambda: nn.RMSNorm(32),
    "PReLU": lambda: nn.PReLU(),
    "Bilinear-like subclass": lambda: Plain(32, 4),
    "Linear without bias": lambda: nn.Linear(32, 4, bias=False),
    "BatchNorm1d": lambda: nn.BatchNorm1d(32),
    "GroupNorm of two axes": lambda: nn.GroupNorm(4, 32),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(32, 4)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(32, 4)),
    "pruned": pruned,
    "a fixed bias": with_a_fixed_bias,
    "a fixed weight": with_a_fixed_weight,
    "an extra parameter": with_an_extra_parameter,
}


@pytest.mark.parametrize("layer", FLAT)
def test_fisher_trace_of_layers_on_vectors(layer):
    def make():
        one = FLAT[layer]()
        return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), one, nn.LazyLinear(3))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double()
        model(images_like(4, 8))
    same_as_loop(model, images_like(5, 8))


CONVS = {
    "plain": dict(),
    "no padding": dict(padding=0),
    "no bias": dict(bias=False),
    "stride": dict(stride=2),
    "stride that leaves pixels over": dict(stride=3, padding=0),
    "dilation": dict(dilation=2, padding=2),
    "all at once": dict(stride=(2, 1), dilation=(1, 2), padding=(0, 2)),
    "wide padding": dict(padding=3),
    "oblong": dict(kernel_size=(1, 3), padding=(0, 1)),
    "1 x 1": dict(kernel_size=1, padding=0),
    "groups": dict(groups=2),
    "depthwise": dict(groups=4),
    "same": dict(padding="same"),
    "valid": dict(padding="valid"),
    "circular": dict(padding_mode="circular"),
    "reflect": dict(padding_mode="reflect"),
}


@pytest.mark.parametrize("kind", CONVS)
def test_fisher_trace_of_convolutions(kind, fallback):
    asked = dict(kernel_size=3, padding=1) | CONVS[kind]

    def make():
        head = (nn.Flatten(), nn.LazyLinear(3))
        return nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, **asked), *head)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double()
        model(images_like(1, 2, 7, 6))
    same_as_loop(model, images_like(5, 2, 7, 6))
    rare = {"groups", "depthwise", "same", "valid", "circular", "reflect"}
    assert bool(fallback) == (kind in rare)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.ConvTranspose2d(2, 3, 3, stride=2),
        lambda: nn.Conv3d(1, 3, (2, 3, 3)),
        lambda: nn.BatchNorm2d(2),
        lambda: nn.BatchNorm2d(2, affine=False),
        lambda: nn.GroupNorm(1, 2),
        lambda: nn.GroupNorm(2, 2, affine=False),
        lambda: nn.InstanceNorm2d(2, affine=True),
    ],
    ids=[
        "transposed",
        "3d",
        "batch",
        "batch_fixed",
        "group",
        "group_fixed",
        "instance",
    ],
)
def test_fisher_trace_of_other_layers_on_images(make):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = make(), nn.LazyLinear(3)

        def forward(self, x):
            x = x[:, None] if isinstance(self.layer, nn.Conv3d) else x
            return self.head(self.layer(x).flatten(1).tanh())

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net().double()
        model.train()(images_like(9, 2, 5, 5, seed=1))
    same_as_loop(model, images_like(5, 2, 5, 5))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3), (6, 2, 2, 2), (6, 2, 2, 1, 2)])
def test_group_norm_of_any_number_of_axes(shape, fallback):
    """(B, C), (B, C, L), images and volumes: s is that of the loop."""
    channels = shape[1]
    norm = nn.GroupNorm(channels // 2, channels)
    head = (nn.Flatten(), nn.Linear(torch.Size(shape[1:]).numel(), 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(norm, *head).double()
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    same_as_loop(model, images_like(*shape))
    assert fallback == []


def test_fisher_trace_of_embeddings():
    same_as_loop(built(Embedding), images_like(5, 2, 3, 3), classes=4)


SHAPES = [
    dict(kernel_size=k, stride=s, dilation=d, padding=p)
    for k, s, d, p in itertools.product(
        (1, 3, (2, 3)), (1, 2, (1, 3)), (1, (2, 1)), (0, 1, (2, 0))
    )
]


@pytest.mark.parametrize("asked", SHAPES, ids=str)
def test_all_ways_of_a_convolution_agree(asked):
    """|| sum_l a_l g_l' ||^2 by each sample's gradient, and by products of pixels."""
    draw = seeded(len(str(asked)))
    d, c, rows, columns = torch.randint(1, 5, (4,), generator=draw).tolist()
    layer = nn.Conv2d(d, c, **asked)
    a = torch.randn(3, d, rows + 5, columns + 5, generator=draw, dtype=torch.float64)
    g = torch.randn_like(layer.double()(a).detach())
    by_gradient = fisher._conv_by_groups(layer, a, g)
    for other in (fisher._conv_by_gram, fisher._conv_by_patches):
        torch.testing.assert_close(by_gradient, other(layer, a, g))
    for n in range(3):
        out = layer(a[n : n + 1])
        slope = torch.autograd.grad(out, layer.weight, g[n : n + 1])[0]
        torch.testing.assert_close(by_gradient[n], slope.square().sum())


@pytest.mark.parametrize(("length", "d", "c"), [(1, 5, 4), (2, 9, 8), (30, 2, 3)])
def test_both_ways_of_a_linear_layer_agree(length, d, c):
    a, g = images_like(4, length, d), images_like(4, length, c, seed=1)
    expected = torch.einsum("bld,blc->bdc", a, g).square().sum((1, 2))
    torch.testing.assert_close(fisher._product_squares(a, g), expected)


def test_in_place_relu_modules_after_layers():
    model = built(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(27, 4),
            nn.ReLU(inplace=True),
            nn.Linear(4, 3),
        )
    )
    same_as_loop(model, images_like(5, 2, 5, 5))


@pytest.mark.parametrize("position", [0, 2])
def test_a_users_hooks_may_change_inputs_and_outputs(position):
    model = built(nn.Sequential, nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))
    layer = model[position]
    layer.register_forward_hook(lambda module, args, out: out.square() + out)
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 3,))
    same_as_loop(model, images_like(5, 8))


def test_dropout_is_off_and_each_layers_own_mode_comes_back():
    """In train mode too; a layer that was in another mode is so again."""
    model = built(
        lambda: nn.Sequential(
            nn.Linear(8, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3)
        )
    )
    model.train()(images_like(9, 8, seed=2))
    model[2].eval()
    modes = [m.training for m in model.modules()]
    same_as_loop(model, images_like(5, 8))
    assert [m.training for m in model.modules()] == modes
    assert modes == [True, True, True, False, True]


def hooks_of(model):
    return [
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in model.modules()
    ]


@pytest.mark.parametrize("training", [True, False])
def test_fisher_trace_restores_the_mode_and_leaves_the_rest_alone(training):
    """Statistics, gradients and hooks; also after an error."""
    model, images, labels = case("small_cnn")
    model.train(training)
    marker = model.head.register_forward_hook(lambda module, args, out: None)
    before = {k: b.clone() for k, b in model.state_dict().items()}

    def untouched():
        assert all(m.training == training for m in model.modules())
        assert all(torch.equal(b, before[k]) for k, b in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert sum(hooks_of(model)) == 1

    sharpness.fisher_trace(model, images, labels)
    untouched()
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        sharpness.fisher_trace(model, images, labels + 3)
    untouched()
    with pytest.raises(RuntimeError, match="must match"):
        sharpness.fisher_trace(model, images.repeat(1, 5, 1, 1), labels)
    untouched()
    marker.remove()


def test_gradients_that_a_model_holds_stay_there():
    model, images, labels = case("lenet")
    for p in model.parameters():
        p.grad = torch.full_like(p, 7)
    sharpness.fisher_trace(model, images, labels)
    assert all((p.grad == 7).all() for p in model.parameters())


def test_frozen_parameters_count():
    model, images, labels = case("small_cnn")
    whole = sharpness.fisher_trace(model, images, labels)
    model.requires_grad_(False)
    torch.testing.assert_close(sharpness.fisher_trace(model, images, labels), whole)
    assert not any(p.requires_grad for p in model.parameters())


def test_the_callers_gradient_mode_does_not_matter():
    model, images, labels = case("small_cnn")
    whole = sharpness.fisher_trace(model, images, labels)
    with torch.no_grad():
        torch.testing.assert_close(sharpness.fisher_trace(model, images, labels), whole)
    assert not whole.requires_grad


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_batch_norm_without_running_statistics_is_refused(kind):
    inner = nn.Sequential(nn.Identity(), kind(3, track_running_stats=False))
    model = nn.Sequential(nn.Linear(3, 3), inner)
    message = r"1\.1 is a BatchNorm without running .*track_running_stats.*GroupNorm"
    with pytest.raises(ValueError, match=message):
        sharpness.fisher_trace(model, torch.rand(2, 3), torch.tensor([0, 1]))


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="no parameters, so there is no gradient"):
        sharpness.fisher_trace(nn.Flatten(), torch.rand(2, 3), torch.tensor([0, 1]))


class Mixes(nn.Module):
    """Subtracts the batch's mean: no sample has an output of its own."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x - x.mean(0))


class AlwaysDrops(Mixes):
    """Dropout that eval mode does not reach."""

    def forward(self, x):
        return self.head(F.dropout(x.flatten(1)))


@pytest.mark.parametrize("kind", [Mixes, AlwaysDrops])
def test_a_model_whose_samples_have_no_output_of_their_own_is_refused(kind):
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(9) % 3
    with pytest.raises(ValueError, match=r"has the trace .* in its batch and .* alone"):
        sharpness.fisher_trace(kind().double(), x, labels)


def test_logits_that_are_not_a_row_a_sample_are_refused():
    x, labels = torch.rand(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"logits \(N, C\), got shape \(2, 3, 4, 4\)"):
        sharpness.fisher_trace(nn.Conv2d(1, 3, 1), x, labels[:, 0, 0])


def test_a_forward_without_gradient_is_refused():
    class Cut(Mixes):
        def forward(self, x):
            return self.head(x).detach()

    with pytest.raises(ValueError, match="does not depend on its parameters"):
        sharpness.fisher_trace(Cut(), torch.rand(2, 6), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("images", "labels", "batch_size", "message"),
    [
        (5, 4, 2, "got 5 images and 4 labels"),
        (0, 0, 2, "got 0 images and 0 labels"),
        (4, 4, 0, "got batch_size=0"),
    ],
)
def test_counts_that_cannot_be_are_refused(
    images, labels, batch_size, message, monkeypatch
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = nn.Linear(6, 3)
    with pytest.raises(ValueError, match=message):
        sharpness.fisher_trace(
            model, torch.rand(images, 6), torch.zeros(labels).long(), batch_size
        )
