"""One gradient for all methods: a method is a mask."""

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sbtutor import perturb

Tensors = dict[str, Tensor]


def _batch_norms(member: nn.Module) -> list[nn.Module]:
    kind = nn.modules.batchnorm._BatchNorm  # 1d, 2d, 3d and SyncBatchNorm
    return [m for m in member.modules() if isinstance(m, kind)]


@contextlib.contextmanager
def frozen_statistics(member: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise as usual but leave its running statistics alone."""
    norms = [m for m in _batch_norms(member) if m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _gradient(
    member: nn.Module, params: Tensors, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensors]:
    """Mean cross-entropy at `params`, and its gradient."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    logits = functional_call(member, leaves, (images,))
    loss = F.cross_entropy(logits, labels)
    weights = tuple(leaves.values())
    slopes = torch.autograd.grad(loss, weights, materialize_grads=True)
    return loss.detach(), dict(zip(leaves, slopes, strict=True))


def _sam_gradient(
    member: nn.Module, params: Tensors, images: Tensor, labels: Tensor, rho: float
) -> tuple[Tensor, Tensors]:
    """Loss at w, gradient at w + rho g / ||g||."""
    loss, slope = _gradient(member, params, images, labels)
    if rho == 0:
        return loss, slope
    with frozen_statistics(member):
        above = perturb.along_gradient(params, slope, rho)
        return loss, _gradient(member, above, images, labels)[1]


def _without_lone_samples(
    member: nn.Module, sam_mask: Bool[Tensor, " B"]
) -> Bool[Tensor, " B"]:
    """BatchNorm cannot normalise one sample: it joins the other sub-batch."""
    count = int(sam_mask.sum())
    if count in (0, len(sam_mask)) or count not in (1, len(sam_mask) - 1):
        return sam_mask
    if not any(norm.training for norm in _batch_norms(member)):
        return sam_mask
    return torch.full_like(sam_mask, count > 1)


def loss_and_balanced_gradient(
    member: nn.Module, images: Tensor, labels: Tensor, sam_mask: Tensor, rho: float
) -> tuple[Tensor, Tensors]:
    """`balanced_gradient` without its checks, and the batch's loss at w."""
    params = {n: p.detach() for n, p in member.named_parameters() if p.requires_grad}
    sam_mask = _without_lone_samples(member, sam_mask)
    share = int(sam_mask.sum()) / len(sam_mask)
    if share == 0:
        return _gradient(member, params, images, labels)
    if share == 1:
        return _sam_gradient(member, params, images, labels, rho)
    # With a mask on the CPU, neither this nor the count above waits for the GPU.
    normal, sam = (
        chosen.nonzero().squeeze(1).to(images.device, non_blocking=True)
        for chosen in (~sam_mask, sam_mask)
    )
    loss_n, grad_n = _gradient(member, params, images[normal], labels[normal])
    loss_s, grad_s = _sam_gradient(member, params, images[sam], labels[sam], rho)
    return (1 - share) * loss_n + share * loss_s, {
        name: (1 - share) * grad_n[name] + share * grad_s[name] for name in params
    }


def balanced_gradient(
    member: nn.Module,
    images: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    sam_mask: Bool[Tensor, " B"],
    rho: float,
) -> dict[str, Tensor]:
    """The gradient of one step of SGD, SAM or SharpBalance: a method is a mask.

    With S the samples where `sam_mask` is True, N the others and l the mean loss,

        g = |N|/|B| grad l_N(w) + |S|/|B| grad l_S(w + e),
        e = rho grad l_S(w) / ||grad l_S(w)||_2

    (Lu et al. 2024 and its official code). All False is SGD, all True is SAM.

    BatchNorm normalises N and S separately, as the official code does. Its running
    statistics are updated by the unperturbed passes only. In train mode a
    sub-batch of one sample, which BatchNorm cannot normalise, joins the other one.

    Args:
        member: a network, in the mode in which it shall be called.
        images: float images as the member takes them.
        labels: their classes.
        sam_mask: True where the sample is trained with SAM.
        rho: radius of SAM's step; 0 gives SGD's gradient (of the two sub-batches).

    Returns:
        One tensor a trainable parameter, by name. The weights stay as they are.

    Raises:
        ValueError: rho < 0, an empty batch, or a mask that does not fit the batch.
    """
    if not rho >= 0:
        raise ValueError(f"rho is a distance and cannot be negative, got rho={rho}")
    if len(labels) == 0:
        raise ValueError("a gradient needs at least one sample, got an empty batch")
    if sam_mask.shape != labels.shape or sam_mask.dtype != torch.bool:
        raise ValueError(
            f"sam_mask must be bool with one entry per label, {tuple(labels.shape)}; "
            f"got {sam_mask.dtype} of shape {tuple(sam_mask.shape)}"
        )
    return loss_and_balanced_gradient(member, images, labels, sam_mask, rho)[1]
