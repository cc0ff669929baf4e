"""The benchmark of the GPU: an ordinary loop that is right, and numbers that add up."""

import copy
import importlib
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sbtutor import cost, models
from sbtutor.batches import Batches
from sbtutor.config import ModelConfig, TrainConfig
from sbtutor.gradient import balanced_gradient

CPU = torch.device("cpu")
FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """benchmarks/gpu.py, with a compiler that only traces."""
    monkeypatch.syspath_prepend(FOLDER)
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda m: compiled(m, backend="eager"))
    yield importlib.import_module("gpu")
    torch.compiler.reset()


def test_without_a_gpu_it_says_so(bench, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main([]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "no GPU that PyTorch can use on this machine: nothing to measure"


@pytest.mark.parametrize("chosen", [[], [0, 2, 3], range(8)], ids=["sgd", "mix", "sam"])
def test_the_ordinary_gradient_is_ours(bench, chosen):
    """In float64; weights come back, and BatchNorm has seen the same passes."""
    config = ModelConfig(name="resnet8", width=4)
    member = models.build(config, (3, 8, 8), 5, 0).double().train()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels, sam = torch.arange(8) % 5, torch.zeros(8).bool()
    sam[list(chosen)] = True
    other = copy.deepcopy(member)
    before = [p.detach().clone() for p in other.parameters()]
    ours = balanced_gradient(member, images, labels, sam, 0.3)
    bench.ordinary.gradient(other, images, labels, sam, 0.3)
    for (name, p), old in zip(other.named_parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, ours[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(p.detach(), old, rtol=1e-12, atol=1e-14)
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(buffer, member.get_buffer(name))


def test_the_ordinary_images_are_crops_and_flips_of_the_padded_ones(bench):
    """Found among all of them that there are: 3 x 3 places, flipped or not."""
    split = bench.images_of(bench.TINY)
    images = bench.ordinary.PilImages(split, crop=1)
    for i in range(5):
        image, label, index = images[i]
        padded = nn.functional.pad(split.images[i], (1,) * 4) / 255
        crops = [
            padded[:, r : r + 8, c : c + 8]
            for r, c in itertools.product(range(3), range(3))
        ]
        found = [*crops, *(crop.flip(2) for crop in crops)]
        assert any(torch.allclose(image, other) for other in found)
        assert (label, index) == (split.labels[i], i)


def test_the_ordinary_loop_trains_each_member_on_its_masks(bench, monkeypatch):
    asked = []
    config = bench.config_of(bench.TINY, "sharpbalance", CPU)
    split = bench.images_of(bench.TINY)
    masks = bench.masks_of(config, len(split.labels))
    members = bench.networks(bench.TINY, CPU)

    def gradient(member, images, labels, sam, rho):
        asked.append((members.index(member), len(labels), sam.dtype, rho))

    monkeypatch.setattr(bench.ordinary, "gradient", gradient)
    run = bench.ordinary.loop(members, split, masks, config, 3, jobs=0)
    assert run() == 2 * 3 * 8
    assert asked == [(m, 8, torch.bool, bench.RHO) for m in (0, 0, 0, 1, 1, 1)]


def test_an_epoch_has_its_steps_and_batches_of_two_sizes(bench):
    """As CIFAR-10's 45,000 images have in batches of 128."""
    for case in (bench.TINY, bench.QUICK, bench.Case()):
        config = bench.config_of(case, "sgd", CPU)
        samples = case.steps * case.batch_size - case.steps // 4
        assert -(-samples // case.batch_size) == case.steps
        assert config.batch_size == case.batch_size
    split = bench.images_of(bench.TINY)
    batches = Batches(split, bench.config_of(bench.TINY, "sgd", CPU), CPU)
    assert [b.index.shape[1] for b in batches.epoch(0)] == [8, 8, 8, 7]


@pytest.mark.parametrize("way", ["ours", "+ channels_last"])
def test_only_channels_last_lays_weights_and_images_so(bench, monkeypatch, way):
    seen, real = [], bench.train_step

    def step(ensemble, batch, *rest):
        seen.append((ensemble.members[0].conv2.weight, batch.images[0]))
        return real(ensemble, batch, *rest)

    monkeypatch.setattr(bench, "train_step", step)
    bench.measure(bench.TINY, "sgd", way, CPU, repeats=1, jobs=0)
    for tensor in seen[0]:
        strides = tensor.stride()
        assert (strides[1] == 1) == (way != "ours")


def test_rate_and_share_of_peak_are_what_they_say(bench, monkeypatch):
    """Two members, 31 images, half a second; SAM takes two gradients of 3 passes."""
    monkeypatch.setattr(bench.peak, "seconds", lambda run, device: (0.5, run()))
    row = bench.measure(bench.TINY, "sam", "+ bf16", CPU, repeats=2, jobs=0)
    assert row["samples_per_second"] == 2 * 31 / 0.5
    forward = cost.model_flops(bench.TINY.model, (3, 8, 8), 10)
    assert row["tflops"] == pytest.approx(6 * forward * 124 / 1e12)
    line = bench.report(row, {"samples_per_second": 62}, {"bf16": row["tflops"] * 4})
    assert (row["ratio"], row["share_of_peak"]) == (2, 0.25)
    assert "25.0% of peak (bf16)" in line


def test_a_matrix_product_is_two_flop_an_entry_and_row(bench, monkeypatch):
    """Ten products of n = 64 in one second."""
    monkeypatch.setattr(bench.peak, "seconds", lambda run, device: (1.0, run()))
    before = torch.get_float32_matmul_precision()
    found = bench.peak.peaks(64, CPU)
    assert list(found) == ["bf16", "tf32", "fp32"]
    assert found["fp32"] == pytest.approx(10 * 2 * 64**3 / 1e12)
    assert torch.get_float32_matmul_precision() == before


def test_all_ways_on_a_cpu_end_to_end(bench, tmp_path, capsys):
    words = "--device cpu --repeats 1 --workers 0 --methods sharpbalance --json"
    path = tmp_path / "gpu.json"
    assert bench.main([*words.split(), str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    saved = json.loads(path.read_text())
    assert [row["way"] for row in saved["rows"]] == list(bench.ways())
    assert len(lines) == 2 + len(saved["rows"])
    first = saved["rows"][0]
    assert (first["way"], first["ratio"]) == ("ordinary", 1)
    for row in saved["rows"]:
        assert row["share_of_peak"] * saved["peaks"][row["peak"]] == pytest.approx(
            row["tflops"]
        )


def test_quick_leaves_out_what_takes_minutes_to_compile(bench, monkeypatch, capsys):
    found = []

    def measure(case, method, way, *rest):
        found.append(way)
        return dict(method=method, way=way, samples_per_second=1, tflops=1, peak="bf16")

    monkeypatch.setattr(bench, "measure", measure)
    assert bench.main(["--device", "cpu", "--quick", "--methods", "sharpbalance"]) == 0
    assert found == ["ordinary", "ours", "+ channels_last", "+ bf16"]
    assert capsys.readouterr().out.count("left out by --quick") == 2
    assert bench.main(["--device", "cpu", "--minutes", "0", "--methods", "sgd"]) == 0
    assert capsys.readouterr().out.count("not measured: 0 minutes are over") == 6


def test_side_by_side_is_asked_for_in_its_way_only(bench, monkeypatch):
    seen = []

    def step(*given):
        seen.append(bench.gpu.side_by_side())

    monkeypatch.setattr(bench, "train_step", step)
    split = bench.images_of(bench.TINY)
    config = bench.config_of(bench.TINY, "sgd", CPU)
    assert isinstance(config, TrainConfig)
    for way in ("+ bf16", "+ side by side"):
        bench.our_steps(bench.TINY, split, config, bench.ways()[way])()
    assert seen == [False] * 4 + [True] * 4
    assert not bench.gpu.side_by_side()
