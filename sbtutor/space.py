"""Which hyperparameters a network has, and the range of each."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor import loguniform

Settings = dict[str, float]  # a hyperparameter's name to its value
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Ranges of the three kinds of hyperparameter; each is searched log-uniformly.

    The defaults are those of Wenzel et al. 2020 for their MLP and LeNet.
    """

    l2: tuple[float, float] = (1e-3, 1e3)  # lambda; the penalty is lambda / N ||w||^2
    dropout: tuple[float, float] = (1e-3, 0.9)  # probability to drop a unit
    label_smoothing: tuple[float, float] = (1e-5, 0.2)  # share spread over all classes

    def __post_init__(self) -> None:
        """Refuse ranges that are reversed, or that no such hyperparameter can have."""
        for field in dataclasses.fields(self):
            low, high = getattr(self, field.name)
            if not (0 < low < high and math.isfinite(high)):
                raise ValueError(
                    f"the range of {field.name} must be (low, high) with 0 < low < "
                    f"high, as it is searched on a log scale; got ({low:g}, {high:g})"
                )
            if field.name != "l2" and high >= 1:
                raise ValueError(
                    f"{field.name} is a share and must stay below 1, got the range "
                    f"({low:g}, {high:g})"
                )

    def range_of(self, name: str) -> tuple[float, float]:
        """The range of a hyperparameter such as l2_head or dropout."""
        return getattr(self, "l2" if name.startswith("l2_") else name)

    def limits(self, names: Sequence[str]) -> Float[Tensor, "2 H"]:
        """Logarithms of the least and of the largest value of each hyperparameter."""
        return self._limits(names).float()

    def _limits(self, names: Sequence[str]) -> Float[Tensor, "2 H"]:
        ranges = [self.range_of(name) for name in names]
        return torch.tensor(ranges, dtype=torch.float64).log().T

    def draw(self, names: Sequence[str], generator: torch.Generator) -> Settings:
        """One log-uniform setting."""
        low, high = self._limits(names)
        u = torch.rand(len(names), generator=generator, dtype=torch.float64)
        values = loguniform.sample(low, high, u).exp()
        return dict(zip(names, values.tolist(), strict=True))


def groups(model: nn.Module) -> dict[str, list[str]]:
    """Names of the parameters that share one L2 strength, by the group's name.

    A group is one of the network's top layers with all that it holds: in the networks
    of `models` a linear or convolutional layer with its bias, or all blocks of one
    stage of a residual network. Wenzel et al. 2020 group them so, too, but for the last
    layer, whose bias is a group of its own there. Norm layers have no L2 here (there: a
    fixed one).

    Raises:
        ValueError: a layer with parameters that is neither linear, nor convolutional,
            nor a norm layer.
    """
    found: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if not own or isinstance(module, NORMS):
            continue
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise ValueError(
                f"layer {path or 'the model'} is a {type(module).__name__}: only "
                "Linear, Conv2d and norm layers have their place in a hyperparameter "
                "ensemble; build the model from these"
            )
        group = path.partition(".")[0].partition("_block")[0]
        start = f"{path}." if path else ""  # "": the model is this one layer
        found.setdefault(group or "model", []).extend(start + name for name in own)
    return found


def names(model: nn.Module) -> tuple[str, ...]:
    """The model's hyperparameters: l2_GROUP of each group, dropout, label_smoothing.

    Dropout is one of them if the model has dropout layers
    (`ModelConfig(dropout=...)`); all share one rate.
    """
    has_dropout = any(isinstance(module, nn.Dropout) for module in model.modules())
    return (
        *(f"l2_{group}" for group in groups(model)),
        *(["dropout"] if has_dropout else []),
        "label_smoothing",
    )
