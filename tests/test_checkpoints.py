"""Weights of other code's files arrive whole, or a message says what is in the way."""

import argparse

import pytest
import torch
from torch import nn

from sbtutor import checkpoints, cycles, data
from sbtutor.config import TrainConfig


def network(seed: int, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    body = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 5)]
    body[1].running_mean.normal_()
    body[1].num_batches_tracked.fill_(seed)
    return nn.Sequential(*body, nn.Linear(5, classes))


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def alone(state):
    return state


def parallel(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        alone,
        parallel,
        lambda state: {"epoch": 7, "state_dict": state, "args": {"lr": 0.1}},
        lambda state: {"model": state},
        lambda state: {"model_state": state, "optimizer_state": {}},
        lambda state: {"weights": state, "history": [{"loss": 1.0}]},
        lambda state: {"state_dict": parallel(state)},
    ],
)
def test_a_state_dict_is_found_in_its_wrapping(tmp_path, wrap):
    theirs, ours = network(1), network(2)
    torch.save(wrap(theirs.state_dict()), tmp_path / "there.pt")
    checkpoints.load_weights(ours, str(tmp_path / "there.pt"))
    assert same(ours, theirs)


def test_only_some_names_with_module_are_names_of_layers(tmp_path):
    """DataParallel puts it before all names; here it is the model's own."""
    theirs, ours = (nn.ModuleDict({"module": network(s)}) for s in (1, 2))
    for each in (theirs, ours):
        each["other"] = nn.Linear(1, 1)
    torch.save(theirs.state_dict(), tmp_path / "there.pt")
    checkpoints.load_weights(ours, tmp_path / "there.pt")
    assert same(ours, theirs)


def test_the_end_of_a_cycle_is_such_a_file(tmp_path):
    images = torch.randint(256, (8, 1, 8, 8)).to(torch.uint8)
    split = data.Split(images, torch.arange(8) % 3, ("a", "b", "c"))
    config = TrainConfig(epochs=1, batch_size=4, device="cpu")
    task = cycles.Task(network(1), config)
    (found,) = cycles.train([task], split, tmp_path, jobs=1)
    (path,) = tmp_path.glob("*.pt")
    ours = network(2)
    checkpoints.load_weights(ours, path)
    assert same(ours, found.networks[-1])


def test_the_models_precision_stays(tmp_path):
    theirs, ours = network(1), network(2).double()
    torch.save(theirs.state_dict(), tmp_path / "there.pt")
    checkpoints.load_weights(ours, tmp_path / "there.pt")
    assert same(ours, theirs.double())
    assert next(ours.parameters()).dtype == torch.float64


@pytest.mark.parametrize("theirs", ["another size", "missing", "the same size"])
def test_without_the_head_all_but_the_last_linear_layer_is_loaded(tmp_path, theirs):
    other, ours, before = network(1, classes=4), network(2), network(2)
    state = (network(1) if theirs == "the same size" else other).state_dict()
    if theirs == "missing":
        del state["4.weight"], state["4.bias"]
    torch.save(state, tmp_path / "there.pt")
    checkpoints.load_weights(ours, tmp_path / "there.pt", head=False)
    assert same(ours[:4], other[:4])
    assert same(ours[4], before[4])


def test_a_count_of_batches_may_be_missing(tmp_path):
    theirs, ours = network(1), network(2)
    state = theirs.state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "there.pt")
    checkpoints.load_weights(ours, tmp_path / "there.pt")
    assert same(ours[3:], theirs[3:])
    assert torch.equal(ours[1].running_mean, theirs[1].running_mean)


def without(name):
    state = network(1).state_dict()
    del state[name]
    return state


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            network(1, 4).state_dict(),
            r"4.weight is \(4, 5\) there, \(3, 5\) in the.*he",
        ),
        (without("1.running_var"), "there.pt has no 1.running_var; take one of this"),
        (without("0.bias"), "there.pt has no 0.bias"),
        (network(1).state_dict() | {"9.bias": torch.ones(1)}, "network has no 9.bias"),
        ({}, "holds no state dict"),
        ({"epoch": 3}, "holds no state dict, which goes from names to tensors; write"),
        ({0: torch.ones(2)}, "holds no state dict"),
        ([torch.ones(2)], "holds no state dict"),
        (torch.ones(2), "holds no state dict"),
        ({"args": argparse.Namespace()}, r"tensors alone \(UnpicklingError\); where"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, content, message):
    torch.save(content, tmp_path / "there.pt")
    ours = network(2)
    with pytest.raises(ValueError, match=message):
        checkpoints.load_weights(ours, tmp_path / "there.pt")
    assert same(ours, network(2))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_file_that_torch_did_not_write_is_named(tmp_path, content):
    (tmp_path / "there.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"there.pt cannot be read as tensors alone"):
        checkpoints.load_weights(network(2), tmp_path / "there.pt")


def test_a_file_that_was_cut_short_is_named(tmp_path):
    torch.save(network(1).state_dict(), tmp_path / "there.pt")
    content = (tmp_path / "there.pt").read_bytes()
    (tmp_path / "there.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"there.pt cannot be read as tensors alone"):
        checkpoints.load_weights(network(2), tmp_path / "there.pt")


@pytest.mark.parametrize("path", ["nowhere.pt", "."])
def test_no_file_is_no_weights(tmp_path, path):
    with pytest.raises(ValueError, match=r"there is no file .*; write path="):
        checkpoints.load_weights(network(2), tmp_path / path)
