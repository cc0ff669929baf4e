"""Configs refuse nonsense where it is written, and survive JSON."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest

from sbtutor import config
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig


@pytest.mark.parametrize("name", ["smoke", "class", "paper"])
def test_from_dict_inverts_to_dict_through_json(name):
    experiment = config.preset(name)
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == (
        experiment
    )


def test_the_paper_preset_is_the_papers_sharpbalance_on_cifar10():
    """Its settings must stay valid for each method."""
    paper = config.preset("paper")
    for method in ("sgd", "sam", "sharpbalance"):
        train = dataclasses.replace(paper.train, method=method)
        assert (train.epochs, train.warmup_epochs, train.milestones) == (
            *(200, 100),
            (100, 150),
        )
    assert (paper.data.name, paper.model.name) == ("cifar10", "resnet18")


def test_a_run_of_before_dropout_can_still_be_read():
    saved = config.preset("class").to_dict()
    del saved["model"]["dropout"]
    assert Experiment.from_dict(saved) == config.preset("class")


def test_milestones_may_be_a_list_and_root_a_path(tmp_path):
    """What papermill and pathlib hand over compares equal to what JSON gives back."""
    assert TrainConfig(milestones=[3, 5]) == TrainConfig(milestones=(3, 5))
    assert DataConfig(root=tmp_path) == DataConfig(root=str(tmp_path))


def test_configs_cannot_be_changed_after_their_check():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.preset("class").train.rho = -1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config.preset("clas"), "unknown preset 'clas': did you mean 'class'"),
        (lambda: ModelConfig(name="resnt20"), "unknown model 'resnt20': did you mean"),
        (
            lambda: ModelConfig(name="?"),
            r"unknown model '\?': choose one of mlp, lenet",
        ),
        (lambda: ModelConfig(norm="layer"), "unknown norm 'layer'.*batch, group"),
        (
            lambda: ModelConfig(name="resnet8", norm="none"),
            "norm='none' is for small_cnn and medium_cnn, got resnet8; write norm='gr",
        ),
        (lambda: ModelConfig(width=0), "model width must be at least 1 .*got 0"),
        (
            lambda: ModelConfig(dropout=1.0),
            r"dropout must be in \[0, 1\), got 1.0; 0 is",
        ),
        (lambda: ModelConfig(dropout=-0.1), r"dropout must be in \[0, 1\), got -0.1"),
        (lambda: DataConfig(limit=0), "data limit must be at least 1 .*got 0"),
        (lambda: DataConfig(size=-1), "data size must be at least 1 .*got -1"),
    ],
)
def test_data_and_model_errors_name_value_and_remedy(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "sma"}, "unknown method 'sma': did you mean 'sam'"),
        ({"split": "cod"}, "unknown split 'cod': did you mean 'code'"),
        ({"optimizer": "adan"}, "unknown optimizer 'adan': did you mean 'adam'"),
        (
            {"optimizer": "adamww"},
            "'adamww': did you mean 'adamw'.*of sgd, adam, adamw",
        ),
        ({"schedule": "step"}, "unknown schedule 'step'.*multistep, cosine"),
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"lr": 0.0}, "lr must be positive, got 0"),
        ({"lr": float("nan")}, "lr must be a finite number, got nan"),
        ({"lr_decay": -0.1}, "lr_decay must be positive, got -0.1"),
        ({"weight_decay": -1.0}, "weight_decay cannot be negative, got -1"),
        ({"crop": -1}, "crop cannot be negative, got -1"),
        ({"rho": -0.1}, "rho cannot be negative, got -0.1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"milestones": (5, 3)}, r"milestones must be rising epochs.*\(5, 3\)"),
        ({"milestones": (0, 3)}, r"milestones must be rising epochs from 1.*\(0, 3\)"),
        ({"method": "sam", "rho": 0.0}, "got rho=0.0; for rho = 0 write method='sgd'"),
        ({"method": "sharpbalance", "members": 1}, "members >= 2, got members=1"),
        (
            {"method": "sharpbalance", "epochs": 20, "warmup_epochs": 20},
            "warmup_epochs=20 epochs, but training has epochs=20; write 0 <=",
        ),
        (
            {"method": "sharpbalance", "warmup_epochs": -1},
            "warmup_epochs cannot be neg",
        ),
        (
            {"method": "sharpbalance", "sam_fraction": 1.0},
            r"in \(0, 1\), got 1.0; for SAM on all samples write method='sam'",
        ),
        ({"method": "sharpbalance", "sam_fraction": 0.0}, r"in \(0, 1\), got 0.0"),
    ],
)
def test_train_errors_name_value_and_remedy(unchecked, settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_sgd_ignores_what_only_sharpbalance_needs():
    """So that one base config can be varied by method alone."""
    TrainConfig(method="sgd", members=1, rho=0.0, warmup_epochs=999, sam_fraction=1.0)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (TrainConfig, {"members": 2.5}, r"members must be a whole number, got 2.5"),
        (TrainConfig, {"members": True}, "members must be a whole number, got True"),
        (TrainConfig, {"epochs": "3"}, r"epochs must be a whole number, got '3' \(str"),
        (TrainConfig, {"rho": float("inf")}, "rho must be a finite number, got inf"),
        (TrainConfig, {"flip": "no"}, "flip must be True or False, got 'no'"),
        (TrainConfig, {"milestones": 5}, "milestones must be a list of whole numbers"),
        (TrainConfig, {"milestones": (1.5, 2)}, "milestones must be a whole number"),
        (DataConfig, {"limit": "5"}, "limit must be a whole number, got '5'"),
        (DataConfig, {"name": 5}, "name must be a text, got 5"),
        (ModelConfig, {"width": 2.5}, "width must be a whole number, got 2.5"),
    ],
)
def test_values_of_another_kind_are_refused(unchecked, config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_optimizer_survives_json(optimizer):
    experiment = Experiment(train=TrainConfig(optimizer=optimizer))
    saved = json.loads(json.dumps(experiment.to_dict()))
    assert Experiment.from_dict(saved).train.optimizer == optimizer


def test_numbers_become_pythons_own(unchecked):
    """1 and 1.0 are one experiment, and NumPy's numbers can be written as JSON."""
    ours = TrainConfig(rho=1, seed=np.int64(3), lr=np.float32(0.5))
    assert ours == TrainConfig(rho=1.0, seed=3, lr=0.5)
    assert [type(value) for value in (ours.rho, ours.seed, ours.lr)] == [
        float,
        int,
        float,
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """As a study has them."""

    rates: Sequence[float] = ()
    names: Sequence[str] = ()
    limit: float | None = None
    folder: str | None = None

    def __post_init__(self):
        config.make_plain(self)


def test_lists_and_what_may_be_missing_become_plain_too():
    made = Options(rates=[1, np.float32(0.5)], names=["a"], limit=2)
    assert made == Options(rates=(1.0, 0.5), names=("a",), limit=2.0)
    assert [type(value) for value in (*made.rates, made.limit)] == [float] * 3
    assert (Options().limit, Options(folder="C").folder) == (None, "C")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rates": 0.1}, "rates must be a list of finite numbers, got 0.1"),
        ({"rates": [0.1, "x"]}, r"rates must be a finite number, got 'x' \(str\)"),
        ({"names": "abc"}, "names must be a list of texts, got 'abc'"),
        ({"names": [1]}, "names must be a text, got 1"),
        ({"limit": "2"}, "limit must be a finite number, got '2'"),
        ({"folder": 2}, "folder must be a text, got 2"),
    ],
)
def test_wrong_items_of_lists_and_optional_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Options(**settings)
