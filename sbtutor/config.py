"""What an experiment is: data, model and training, each a frozen dataclass."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

ModelName = Literal[
    "mlp",
    "lenet",
    "small_cnn",
    "medium_cnn",
    "resnet8",
    "resnet20",
    "resnet18",
    "wrn28_10",
]
Norm = Literal["batch", "group", "none"]
Method = Literal["sgd", "sam", "sharpbalance"]
SampleSplit = Literal["paper", "code", "code_boost", "flattest", "random", "shared"]
Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["multistep", "cosine"]


def check(holds: bool, message: str) -> None:
    """Raise ValueError with the message unless it holds."""
    if not holds:
        raise ValueError(message)


def check_choice(what: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is a choice; it names the nearest one."""
    if value in choices:  # a grid asks ten thousands of times
        return
    near = get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"unknown {what} {value!r}: {hint}choose one of {', '.join(choices)}"
    )


WORDS = {  # by type: which values fit, and what to call one and several
    bool: (bool, "True or False", ""),
    int: (Integral, "a whole number", "whole numbers"),
    float: (Real, "a finite number", "finite numbers"),
    str: (str, "a text", "texts"),
}
LARGEST = 2**63 - 1  # of whole numbers, as in tables and random generators
OPTIONAL = {kind | None: kind for kind in WORDS}
LISTS = {Sequence[kind]: kind for kind in (int, float, str)}


def _plain(name: str, value: Any, kind: Any) -> Any:
    """A setting as Python's own bool, int, float or str, so that it survives JSON."""
    if type(value) is kind and (
        kind in (bool, str) or (kind is int and -LARGEST <= value <= LARGEST)
    ):
        return value  # soon done, as ten thousand runs need it
    if kind in OPTIONAL:
        return None if value is None else _plain(name, value, OPTIONAL[kind])
    if kind in LISTS:
        item = LISTS[kind]
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        check(is_list, f"{name} must be a list of {WORDS[item][2]}, got {value!r}")
        return tuple(_plain(name, entry, item) for entry in value)
    if kind not in WORDS:
        return value
    types, words, _ = WORDS[kind]
    fits = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
    if fits and isinstance(value, Integral):  # no number here needs more than 63 bits
        fits = -LARGEST <= value <= LARGEST
    fits = fits and (kind is not float or math.isfinite(value))
    told = f"{value!r:.40} ({type(value).__name__})"
    check(fits, f"{name} must be {words}, got {told}")
    return kind(value)


def make_plain(config: Any) -> None:
    """Turn a frozen dataclass's settings into plain bool, int, float, str or tuple.

    Call it in `__post_init__`. Raises ValueError where a value does not fit the type
    of its field; types other than these, and lists of them or None, are left alone.
    """
    for setting in dataclasses.fields(config):
        given = getattr(config, setting.name)
        value = _plain(setting.name, given, setting.type)
        if value is not given:
            object.__setattr__(config, setting.name, value)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, how many, how large."""

    name: str = "fashion-mini"  # a built-in set, or a name given to import_images
    limit: int | None = None  # keep this many training images, class-balanced
    size: int | None = None  # average-pool or resize to size x size pixels
    root: str | Path | None = None  # of the data; None: $SBTUTOR_DATA or the cache
    seed: int = 0  # which images `limit` and the validation cut take

    def __post_init__(self) -> None:
        make_plain(self)
        for what, value in (("limit", self.limit), ("size", self.size)):
            check(
                value is None or value >= 1,
                f"data {what} must be at least 1 or None (all), got {value}",
            )
        if self.root is not None:  # a Path is welcome, but JSON knows only strings
            object.__setattr__(self, "root", str(self.root))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, how wide, with which normalisation."""

    name: ModelName = "small_cnn"
    width: int | None = None  # channels (or hidden units) of the first stage
    norm: Norm = "batch"  # no effect on mlp, lenet, medium_cnn: no norm layers there;
    # "none" turns small_cnn into the SmallCNN of Fort et al.
    dropout: float = 0.0  # rate before each linear layer but a first one; 0: none

    def __post_init__(self) -> None:
        make_plain(self)
        check_choice("model", self.name, get_args(ModelName))
        check_choice("norm", self.norm, get_args(Norm))
        check(
            self.norm != "none" or self.name in ("small_cnn", "medium_cnn"),
            f"norm='none' is for small_cnn and medium_cnn, got {self.name}; "
            "write norm='group' for statistics that do not depend on the batch",
        )
        check(
            self.width is None or self.width >= 1,
            f"model width must be at least 1 or None (the usual), got {self.width}",
        )
        check(
            0 <= self.dropout < 1,
            f"model dropout must be in [0, 1), got {self.dropout}; 0 is no dropout",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How an ensemble is trained; the defaults are the `class` preset's."""

    method: Method = "sgd"
    members: int = 3  # M; member m draws everything from seed + m
    epochs: int = 30
    batch_size: int = 100
    optimizer: Optimizer = "sgd"  # what takes the step, whatever the method
    lr: float = 0.1
    momentum: float = 0.9  # Adam's and AdamW's first beta, too
    weight_decay: float = 5e-4  # in the SGD step only, never in SAM's gradient
    schedule: Schedule = "multistep"
    milestones: Sequence[int] = (15, 22)  # epochs after which lr *= lr_decay
    lr_decay: float = 0.1
    crop: int = 0  # pixels of zero padding for random crops; 0: no crops
    flip: bool = False  # random horizontal flips
    rho: float = 0.1  # radius of SAM's step in weight space
    sam_fraction: float = 0.5  # k: share of samples each member nominates for SAM
    warmup_epochs: int = 15  # T_d: epochs of plain SAM before SharpBalance splits
    split: SampleSplit = "paper"  # which samples SharpBalance gives to SAM
    snapshots: bool = False  # keep the weights after each epoch, as float16
    seed: int = 0
    device: str = "auto"  # "auto" (GPU if there is one), "cpu", "cuda", "cuda:1", "mps"
    bf16: bool = False  # bfloat16 autocast, for GPUs
    compile: bool = False  # torch.compile the members' forward pass

    def __post_init__(self) -> None:
        make_plain(self)
        check_choice("method", self.method, get_args(Method))
        check_choice("split", self.split, get_args(SampleSplit))
        check_choice("optimizer", self.optimizer, get_args(Optimizer))
        check_choice("schedule", self.schedule, get_args(Schedule))
        self._check_numbers()
        if self.method != "sgd":
            check(
                self.rho > 0,
                f"{self.method} steps a distance rho > 0 uphill, got rho={self.rho}; "
                "for rho = 0 write method='sgd'",
            )
        if self.method == "sharpbalance":
            self._check_sharpbalance()

    def _check_numbers(self) -> None:
        for name, least in (("members", 1), ("epochs", 1), ("batch_size", 2)):
            value = getattr(self, name)
            check(value >= least, f"{name} must be at least {least}, got {value}")
        for name in ("lr", "lr_decay"):
            value = getattr(self, name)
            check(value > 0, f"{name} must be positive, got {value}")
        for name in ("weight_decay", "crop", "rho", "warmup_epochs"):
            value = getattr(self, name)
            check(value >= 0, f"{name} cannot be negative, got {value}")
        check(
            0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}"
        )
        check(
            all(a < b for a, b in zip((0, *self.milestones), self.milestones)),
            f"milestones must be rising epochs from 1 on, got {self.milestones}",
        )

    def _check_sharpbalance(self) -> None:
        check(
            self.members >= 2,
            "sharpbalance picks each member's SAM samples from the *other* members, "
            f"so it needs members >= 2, got members={self.members}",
        )
        check(
            0 <= self.warmup_epochs < self.epochs,
            f"the split is made after warmup_epochs={self.warmup_epochs} epochs, but "
            f"training has epochs={self.epochs}; write 0 <= warmup_epochs < epochs",
        )
        check(
            0 < self.sam_fraction < 1,
            f"sam_fraction must lie in (0, 1), got {self.sam_fraction}; "
            "for SAM on all samples write method='sam', for none method='sgd'",
        )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One ensemble: its data, its members' architecture, its training."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain dicts, ready for JSON; `from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, dict[str, Any]]) -> "Experiment":
        """The experiment that `to_dict` wrote."""
        return cls(
            data=DataConfig(**saved["data"]),
            model=ModelConfig(**saved["model"]),
            train=TrainConfig(**saved["train"]),
        )


PRESETS = {
    "smoke": Experiment(  # seconds, for CI
        data=DataConfig(name="digits", limit=400),
        model=ModelConfig(name="small_cnn", width=8),
        train=TrainConfig(epochs=4, batch_size=50, milestones=(3,), warmup_epochs=2),
    ),
    "class": Experiment(  # real images on a laptop's CPU
        data=DataConfig(name="fashion-mini", size=14),
        model=ModelConfig(name="small_cnn", width=8),
    ),
    "paper": Experiment(  # Lu et al. 2024, on a GPU
        data=DataConfig(name="cifar10"),
        model=ModelConfig(name="resnet18"),
        train=TrainConfig(
            epochs=200,
            batch_size=128,
            milestones=(100, 150),
            crop=4,
            flip=True,
            rho=0.2,
            warmup_epochs=100,
            bf16=True,
            compile=True,
        ),
    ),
}


def preset(name: str) -> Experiment:
    """The experiment named "smoke", "class" or "paper".

    Vary it with `dataclasses.replace`. Raises ValueError for another name.
    """
    check_choice("preset", name, tuple(PRESETS))
    return PRESETS[name]
