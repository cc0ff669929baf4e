"""The networks of the four papers, from an MLP to Wide ResNet 28-10."""

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbtutor.config import ModelConfig


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; each layer's own mode comes back."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


class Normalize(nn.Module):
    """Scale images in [0, 1] by the training set's channel mean and deviation.

    The first layer of every model, so that a member can be given any image.
    """

    def __init__(self, channels: int) -> None:
        """Start at mean 0.5 and deviation 0.25; `train.fit` sets the true values."""
        super().__init__()
        self.register_buffer("mean", torch.full((channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((channels, 1, 1), 0.25))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Take these over, one number a channel each."""
        self.mean.copy_(mean[:, None, None])
        self.std.copy_(std[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return (images - self.mean) / self.std


def _norm(channels: int, kind: str) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))), He et al. 2016."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        """A 1x1 convolution carries x where its shape changes."""
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride)
        self.norm1 = _norm(outputs, norm)
        self.conv2 = _conv(outputs, outputs)
        self.norm2 = _norm(outputs, norm)
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _conv(inputs, outputs, stride, kernel=1), _norm(outputs, norm)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), the block of Wide ResNets."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        """Where the shape changes, a 1x1 convolution of relu(norm(x)) replaces x."""
        super().__init__()
        self.norm1 = _norm(inputs, norm)
        self.conv1 = _conv(inputs, outputs, stride)
        self.norm2 = _norm(outputs, norm)
        self.conv2 = _conv(outputs, outputs)
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            self.shortcut = _conv(inputs, outputs, stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        active = F.relu(self.norm1(x))
        inner = F.relu(self.norm2(self.conv1(active)))
        return self.conv2(inner) + (
            x if self.shortcut is None else self.shortcut(active)
        )


Layers = Iterator[tuple[str, nn.Module]]


def _pooled_head(features: int, classes: int) -> Layers:
    yield "pool", nn.AdaptiveAvgPool2d(1)
    yield "flatten", nn.Flatten()
    yield "head", nn.Linear(features, classes)


def _mlp(config: ModelConfig, in_shape: tuple[int, int, int], classes: int) -> Layers:
    width = config.width or 128
    yield "flatten", nn.Flatten()
    yield "hidden1", nn.Linear(math.prod(in_shape), width)
    yield "relu1", nn.ReLU()
    yield "hidden2", nn.Linear(width, width)
    yield "relu2", nn.ReLU()
    yield "head", nn.Linear(width, classes)


def _lenet(config: ModelConfig, in_shape: tuple[int, int, int], classes: int) -> Layers:
    """LeNet-5 with ReLU and max pooling; `width` is the first layer's 6 channels.

    The second convolution is padded like the first, so that small images fit.
    """
    channels, height, side = in_shape
    width = config.width or 6
    second = max(1, width * 16 // 6)
    yield "conv1", nn.Conv2d(channels, width, 5, padding=2)
    yield "relu1", nn.ReLU()
    yield "pool1", nn.MaxPool2d(2)
    yield "conv2", nn.Conv2d(width, second, 5, padding=2)
    yield "relu2", nn.ReLU()
    yield "pool2", nn.MaxPool2d(2)
    yield "flatten", nn.Flatten()
    yield "hidden1", nn.Linear(second * (height // 4) * (side // 4), 120)
    yield "relu3", nn.ReLU()
    yield "hidden2", nn.Linear(120, 84)
    yield "relu4", nn.ReLU()
    yield "head", nn.Linear(84, classes)


def _small_cnn(
    config: ModelConfig, in_shape: tuple[int, int, int], classes: int
) -> Layers:
    """Three 3x3 convolutions with norm layers, global average pooling.

    With norm "none" it is Fort et al.'s SmallCNN instead.
    """
    if config.norm == "none":
        width = config.width or 16
        yield from _plain_cnn((width, 2 * width, 2 * width), in_shape, classes)
        return
    width, inputs = config.width or 8, in_shape[0]
    for stage, outputs in enumerate((width, 2 * width, 4 * width), start=1):
        yield f"conv{stage}", _conv(inputs, outputs)
        yield f"norm{stage}", _norm(outputs, config.norm)
        if stage < 3:  # max and ReLU commute: pooling first leaves ReLU less to do
            yield f"pool{stage}", nn.MaxPool2d(2)
        yield f"relu{stage}", nn.ReLU()
        inputs = outputs
    yield from _pooled_head(inputs, classes)


def _medium_cnn(
    config: ModelConfig, in_shape: tuple[int, int, int], classes: int
) -> Layers:
    """Fort et al.'s MediumCNN."""
    width = config.width or 64
    yield from _plain_cnn((width, 2 * width, 4 * width, 4 * width), in_shape, classes)


def _plain_cnn(
    channels: tuple[int, ...], in_shape: tuple[int, int, int], classes: int
) -> Layers:
    """Fort et al.'s networks: no norm layers, no ReLU after the last convolution."""
    inputs, last = in_shape[0], len(channels)
    for stage, outputs in enumerate(channels, start=1):
        yield f"conv{stage}", nn.Conv2d(inputs, outputs, 3, padding=1)
        yield f"dropout{stage}", nn.Dropout(0.1)
        yield f"pool{stage}", nn.MaxPool2d(2)
        if stage < last:
            yield f"relu{stage}", nn.ReLU()
        inputs = outputs
    yield "flatten", nn.Flatten()
    pixels = (in_shape[1] // 2**last) * (in_shape[2] // 2**last)
    yield "head", nn.Linear(inputs * pixels, classes)


def _start_as_fort(module: nn.Module) -> None:
    """Glorot and Bengio's uniform distribution; of n biases: +- sqrt(6 / (n + n))."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        bound = math.sqrt(3 / len(module.bias))
        nn.init.uniform_(module.bias, -bound, bound)


def _resnet(
    config: ModelConfig,
    in_shape: tuple[int, int, int],
    classes: int,
    blocks: tuple[int, ...],
    width: int,
) -> Layers:
    """He et al.'s ResNet with the CIFAR stem: 3x3, stride 1, no pooling."""
    inputs = config.width or width
    yield "conv", _conv(in_shape[0], inputs)
    yield "norm", _norm(inputs, config.norm)
    yield "relu", nn.ReLU()
    for stage, depth in enumerate(blocks):
        outputs = (config.width or width) * 2**stage
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            yield (
                f"stage{stage + 1}_block{block + 1}",
                BasicBlock(inputs, outputs, stride, config.norm),
            )
            inputs = outputs
    yield from _pooled_head(inputs, classes)


def _wide_resnet(
    config: ModelConfig, in_shape: tuple[int, int, int], classes: int
) -> Layers:
    """Zagoruyko and Komodakis' WRN-28-10: 4 blocks a stage, 160 to 640 channels."""
    inputs = 16
    yield "conv", _conv(in_shape[0], inputs)
    for stage in range(3):
        outputs = (config.width or 160) * 2**stage
        for block in range(4):
            stride = 2 if stage > 0 and block == 0 else 1
            yield (
                f"stage{stage + 1}_block{block + 1}",
                PreActBlock(inputs, outputs, stride, config.norm),
            )
            inputs = outputs
    yield "norm", _norm(inputs, config.norm)
    yield "relu", nn.ReLU()
    yield from _pooled_head(inputs, classes)


def _with_dropout(layers: Layers, rate: float) -> Layers:
    """Dropout in front of each linear layer, but never of the images themselves."""
    has_weights = False
    for name, layer in layers:
        if rate > 0 and has_weights and isinstance(layer, nn.Linear):
            yield f"dropout_{name}", nn.Dropout(rate)
        has_weights = has_weights or any(True for _ in layer.parameters())
        yield name, layer


def _least_side(config: ModelConfig) -> int:
    """Pixels that the model's pooling needs."""
    if config.name == "small_cnn" and config.norm == "none":
        return 8
    return {"lenet": 4, "small_cnn": 4, "medium_cnn": 16}.get(config.name, 1)


def _layers(
    config: ModelConfig, in_shape: tuple[int, int, int], classes: int
) -> Layers:
    match config.name:
        case "mlp":
            return _mlp(config, in_shape, classes)
        case "lenet":
            return _lenet(config, in_shape, classes)
        case "small_cnn":
            return _small_cnn(config, in_shape, classes)
        case "medium_cnn":
            return _medium_cnn(config, in_shape, classes)
        case "resnet8":
            return _resnet(config, in_shape, classes, blocks=(1, 1, 1), width=16)
        case "resnet20":
            return _resnet(config, in_shape, classes, blocks=(3, 3, 3), width=16)
        case "resnet18":
            return _resnet(config, in_shape, classes, blocks=(2, 2, 2, 2), width=64)
        case "wrn28_10":
            return _wide_resnet(config, in_shape, classes)


def build(
    config: ModelConfig, in_shape: tuple[int, int, int], classes: int, seed: int
) -> nn.Module:
    """A fresh network that maps images (B, C, H, W) in [0, 1] to logits (B, classes).

    Convolutions start from He et al.'s normal distribution, linear layers from
    PyTorch's default; Fort et al.'s two networks (medium_cnn, and small_cnn with norm
    "none") from Glorot and Bengio's uniform one, biases too, as in their code. The
    global random state is left as it was. Dropout changes neither the parameters'
    names nor their first values.

    Args:
        config: architecture, width, norm and dropout.
        in_shape: (C, H, W) of one image.
        classes: number of classes.
        seed: the same seed gives the same weights, bit for bit.

    Raises:
        ValueError: images too small for the model's pooling, fewer than two classes.
    """
    side = min(in_shape[1:])
    least = _least_side(config)
    if side < least:
        raise ValueError(
            f"{config.name} pools images down and needs at least {least}x{least} "
            f"pixels, got {in_shape[1]}x{in_shape[2]}; use another model or a larger "
            "DataConfig.size"
        )
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        layers = OrderedDict(normalize=Normalize(in_shape[0]))
        body = _layers(config, in_shape, classes)
        layers.update(_with_dropout(body, config.dropout))
        model = nn.Sequential(layers)
        as_fort = config.name == "medium_cnn" or config.norm == "none"
        for module in model.modules():
            if as_fort:
                _start_as_fort(module)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model
