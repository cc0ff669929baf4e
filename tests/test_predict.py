"""Logits of members for a split, and their file."""

import pytest
import torch

from sbtutor import data, models
from sbtutor.config import ModelConfig
from sbtutor.files import BrokenFileError
from sbtutor.predict import Predictions, as_input, predict


def split(samples=23):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 1, 8, 8), generator=generator)
    return data.Split(images.to(torch.uint8), torch.arange(samples) % 3, tuple("abc"))


def members(name="small_cnn", dtype=torch.float64):
    model = ModelConfig(name=name, width=4)
    return [models.build(model, (1, 8, 8), 3, m).to(dtype) for m in range(3)]


@pytest.mark.parametrize("batch_size", [1, 5, 23, 1000])
def test_logits_are_each_members_in_eval_mode_sample_by_sample(batch_size):
    nets, images = members(), split().images
    found = predict(nets, split(), batch_size)
    assert torch.equal(found.labels, split().labels)
    for m, net in enumerate(nets):
        for n, image in enumerate(images):
            one = net.eval()(image[None].double() / 255)[0]
            torch.testing.assert_close(found.logits[m, n], one.detach())


def test_predicting_leaves_statistics_and_each_members_mode_alone():
    nets = members()
    nets[1].eval()
    before = [{k: b.clone() for k, b in net.named_buffers()} for net in nets]
    predict(nets, split())
    assert [net.training for net in nets] == [True, False, True]
    for net, old in zip(nets, before, strict=True):
        assert all(torch.equal(b, old[k]) for k, b in net.named_buffers())


def test_the_mode_comes_back_when_a_member_fails():
    nets = members("mlp")
    wrong = data.Split(split().images[..., :7], split().labels, tuple("abc"))
    with pytest.raises(RuntimeError, match="shape"):
        predict(nets, wrong)
    assert all(net.training for net in nets)


def test_logits_may_be_used_in_a_differentiable_formula():
    """As when a temperature is fitted: d/dt sum(t logits) is their sum."""
    logits = predict(members(), split()).logits
    t = torch.ones((), dtype=torch.float64, requires_grad=True)
    (t * logits).sum().backward()
    torch.testing.assert_close(t.grad, logits.sum())


def test_predictions_round_trip_bit_for_bit(tmp_path):
    found = predict(members(dtype=torch.float32), split())
    found.save(tmp_path / "test.npz")
    back = Predictions.load(tmp_path / "test.npz")
    assert torch.equal(back.logits, found.logits)
    assert torch.equal(back.labels, found.labels)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "test.npz"
    predict(members(), split()).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BrokenFileError, match=r"test\.npz was cut short or altered"):
        Predictions.load(path)


def test_no_members_is_refused():
    with pytest.raises(ValueError, match="at least one member, got an empty list"):
        predict([], split())


def test_inputs_of_one_channel_have_strides_with_channels_last():
    """`.to(memory_format=...)` takes them for channels last already."""
    images = as_input(split(5).images, torch.zeros(1))
    assert images.stride() == (64, 1, 8, 1)
    assert torch.equal(images, data.to_float(split(5).images))
