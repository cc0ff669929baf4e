"""Weights from files that other code has written."""

from pathlib import Path

import torch
from torch import Tensor, nn

WRAPPINGS = ("state_dict", "model", "model_state", "weights")  # of a state dict


def load_weights(model: nn.Module, path: Path | str, head: bool = True) -> None:
    """Give a model the weights and buffers of a file.

    The file holds a state dict, bare or under "state_dict", "model", "model_state" or
    "weights", maybe of a model in DataParallel. No other code of it is run.

    Args:
        model: takes them over, in its own precision and on its device.
        path: written by `torch.save`.
        head: False leaves the last linear layer as it is, whatever the file has there.

    Raises:
        ValueError: no such file; no state dict in it; a tensor that is missing, has
            another shape or no place in the model (names the first).
    """
    fill(model, read(Path(path)), path, head)


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, without wrappings; errors as in `load_weights`."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; write path=... of a checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch stumbles over other files in a dozen ways
        raise ValueError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}); where "
            "its model is at home, write torch.save(model.state_dict(), path)"
        ) from None
    for key in WRAPPINGS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    items = state.items() if isinstance(state, dict) else ()
    if not items or not all(
        isinstance(k, str) and isinstance(t, Tensor) for k, t in items
    ):
        raise ValueError(
            f"{path} holds no state dict, which goes from names to tensors; write "
            "torch.save(model.state_dict(), path)"
        )
    parallel = all(k.startswith("module.") for k in state)
    return {k.removeprefix("module.") if parallel else k: t for k, t in items}


def fill(
    model: nn.Module, state: dict[str, Tensor], source: Path | str, head: bool
) -> None:
    """Give a model the weights of a state dict; errors name its source."""
    linear = [k for k, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    kept = () if head else tuple(f"{k}." for k in linear[-1:])
    own = {k: t for k, t in model.state_dict().items() if not k.startswith(kept)}
    state = {k: t for k, t in state.items() if not k.startswith(kept)}
    remedy = "take one of this architecture, or head=False if only the head differs"
    for name, tensor in own.items():
        if name not in state:
            # BatchNorm's count of batches; older checkpoints do without.
            if not name.endswith("num_batches_tracked"):
                raise ValueError(f"{source} has no {name}; {remedy}")
        elif state[name].shape != tensor.shape:
            raise ValueError(
                f"{source} does not fit: {name} is {tuple(state[name].shape)} there, "
                f"{tuple(tensor.shape)} in the network; {remedy}"
            )
    if state.keys() - own.keys():
        extra = next(name for name in state if name not in own)
        raise ValueError(f"the network has no {extra}, as {source} has; {remedy}")
    model.load_state_dict(state, strict=False)
