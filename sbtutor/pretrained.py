"""Networks pre-trained on ImageNet, and how the paper fine-tunes them.

Architectures are torchvision's, weights torchvision's own or those of a file.
"""

import socket
from collections import OrderedDict
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from sbtutor import checkpoints, models
from sbtutor.augment import Resize
from sbtutor.config import TrainConfig
from sbtutor.recipe import Recipe

PATIENCE = 20.0  # seconds without a byte, after which a download is given up
NAMES = ("resnet50", "swin_t")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels

_SGD = dict(batch_size=256, schedule="cosine", epochs=25)  # momentum 0.9 is the default
_ADAMW = dict(batch_size=256, schedule="cosine", epochs=102, optimizer="adamw")

# How Sadrtdinov et al. 2023 fine-tune to CIFAR-100, for `transfer.fine_tune`. Cycles of
# SSE and StarSSE take the same, but no warm-up: replace(recipe, warmup_epochs=0). For
# their test results they trained on the validation images, too.
PAPER = {
    # Batches of an epoch are equal but for one image; theirs leave a smaller last one.
    "byol_resnet50": (
        TrainConfig(lr=0.05, weight_decay=1e-4, **_SGD),
        Recipe(augment="resized_crop"),
    ),
    "supervised_resnet50": (
        TrainConfig(lr=0.005, weight_decay=5e-4, **_SGD),
        Recipe(augment="resized_crop"),
    ),
    # bfloat16 instead of float16 with scaled losses. Weights decay all alike; theirs
    # leave biases, LayerNorms and relative positions out. Scaling is bilinear, theirs
    # bicubic. `augment.swin` tells what differs in the augmentation.
    "supervised_swin_t": (
        TrainConfig(lr=1e-4, weight_decay=0.25, bf16=True, **_ADAMW),
        Recipe(
            warmup_epochs=10,  # int(0.1 * 102)
            warmup_lr=5e-7,
            label_smoothing=0.1,
            clip_norm=5.0,
            augment="swin",
        ),
    ),
}


def load(
    name: str,
    path: Path | str | None = None,
    weights: str = "IMAGENET1K_V1",
    head: bool = True,
) -> nn.Module:
    """A network with ImageNet's weights, from images of any size in [0, 1] to logits.

    What it is shown goes through `augment.Resize` and ImageNet's scaling first. Swin-T
    drops paths with probability 0.1. For a target task see `transfer.with_head`.

    BYOL checkpoints are not torchvision's: give their `path`, and `head=False`.

    Args:
        name: "resnet50" or "swin_t".
        path: a checkpoint in torchvision's names, or one of a network of this function;
            None downloads torchvision's.
        weights: which of torchvision's; resnet50 has "IMAGENET1K_V2" too, a checkpoint
            of its own, as a Global DE needs them.
        head: as in `checkpoints.load_weights`.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        ValueError: unknown name or weights; no download; as there.
    """
    if name not in NAMES:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(NAMES)}")
    state = checkpoints.read(Path(path)) if path else _download(name, weights)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)  # of a head that is left alone
        model = for_images(_body(name))
    target = model if "normalize.mean" in state else model.network
    checkpoints.fill(target, state, path or f"torchvision's {weights}", head)
    return model


def for_images(body: nn.Module, size: int = 224) -> nn.Module:
    """A network of scaled ImageNet images of one size, made to take any in [0, 1].

    Its layers are `resize`, `normalize` and `network`; the body is not copied.
    """
    scale = models.Normalize(3)
    scale.set(torch.tensor(MEAN), torch.tensor(STD))
    layers = OrderedDict(resize=Resize(size), normalize=scale, network=body)
    return nn.Sequential(layers).eval()


def _body(name: str) -> nn.Module:
    if name == "resnet50":
        return torchvision.models.resnet50()
    return SwinTransformer(
        patch_size=[4, 4],
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=[7, 7],
        stochastic_depth_prob=0.1,  # the paper's; torchvision's swin_t insists on 0.2
    )


def _download(name: str, weights: str) -> dict[str, Tensor]:
    choices = {each.name: each for each in torchvision.models.get_model_weights(name)}
    if weights not in choices:
        raise ValueError(
            f"{name} has no weights {weights!r}: choose one of {', '.join(choices)}"
        )
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        return choices[weights].get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the {weights} weights of {name} could not be downloaded "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            f"get {choices[weights].url} where there is a network, and write "
            f"load({name!r}, path='...')"
        ) from None
    finally:
        socket.setdefaulttimeout(usual)
