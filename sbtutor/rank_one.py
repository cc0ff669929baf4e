"""Layers of M members in one: shared weights, and rank-1 factors for each member.

Member k's weights are W * (s_k r_k^T), with * elementwise (BatchEnsemble, Wen et al.
2020). In a hyper layer (Wenzel et al. 2020) they also answer to hyperparameters lambda,
which each example brings along:

    W_k(lambda) = W * (s_k r_k^T) + [D * (v_k u_k^T)] * e(lambda)
    b_k(lambda) = b_k + d_k * e'(lambda)

e and e' are linear in log lambda: one number for each output, or output channel. Rows
of W are outputs here, as in PyTorch; the paper writes the transpose.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_STD = 1e-4  # so that at first the weights hardly answer to lambda


class RankOne(nn.Module):
    """A weight shared by M members, and two vectors a member: W * (s_k r_k^T)."""

    def __init__(
        self, weight: Tensor, members: int, std: float, generator: torch.Generator
    ) -> None:
        """Start from `weight` (outputs, inputs, ...); factors are normal around 1."""
        super().__init__()
        outputs, inputs = weight.shape[:2]
        self.weight = nn.Parameter(weight.detach().clone())
        self.r = nn.Parameter(1 + std * _normal(weight, (members, inputs), generator))
        self.s = nn.Parameter(1 + std * _normal(weight, (members, outputs), generator))

    def weights(self) -> Tensor:
        """The weights of all members (M, outputs, inputs, ...)."""
        outer = self.s[:, :, None] * self.r[:, None]
        return self.weight * outer.view(*outer.shape, *[1] * (self.weight.dim() - 2))

    def forward(self, x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
        """What `layer` does without bias, for a batch of M * B examples, member-major.

        A linear layer scales its inputs and outputs, [(x * r_k) W^T] * s_k: nobody's
        weights are ever made. A convolution's weights are far smaller than what it
        reads and writes, so there it is quicker to make them.
        """
        if isinstance(layer, nn.Linear):
            r, s = (_along(each(rows, x), x, layer) for rows in (self.r, self.s))
            return (x * r) @ self.weight.T * s
        how = (layer.stride, layer.padding, layer.dilation)
        parts = zip(x.chunk(len(self.r)), self.weights(), strict=True)
        return torch.cat([F.conv2d(own, weight, None, *how) for own, weight in parts])


def _normal(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)


def each(rows: Tensor, x: Tensor) -> Tensor:
    """A member's row for each of its examples: (M, d) to (M * B, d)."""
    return rows.repeat_interleave(len(x) // len(rows), 0)


def _along(rows: Tensor, x: Tensor, layer: nn.Module) -> Tensor:
    """(n, d), to be multiplied with or added to what goes in or out of a layer.

    That is x (n, ..., d) for a linear layer, x (n, d, ...) for a convolution.
    """
    ones = [1] * (x.dim() - 2)
    last = isinstance(layer, nn.Linear)
    return rows.view(len(rows), *ones, -1) if last else rows.view(*rows.shape, *ones)


def _inner(a: RankOne, b: RankOne, scale: Float[Tensor, "M outputs"]) -> Tensor:
    """Sum over members and all entries of A_k * B_k * scale, the latter by output."""
    both = (a.weight * b.weight).reshape(*a.weight.shape[:2], -1).sum(2)
    return ((a.s * b.s * scale) @ both * (a.r * b.r)).sum()


class BatchLayer(nn.Module):
    """A linear or convolutional layer of M members."""

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, members: int, std: float,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        """Take W and b over from `layer`; all members start with the same b."""
        super().__init__()
        self.like = copy.deepcopy(layer)  # knows stride and padding
        self.like.weight = self.like.bias = None
        self.own = RankOne(layer.weight, members, std, generator)
        self.bias = None
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().repeat(members, 1))

    def forward(self, x: Tensor) -> Tensor:
        """What the layer did, for a batch of M * B examples, member-major."""
        out = self.own(x, self.like)
        if self.bias is None:
            return out
        return out + _along(each(self.bias, x), out, self.like)

    def penalty(self, strength: Float[Tensor, "M B"]) -> Float[Tensor, ""]:
        """Mean over members and examples of strength * (||W_k||^2 + ||b_k||^2).

        Of the members' own weights; published batch ensembles penalise W alone.
        """
        mean = strength.mean(1)[:, None]
        total = _inner(self.own, self.own, mean.expand_as(self.own.s))
        if self.bias is not None:
            total = total + (self.bias.square() * mean).sum()
        return total / len(mean)

    def plain(self, k: int) -> nn.Module:
        """Member k as an ordinary layer."""
        bias = None if self.bias is None else self.bias[k]
        return self._plain(self.own.weights()[k], bias)

    def _plain(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        layer = copy.deepcopy(self.like)
        layer.weight = nn.Parameter(weight.detach().clone())
        layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        return layer


class Given:
    """The hyperparameters of the pass under way; an ensemble's layers share it."""

    unit: Tensor | None = None  # (n, H), log scale mapped to [0, 1]
    rate: Tensor | None = None  # (n,), of dropout


class HyperLayer(BatchLayer):
    """A `BatchLayer` whose weights answer to the hyperparameters `given`."""

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, members: int, std: float,
        generator: torch.Generator, given: Given, hypers: int, tied: bool,
    ) -> None:  # fmt: skip
        """D is drawn as widely as W; d starts at 1 (at 0 in the published code).

        Args:
            layer: as in `BatchLayer`, like `members`, `std` and `generator`.
            given: where the pass's hyperparameters will stand.
            hypers: H, their number.
            tied: u = r and v = s, as in the paper's residual networks.
        """
        super().__init__(layer, members, std, generator)
        weight, self.given = layer.weight.detach(), given
        spread = weight.square().mean().sqrt()
        delta = spread * _normal(weight, weight.shape, generator)
        self.response = RankOne(delta, members, std, generator)
        if tied:
            self.response.r, self.response.s = self.own.r, self.own.s
        rows = len(weight) * (1 if self.bias is None else 2)
        embed = EMBEDDING_STD * _normal(weight, (rows, hypers), generator)
        self.embed = nn.Parameter(embed)
        if self.bias is not None:
            self.bias_delta = nn.Parameter(torch.ones_like(self.bias))

    def _embedded(self, unit: Tensor) -> tuple[Tensor, Tensor | None]:
        """e and, if there is a bias, e', each (n, outputs)."""
        e = unit @ self.embed.T
        return (e, None) if self.bias is None else tuple(e.chunk(2, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """As `BatchLayer`, and each example with its own hyperparameters."""
        out, more = super().forward(x), self.response(x, self.like)
        e, e_bias = self._embedded(self.given.unit)
        out = out + more * _along(e, out, self.like)
        if e_bias is None:
            return out
        return out + _along(each(self.bias_delta, x) * e_bias, out, self.like)

    def penalty(self, strength: Float[Tensor, "M B"]) -> Float[Tensor, ""]:
        """Mean of strength * (||W_k(lambda)||^2 + ||b_k(lambda)||^2), exactly.

        No W_k(lambda) is made: by output o, two moments of e are enough,

            1/M sum_k sum_oi [A_k^2 mean(nu) + 2 A_k D_k mean(nu e_o)
                              + D_k^2 mean(nu e_o^2)],

        A_k = W * (s_k r_k^T), D_k = D * (v_k u_k^T), means over the member's examples
        (Wenzel et al. 2020; their published code leaves the factors out of A and D).
        """
        total = super().penalty(strength)
        e, e_bias = (
            None if part is None else part.unflatten(0, strength.shape)
            for part in self._embedded(self.given.unit)
        )
        first, second = _moments(strength, e)
        more = 2 * _inner(self.own, self.response, first)
        more = more + _inner(self.response, self.response, second)
        if e_bias is not None:
            first, second = _moments(strength, e_bias)
            more = more + 2 * (self.bias * self.bias_delta * first).sum()
            more = more + (self.bias_delta.square() * second).sum()
        return total + more / len(strength)

    def plain(self, k: int) -> nn.Module:
        """Member k at the first row of `given`, as an ordinary layer."""
        e, e_bias = self._embedded(self.given.unit[:1])
        shape = (-1, *[1] * (self.own.weight.dim() - 1))
        response = self.response.weights()[k] * e.view(shape)
        weight = self.own.weights()[k] + response
        if e_bias is None:
            return self._plain(weight, None)
        return self._plain(weight, self.bias[k] + self.bias_delta[k] * e_bias[0])


def _moments(strength: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """mean(nu e) and mean(nu e^2) of (M, B) and (M, B, outputs): each (M, outputs)."""
    weighted = strength[..., None] * e
    return weighted.mean(1), (weighted * e).mean(1)


class HyperDropout(nn.Module):
    """Dropout with a rate for each example."""

    def __init__(self, given: Given) -> None:
        """`given` will hold the rates."""
        super().__init__()
        self.given = given

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to the same shape; nothing is dropped in eval mode."""
        if not self.training:
            return x
        keep = (1 - self.given.rate).view(-1, *[1] * (x.dim() - 1))
        return x * (torch.rand_like(x) < keep) / keep
