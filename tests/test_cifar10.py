"""Real CIFAR-10 images, where they are: imported in one command, trained on."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sbtutor import config, data, evaluate, train

ARCHIVE = Path(
    os.environ.get(
        "SBTUTOR_CIFAR10_JPEG",
        Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz",
    )
)
pytestmark = pytest.mark.skipif(
    not ARCHIVE.exists(),
    reason="no CIFAR-10 images here; name them in SBTUTOR_CIFAR10_JPEG",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10")
    command = [sys.executable, "-m", "sbtutor.data", "import", str(ARCHIVE)]
    command += ["--name", "cifar10", "--root", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "50,000 train, 10,000 test images of 10 classes" in done.stdout
    return folder


def test_splits_are_those_of_the_papers(root):
    splits = data.load(config.DataConfig(name="cifar10", root=root))
    assert [len(split.labels) for split in splits] == [45_000, 5_000, 10_000]
    assert splits.train.images.shape[1:] == (3, 32, 32)
    assert splits.train.classes[:2] == ("airplane", "automobile")
    assert splits.val.labels.bincount().tolist() == [500] * 10
    # the channel means and deviations that everybody uses for CIFAR-10
    mean, std = data.channel_statistics(splits.train.images)
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.005)
    assert torch.allclose(std, torch.tensor([0.2470, 0.2435, 0.2616]), atol=0.005)


@pytest.fixture
def few_test_images(monkeypatch):
    """Measuring on all 15,000 would take longer than the training."""
    load = data.load

    def load_few(config):
        splits = load(config)
        val, test = (data.subset(part, 500, seed=0) for part in splits[1:])
        return splits._replace(val=val, test=test)

    monkeypatch.setattr(data, "load", load_few)
    for name in ("SHARPNESS_IMAGES", "SHIFT_IMAGES"):
        monkeypatch.setattr(evaluate, name, 100)


@pytest.mark.usefixtures("few_test_images")
def test_sharpbalance_trains_resnet8(root, tmp_path, monkeypatch):
    monkeypatch.setenv("SBTUTOR_PROGRESS", "off")
    experiment = config.Experiment(
        data=config.DataConfig(name="cifar10", root=root, limit=2000),
        model=config.ModelConfig(name="resnet8"),
        train=config.TrainConfig(
            method="sharpbalance",
            epochs=2,
            milestones=(),
            warmup_epochs=1,
            batch_size=100,
            lr=0.05,
            crop=4,
            flip=True,
        ),
    )
    run = train.fit(experiment, tmp_path / "run")
    loss = run.history.groupby("epoch")["loss"].mean()
    assert loss[1] < loss[0] < 2.31  # log(10) = 2.303 is what guessing costs
    assert run.metrics["test_accuracy"] > 0.2
    share = run.sam_masks.float().mean(1)
    assert ((share > 0.5) & (share < 0.75)).all()  # between equal and independent ranks
    finer = dataclasses.replace(experiment.train, batch_size=50)
    with pytest.raises(ValueError, match=r"train\.batch_size=100, this one has 50"):
        train.fit(dataclasses.replace(experiment, train=finer), tmp_path / "run")
