"""Whether a network can read images, told before it is trained on them."""

import torch
from torch import nn

from sbtutor import data, models
from sbtutor.recipe import Recipe


@torch.no_grad()
def check_fits(model: nn.Module, split: data.Split, how: Recipe | None = None) -> None:
    """Refuse images that the network cannot read, or that have other classes than it.

    With a recipe that augments, images of its size are tried as well.

    Raises:
        ValueError: names the layer at which one image fails; classes of another
            number; no images; a network without weights; augmented images that the
            network would scale again.
    """
    if len(split.labels) == 0:
        raise ValueError("there are no images to train on; give at least one")
    if not any(True for _ in model.parameters()):
        raise ValueError(
            f"a {type(model).__name__} has no weights to train; give another network"
        )
    shown, remedy = [data.to_float(split.images[:1])], "pre-train on images like these"
    if how and how.augment:
        remedy += ", or write another Recipe(size=...)"
        shown.append(torch.zeros(1, split.images.shape[1], how.size, how.size))
        _check_scaled_once(model, how)
    in_shape, entered = tuple(split.images.shape[1:]), ["the network"]
    for name, buffer in model.named_buffers():
        if name == "normalize.mean" and len(buffer) != in_shape[0]:
            raise ValueError(
                f"normalize.mean scales images of {len(buffer)} channels, got images "
                f"of {in_shape[0]}; pre-train on images like these"
            )
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
        for name, layer in model.named_modules()
        if not list(layer.children())
    ]
    try:
        with models.evaluating(model):
            for image in shown:
                in_shape = tuple(image.shape[1:])
                classes = model(image.to(next(model.parameters()))).shape[-1]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{entered[-1]} cannot read images of shape {in_shape}: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}; {remedy}"
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
    if classes != len(split.classes):
        raise ValueError(
            f"the network's last layer tells {classes} classes apart, the images have "
            f"{len(split.classes)}; give it a new head: transfer.with_head"
        )


def _check_scaled_once(model: nn.Module, how: Recipe) -> None:
    from sbtutor import augment  # torchvision takes a process over a second to import

    for layer in model.modules():
        if isinstance(layer, augment.Resize) and layer.size != how.size:
            raise ValueError(
                f"the network makes images {layer.size}x{layer.size} itself, so that "
                f"augmented ones of {how.size}x{how.size} would be scaled twice; write "
                f"Recipe(size={layer.size})"
            )
