"""Torchvision's networks, behind their official scaling; no test needs a network."""

import copy
import dataclasses
import pickle
import urllib.error

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.ops import StochasticDepth

from sbtutor import basin, data, fits, pretrained, stack, transfer
from sbtutor.config import TrainConfig
from sbtutor.recipe import Recipe, learning_rate

DOWNLOAD = "torchvision.models._api.load_state_dict_from_url"


@pytest.fixture(scope="module", params=pretrained.NAMES)
def theirs(request):
    """Torchvision's network with random weights, which costs a second to make."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return request.param, getattr(torchvision.models, request.param)().eval()


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    """The same network from the file of its weights."""
    name, network = theirs
    path = tmp_path_factory.mktemp("pretrained") / f"{name}.pth"
    torch.save(network.state_dict(), path)
    before = torch.get_rng_state()
    loaded = pretrained.load(name, path)
    assert torch.equal(before, torch.get_rng_state())
    path.unlink()
    return loaded


def tiny(classes: int = 4, seed: int = 0) -> nn.Module:
    """A network of 16 x 16 images with BatchNorm, behind the same first layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pool = nn.AdaptiveAvgPool2d(1)
        body = [nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), pool, nn.Flatten()]
        return pretrained.for_images(
            nn.Sequential(*body, nn.Linear(5, classes)), size=16
        )


def colours(samples: int = 6, side: int = 10, channels: int = 3) -> data.Split:
    generator = torch.Generator().manual_seed(0)
    shape = (samples, channels, side, side)
    images = torch.randint(256, shape, generator=generator).to(torch.uint8)
    return data.Split(images, torch.arange(samples) % 4, ("a", "b", "c", "d"))


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == n and torch.equal(x, y) for (k, x), (n, y) in pairs)


def test_the_weights_and_logits_are_torchvisions(theirs, ours):
    _, network = theirs
    assert same(ours.network, network)
    assert not any(layer.training for layer in ours.modules())
    images = torch.rand(1, 3, 224, 224)
    mean, std = (
        torch.tensor(numbers)[:, None, None]
        for numbers in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    with torch.no_grad():
        found, expected = ours(images), network((images - mean) / std)
    torch.testing.assert_close(found, expected)


def test_swin_drops_paths_up_to_a_tenth(theirs, ours):
    name, _ = theirs
    rates = [m.p for m in ours.modules() if isinstance(m, StochasticDepth)]
    assert max(rates, default=0) == pytest.approx(0.1 if name == "swin_t" else 0)


def test_a_new_head_takes_the_place_of_the_thousand_classes(theirs, ours):
    made = transfer.with_head(ours, 7, seed=0)
    leaf = {"resnet50": "fc", "swin_t": "head"}[theirs[0]]
    before, after = (getattr(m.network, leaf) for m in (ours, made))
    assert (after.in_features, after.out_features) == (before.in_features, 7)
    setattr(made.network, leaf, before)
    assert same(made, ours)


def test_a_copy_and_a_pickled_one_are_the_same(ours):
    assert same(copy.deepcopy(ours), ours)
    again = pickle.loads(pickle.dumps(ours))
    assert same(again, ours)
    assert repr(again) == repr(ours)


@pytest.mark.parametrize("shape", [(32, 32), (300, 300), (48, 80)])
def test_images_are_scaled_as_torchvision_scales_them(shape):
    """Exactly for floats; from uint8 torchvision rounds twice, by 1/2 of 255 each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, *shape), generator=generator).to(torch.uint8)
    official = ResNet50_Weights.IMAGENET1K_V1.transforms()
    found = pretrained.for_images(nn.Identity())(images / 255)
    assert found.shape == (2, 3, 224, 224)
    torch.testing.assert_close(found, official(images / 255))
    difference = (found - official(images)).abs().amax((0, 2, 3))
    rounding = 1.02 / 255 / torch.tensor(pretrained.STD)  # 0.02: weights of 16 bits
    assert (difference < rounding).all()


@pytest.fixture
def small(monkeypatch):
    """As if resnet50 were the tiny network."""
    monkeypatch.setattr(pretrained, "_body", lambda name: tiny(seed=9).network)
    return tiny()


@pytest.mark.parametrize("part", ["whole", "network"])
def test_a_network_of_ours_can_be_loaded_again(small, tmp_path, part):
    """With its own scaling of images, if the file has one."""
    small.normalize.mean.fill_(0.25)
    saved = small if part == "whole" else small.network
    torch.save(saved.state_dict(), tmp_path / "ours.pt")
    found = pretrained.load("resnet50", tmp_path / "ours.pt")
    assert same(found.network, small.network)
    assert same(found, small) == (part == "whole")


def test_another_head_is_named_and_can_be_left_out(small, tmp_path):
    other = tiny(classes=9)
    torch.save(other.state_dict(), tmp_path / "ours.pt")
    message = r"ours.pt does not fit: network.5.weight is \(9, 5\) there, \(4, 5\) in"
    with pytest.raises(ValueError, match=message):
        pretrained.load("resnet50", tmp_path / "ours.pt")
    found = pretrained.load("resnet50", tmp_path / "ours.pt", head=False)
    assert same(found.network[:5], other.network[:5])
    assert found.network[5].out_features == 4


def test_a_head_that_is_left_out_is_the_same_each_time(monkeypatch, tmp_path):
    def body(_):
        return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))

    monkeypatch.setattr(pretrained, "_body", body)
    torch.save(
        {f"0.{k}": t for k, t in body("")[0].state_dict().items()}, tmp_path / "a"
    )
    one, other = (pretrained.load("swin_t", tmp_path / "a", head=False) for _ in "ab")
    assert same(one, other)


def test_weights_of_another_network_name_the_first_layer(small, tmp_path):
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt has no 0.weight; take one of this"):
        pretrained.load("resnet50", tmp_path / "other.pt")


def test_a_missing_file_is_not_downloaded_instead(monkeypatch, tmp_path):
    monkeypatch.setattr(DOWNLOAD, lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(ValueError, match=r"there is no file .*gone.pt"):
        pretrained.load("resnet50", tmp_path / "gone.pt")


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_two_checkpoints_of_resnet50_can_be_downloaded(small, monkeypatch, weights):
    calls = []

    def fetch(url, **options):
        calls.append((url, options["weights_only"], options["check_hash"]))
        return small.network.state_dict()

    monkeypatch.setattr(DOWNLOAD, fetch)
    assert same(pretrained.load("resnet50", weights=weights), small)
    assert calls == [(ResNet50_Weights[weights].url, True, True)]


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route to host"), RuntimeError("invalid hash")]
)
def test_without_a_network_the_file_to_get_is_named(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(DOWNLOAD, fail)
    message = (
        r"IMAGENET1K_V1 weights of swin_t could not be downloaded \(.*(route|hash).*\);"
        r" get https://\S*/swin_t-\S+.pth .*load\('swin_t', path='...'\)"
    )
    with pytest.raises(ValueError, match=message):
        pretrained.load("swin_t")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("resnet51",), "unknown network 'resnet51': choose one of resnet50, swin_t"),
        (
            ("swin_t", None, "IMAGENET1K_V2"),
            "swin_t has no weights 'IMAGENET1K_V2': ch",
        ),
        (("resnet50", None, "V3"), "choose one of IMAGENET1K_V1, IMAGENET1K_V2"),
    ],
)
def test_unknown_names_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        pretrained.load(*given)


def test_grey_images_do_not_fit():
    """They would pass: PyTorch would repeat the one channel without a word."""
    message = "normalize.mean scales images of 3 channels, got images of 1"
    with pytest.raises(ValueError, match=message):
        fits.check_fits(tiny(), colours(channels=1))


def test_points_and_soups_reach_through_the_first_layers():
    members = [tiny(seed=0), tiny(seed=1)]
    points = stack.points_of(members)
    assert points.shape == (2, 5 * 3 * 9 + 5 + 2 * 5 + 4 * 6)
    soup = basin.soup(members)
    torch.testing.assert_close(stack.points_of([soup])[0], points.mean(0))
    assert torch.equal(soup.normalize.mean, members[0].normalize.mean)


def test_fresh_statistics_are_those_of_the_scaled_images():
    start, split = tiny(), colours()
    found = stack.refreshed(start, split)
    with torch.no_grad():
        shown = start.normalize(start.resize(split.images / 255))
        values = start.network[0](shown).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.network[1].running_mean, values.mean(1))
    torch.testing.assert_close(found.network[1].running_var, values.var(1))


# Of the published configs of Sadrtdinov et al. 2023: what differs from the defaults.
TABLE = {
    "byol_resnet50": {"epochs": 25, "lr": 0.05, "weight_decay": 1e-4},
    "supervised_resnet50": {"epochs": 25, "lr": 0.005, "weight_decay": 5e-4},
    "supervised_swin_t": {
        **{"epochs": 102, "lr": 1e-4, "weight_decay": 0.25, "optimizer": "adamw"},
        **{"bf16": True},
    },
}


@pytest.mark.parametrize("name", TABLE)
def test_the_papers_settings_are_its_tables(name):
    config, how = pretrained.PAPER[name]
    common = {"batch_size": 256, "schedule": "cosine"}
    assert config == dataclasses.replace(TrainConfig(), **common, **TABLE[name])
    assert (config.method, config.momentum, how.size) == ("sgd", 0.9, 224)
    if name != "supervised_swin_t":
        assert how == Recipe(augment="resized_crop")
        return
    assert how.augment == "swin"
    assert (how.label_smoothing, how.clip_norm) == (0.1, 5.0)
    assert how.warmup_epochs == int(0.1 * config.epochs)
    rates = [learning_rate(config, how, epoch) for epoch in (0, 5, 10, 56)]
    assert rates == pytest.approx([5e-7, (5e-7 + 1e-4) / 2, 1e-4, 0.5e-4])


@pytest.mark.parametrize("name", TABLE)
def test_the_papers_settings_can_be_trained_with(name):
    """One epoch of 16-pixel images instead of 25 or 102 of 224-pixel ones."""
    config, how = pretrained.PAPER[name]
    config = dataclasses.replace(config, epochs=1, device="cpu")
    how = dataclasses.replace(how, size=16, warmup_epochs=0)
    (member,) = transfer.fine_tune([tiny()], colours(), config, jobs=1, recipe=how)
    assert member(torch.rand(2, 3, 9, 9)).shape == (2, 4)
