"""Per-sample Fisher traces without the per-sample gradients of the whole network.

One backward pass meets every layer's input a and the gradient g of its output. Those
two give the layer's part of each sample's squared gradient norm.
"""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from sbtutor import models, perturb
from sbtutor.vector import Params

Squares = Float[Tensor, " B"]
Known = Callable[[nn.Module, Tensor, Tensor], Squares]


def fisher_trace(
    model: nn.Module,
    images: Float[Tensor, "N ..."],
    labels: Int[Tensor, " N"],
    batch_size: int = 32,
) -> Float[Tensor, " N"]:
    """Each sample's trace of the empirical Fisher matrix.

        s_n = || gradient of cross-entropy(f_w(x_n), y_n) ||_2^2

    over all parameters, at the true label, in eval mode. SharpBalance's per-sample
    sharpness (Lu et al. 2024); its mean over n is the trace of the mean Fisher matrix.
    Linear and convolutional layers, their biases and the affine parameters of norm
    layers are done layer by layer in one backward pass; all else, and what the model
    uses twice, by `torch.func`. The first axis of what a layer meets must be the
    samples'.

    Args:
        model: a network; its train/eval mode is restored afterwards.
        images: float images as the model takes them, not augmented.
        labels: their classes.
        batch_size: samples at once; changes memory and speed only.

    Returns:
        One number >= 0 a sample, in the unit of loss^2 / weight^2.

    Raises:
        ValueError: a BatchNorm layer without running statistics, in whose eval mode
            samples depend on each other; a model without parameters, whose output does
            not depend on them, is not (N, C), or is not that of the single sample (the
            largest trace is taken again, alone); not as many labels as images, none at
            all; batch_size < 1.
    """
    _check(model, len(images), len(labels), batch_size)
    with models.evaluating(model):
        parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        traces = torch.cat([_of_batch(model, x, y) for x, y in parts])
        _check_alone(model, images, labels, traces)
    return traces


def _check_alone(
    model: nn.Module, images: Tensor, labels: Tensor, traces: Tensor
) -> None:
    """Take one trace the plain way: are samples independent, and outputs repeatable?"""
    at = int(traces.argmax())
    params = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
    with torch.enable_grad():
        logits = functional_call(model, params, (images[at : at + 1],))
        loss = F.cross_entropy(logits, labels[at : at + 1])
    slopes = torch.autograd.grad(loss, tuple(params.values()), allow_unused=True)
    alone = sum(s.square().sum() for s in slopes if s is not None)
    both = torch.stack([alone.to(traces), traces[at]])
    tolerance = torch.finfo(traces.dtype).eps ** 0.25  # rounding apart
    if both.isfinite().all() and both.max() - both.min() > tolerance * both.max():
        raise ValueError(
            f"sample {at} has the trace {float(both[1]):.4g} in its batch and "
            f"{float(both[0]):.4g} alone: the model mixes samples, is random in eval "
            "mode (F.dropout without training=self.training?) or runs under autocast; "
            "a sample needs an output of its own"
        )


def _check(model: nn.Module, images: int, labels: int, batch_size: int) -> None:
    if images != labels or images == 0:
        raise ValueError(
            f"each image needs its label, and at least one is needed, got {images} "
            f"images and {labels} labels"
        )
    if batch_size < 1:
        raise ValueError(
            f"a batch holds at least 1 sample, got batch_size={batch_size}"
        )
    if not any(True for _ in model.parameters()):
        raise ValueError(
            "the model has no parameters, so there is no gradient to take the norm of"
        )
    for name, module in model.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and module.running_mean is None:
            raise ValueError(
                f"{name or 'the model'} is a BatchNorm without running statistics: "
                "even in eval mode each sample's output depends on its batch, so a "
                "sample has no gradient of its own; build it with "
                "track_running_stats=True, or use GroupNorm"
            )


def _of_batch(model: nn.Module, images: Tensor, labels: Tensor) -> Squares:
    params = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
    total = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    seen: dict[nn.Module, Squares] = {}
    with torch.enable_grad(), _listening(model, len(images), seen) as first:
        logits = functional_call(model, params, (images.detach(),))
        _check_logits(logits)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        if first:  # backward to there passes every layer that comes after
            torch.autograd.grad(loss, first, allow_unused=True)
    uses = _uses(loss)
    unknown = dict(params)
    for name, module in model.named_modules():
        own = dict(module.named_parameters(name, recurse=False))
        # Not once: two calls, a weight that modules share, or that is used elsewhere.
        once = all(n in params and uses[id(params[n])] == 1 for n in own)
        if module in seen and once:
            total = total + seen[module]
            for n in own:
                del unknown[n]
    if unknown:
        total = total + _by_vmap(model, params, unknown, images, labels)
    return total


def _check_logits(logits: Tensor) -> None:
    if logits.dim() != 2:
        raise ValueError(
            "fisher_trace is for classifiers with logits (N, C), got shape "
            f"{tuple(logits.shape)}"
        )
    if not logits.requires_grad:
        raise ValueError(
            "the model's output does not depend on its parameters (is its forward "
            "under torch.no_grad()?), so there is no gradient"
        )


@contextlib.contextmanager
def _listening(
    model: nn.Module, count: int, seen: dict[nn.Module, Squares]
) -> Iterator[list[Tensor]]:
    """Let each known layer put its part of the squared norms into `seen`.

    Yields a list that will hold the output of the first known layer.
    """
    first: list[Tensor] = []

    def after_forward(module: nn.Module, args: tuple, output: Tensor) -> None:
        def on_gradient(g: Tensor) -> None:
            with torch.no_grad():
                seen[module] = _KNOWN[type(module)](module, args[0].detach(), g)

        # Else the first axis is not the samples', or there is nothing to meet.
        if args and len(output) == count and output.requires_grad:
            output.register_hook(on_gradient)
            first.extend([output] * (not first))

    # In front of the user's own hooks, which may change the output.
    handles = [
        module.register_forward_hook(after_forward, prepend=True)
        for module in model.modules()
        if _is_known(module)
    ]
    try:
        yield first
    finally:
        for handle in handles:
            handle.remove()


def _uses(loss: Tensor) -> Counter[int]:
    """How often each parameter, by its id, enters the computation of the loss."""
    counts: Counter[int] = Counter()
    met, waiting = {loss.grad_fn}, [loss.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if hasattr(node, "variable"):
                counts[id(node.variable)] += 1
            elif node is not None and node not in met:
                met.add(node)
                waiting.append(node)
    return counts


def _by_vmap(
    model: nn.Module, params: Params, wanted: Params, images: Tensor, labels: Tensor
) -> Squares:
    """Squared norms of per-sample gradients by the wanted parameters alone."""
    constant = {n: p.detach() for n, p in params.items() if n not in wanted}

    def sample_loss(wanted: Params, image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, constant | wanted, (image[None],))
        return F.cross_entropy(logits, label[None])

    wanted = {n: p.detach() for n, p in wanted.items()}
    with warnings.catch_warnings():
        # A lone sample makes vmap loop over one layer: slower, and no news to the user.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        slopes = vmap(grad(sample_loss), in_dims=(None, 0, 0))(wanted, images, labels)
    return perturb.norm(slopes, lead=1).square()


def _squares(t: Float[Tensor, "B ..."]) -> Squares:
    return t.flatten(1).square().sum(1)


def _product_squares(a: Float[Tensor, "B L D"], g: Float[Tensor, "B L C"]) -> Squares:
    """|| sum_l a_l g_l' ||_F^2, by the matrix itself or by Gram matrices.

    The second way, sum_{l, l'} (a_l' a_l') (g_l' g_l'), is cheaper when there are few
    positions l and many channels.
    """
    length, d, c = a.shape[1], a.shape[2], g.shape[2]
    if length == 1:
        return _squares(a) * _squares(g)
    if length * (d + c) < d * c:
        return ((a @ a.mT) * (g @ g.mT)).sum((1, 2))
    return _squares(a.mT @ g)


def _linear(layer: nn.Linear, a: Tensor, g: Tensor) -> Squares:
    a = a.reshape(len(a), -1, layer.in_features)
    g = g.reshape(len(g), -1, layer.out_features)
    squares = _product_squares(a, g)
    return squares if layer.bias is None else squares + _squares(g.sum(1))


def _conv(layer: nn.Conv2d, a: Tensor, g: Tensor) -> Squares:
    (c, d), (height, width) = layer.weight.shape[:2], g.shape[2:]
    (rows, columns), length = layer.kernel_size, height * width
    pixels = (a.shape[2] + 2 * layer.padding[0]) * (a.shape[3] + 2 * layer.padding[1])
    gram, direct = pixels**2 * d + length**2 * c, rows * columns * length * d * c
    if 2 * gram < direct:  # measured: such products run at half the speed
        squares = _conv_by_gram(layer, a, g)
    elif d <= 3:  # images
        squares = _conv_by_patches(layer, a, g)
    else:
        squares = _conv_by_groups(layer, a, g)
    return squares if layer.bias is None else squares + _squares(g.sum((2, 3)))


def _conv_by_patches(layer: nn.Conv2d, a: Tensor, g: Tensor) -> Squares:
    """A linear layer on the patches that the kernel meets."""
    a = F.pad(a, [pad for side in reversed(layer.padding) for pad in (side, side)])
    patches = [a[:, :, y, x].flatten(2) for y, x in _shifts(layer, *g.shape[2:])]
    return _squares(torch.cat(patches, 1) @ g.flatten(2).mT)


def _conv_by_groups(layer: nn.Conv2d, a: Tensor, g: Tensor) -> Squares:
    """Each sample's gradient of this one layer, as a convolution with B groups."""
    count, c, d = len(a), *layer.weight.shape[:2]
    slopes = torch.nn.grad.conv2d_weight(
        a.reshape(1, count * d, *a.shape[2:]),
        (count * c, d, *layer.kernel_size),
        g.reshape(1, count * c, *g.shape[2:]),
        layer.stride,
        layer.padding,
        layer.dilation,
        groups=count,
    )
    return _squares(slopes.view(count, -1))


def _conv_by_gram(layer: nn.Conv2d, a: Tensor, g: Tensor) -> Squares:
    """sum_{l, l'} (sum_t a_{l+t}' a_{l'+t}) (g_l' g_l') over kernel entries t.

    All products of two pixels are taken once; each t meets a shifted part of them.
    """
    a = F.pad(a, [pad for side in reversed(layer.padding) for pad in (side, side)])
    height, width = a.shape[2:]
    a, count = a.flatten(2), len(a)
    products = (a.mT @ a).view(count, height, width, height, width)
    rows, columns = g.shape[2:]
    met = torch.zeros(
        count, rows, columns, rows, columns, dtype=a.dtype, device=a.device
    )
    for y, x in _shifts(layer, rows, columns):
        met += products[:, y, x, y, x]
    g = g.flatten(2)
    return (met.view(count, rows * columns, -1) * (g.mT @ g)).sum((1, 2))


def _shifts(layer: nn.Conv2d, height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """For each kernel entry the padded pixels that the outputs meet it at."""
    down, right = layer.stride
    for i in range(layer.kernel_size[0]):
        for j in range(layer.kernel_size[1]):
            y, x = i * layer.dilation[0], j * layer.dilation[1]
            yield (
                slice(y, y + down * (height - 1) + 1, down),
                slice(x, x + right * (width - 1) + 1, right),
            )


def _batch_norm(layer: nn.BatchNorm2d, a: Tensor, g: Tensor) -> Squares:
    """In eval mode: weight * (a - mean) / deviation + bias."""
    by_bias = g.sum((2, 3))
    centred = (a * g).sum((2, 3)) - layer.running_mean * by_bias
    deviation = (layer.running_var + layer.eps).sqrt()
    return _squares(centred / deviation) + _squares(by_bias)


def _group_norm(layer: nn.GroupNorm, a: Tensor, g: Tensor) -> Squares:
    """weight * b + bias, b the normalised input; any number of axes."""
    b = F.group_norm(a, layer.num_groups, eps=layer.eps)
    b, g = (t.reshape(*t.shape[:2], -1) for t in (b, g))
    return _squares((b * g).sum(2)) + _squares(g.sum(2))


_KNOWN: dict[type[nn.Module], Known] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
}


def _is_known(module: nn.Module) -> bool:
    if type(module) not in _KNOWN:  # a subclass may do anything
        return False
    own = {name for name, _ in module.named_parameters(recurse=False)}
    if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        return own == {"weight", "bias"}
    # Not one whose weight is made of other parameters, as torch's prune does.
    if own != ({"weight"} if module.bias is None else {"weight", "bias"}):
        return False
    if isinstance(module, nn.Conv2d):
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and module.groups == 1
    return True
