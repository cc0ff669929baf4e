"""Batch and hyper-batch ensembles: M networks in little more than one's weights."""

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor import loguniform
from sbtutor import space as spaces
from sbtutor.batches import stream
from sbtutor.rank_one import BatchLayer, Given, HyperDropout, HyperLayer, each
from sbtutor.space import Space

LAYERS = (nn.Linear, nn.Conv2d)  # what becomes a layer of M members
BATCH_STD, HYPER_STD = 0.5, 0.75  # of the factors around 1, in the published code


class BatchEnsemble(nn.Module):
    """M members in one network; hyper-batch if it has bounds `low` and `high`.

    `names` are its H hyperparameters, as in `space.names`. `low` and `high` (M, H) are
    log a and log b of each member's log-uniform distributions, `least` and `most` (H,)
    the logarithms of the permitted values.
    """

    def __init__(
        self, network: nn.Module, members: int, names: tuple[str, ...], given: Given,
        groups: dict[str, str], limits: Tensor | None,
    ) -> None:  # fmt: skip
        """What `convert` makes.

        Args:
            network: with `BatchLayer`s.
            members: M.
            names: of the hyperparameters.
            given: what the network's hyper layers share.
            groups: from a layer's path to the name of its L2 strength.
            limits: (2, H), logarithms; None for a batch ensemble.
        """
        super().__init__()
        self.network, self.members, self.names = network, members, names
        self.given, self.groups = given, groups
        self.training = network.training
        if limits is not None:
            self.register_buffer("least", limits[0].clone())
            self.register_buffer("most", limits[1].clone())
            self.low = nn.Parameter(self.least.repeat(members, 1))
            self.high = nn.Parameter(self.most.repeat(members, 1))

    @property
    def hyper(self) -> bool:
        """Whether the members answer to hyperparameters."""
        return hasattr(self, "low")

    def forward(
        self, images: Tensor, log_lambda: Float[Tensor, "n H"] | None = None
    ) -> Float[Tensor, "n C"]:
        """Logits of images (M * B, ...): first the B of member 0, then those of 1 ...

        Args:
            images: for B images seen by all members write `ensemble.tile(images)`.
            log_lambda: of a hyper-batch ensemble, the logarithms of each example's
                hyperparameters; without, those of its member's mean.

        Raises:
            ValueError: a batch that cannot be divided by M; hyperparameters that do not
                fit the batch, lie outside the permitted range, or are handed to an
                ensemble that knows none.
        """
        self._check_batch(len(images), log_lambda)
        if log_lambda is None and self.hyper:
            log_lambda = each(self.mean(), images)
        if log_lambda is not None and not self.hyper:
            raise ValueError(
                "a batch ensemble does not answer to hyperparameters; write "
                "convert(model, members, hyper=True) for one that does"
            )
        with self._giving(log_lambda):
            return self.network(images)

    def _check_batch(self, n: int, log_lambda: Tensor | None) -> None:
        if n == 0 or n % self.members:
            raise ValueError(
                f"a batch of {n} examples cannot be divided among {self.members} "
                "members; to show all images to all members write "
                "ensemble(ensemble.tile(images))"
            )
        wanted = (n, len(self.names))
        if log_lambda is not None and log_lambda.shape != wanted:
            raise ValueError(
                f"log_lambda must be {wanted}, a row an example with "
                f"{', '.join(self.names)}; got {tuple(log_lambda.shape)}"
            )
        if log_lambda is None or not self.hyper:
            return
        beyond = torch.maximum(self.least - log_lambda, log_lambda - self.most)
        if not (beyond < 1e-3).all():  # rounding aside
            at = int(beyond.amax(0).argmax())
            raise ValueError(
                f"{self.names[at]} must lie between {float(self.least[at].exp()):.3g} "
                f"and {float(self.most[at].exp()):.3g}, got values from "
                f"{float(log_lambda[:, at].min().exp()):.3g} to "
                f"{float(log_lambda[:, at].max().exp()):.3g}; write its logarithm"
            )

    @contextlib.contextmanager
    def _giving(self, log_lambda: Tensor | None) -> Iterator[None]:
        """Let the hyper layers see the hyperparameters of a pass."""
        if log_lambda is not None:
            self.given.unit = (log_lambda - self.least) / (self.most - self.least)
            if "dropout" in self.names:
                at = self.names.index("dropout")
                self.given.rate = log_lambda[:, at].exp()
        try:
            yield
        finally:
            self.given.unit = self.given.rate = None

    def tile(self, images: Tensor) -> Tensor:
        """(B, ...) to (M * B, ...): every member sees every image."""
        return torch.cat([images] * self.members)  # channels stay last

    def mean(self) -> Float[Tensor, "M H"]:
        """Logarithm of each member's mean hyperparameters, at which it predicts."""
        return loguniform.mean(self.low, self.high).log()

    def penalty(self, log_lambda: Float[Tensor, "n H"]) -> Float[Tensor, ""]:
        """Sum over layers of the mean of lambda ||W_k(lambda)||^2, biases included.

        To be divided by the number of training images. Exact, and no member's weights
        are made (see `HyperLayer.penalty`).

        Args:
            log_lambda: as in `forward`; a batch ensemble needs a row a member.

        Raises:
            ValueError: not M * B rows of H hyperparameters.
        """
        self._check_batch(len(log_lambda), log_lambda)
        strengths = log_lambda.exp().unflatten(0, (self.members, -1))
        with self._giving(log_lambda if self.hyper else None):
            return torch.stack(
                [
                    self.network.get_submodule(path).penalty(
                        strengths[..., self.names.index(name)]
                    )
                    for path, name in self.groups.items()
                ]
            ).sum()

    def sample(self, u: Float[Tensor, "M B H"]) -> Float[Tensor, "n H"]:
        """log lambda of B examples a member, from uniform numbers; n = M * B.

        Gradients reach the bounds.
        """
        low, high = self.low[:, None], self.high[:, None]
        return loguniform.sample(low, high, u).flatten(0, 1)

    @torch.no_grad()
    def project(self) -> None:
        """Move the bounds back into the permitted range and into order."""
        bounds = loguniform.project(self.low, self.high, self.least, self.most)
        for own, projected in zip((self.low, self.high), bounds, strict=True):
            own.copy_(projected)

    def member(self, k: int) -> nn.Module:
        """Member k as an ordinary network, in eval mode.

        Of a hyper-batch ensemble at the mean of its hyperparameters. ValueError if
        there is no such member.
        """
        if not 0 <= k < self.members:
            raise ValueError(f"members run from 0 to {self.members - 1}, got {k}")
        mean = self.mean()[k : k + 1] if self.hyper else None
        with torch.no_grad(), self._giving(mean):
            return _replaced(self.network, lambda layer: _plain(layer, k)).eval()


def members_of(ensemble: BatchEnsemble) -> list[nn.Module]:
    """All members as ordinary networks, for everything that takes a list of them."""
    return [ensemble.member(k) for k in range(ensemble.members)]


def _plain(layer: nn.Module, k: int) -> nn.Module | None:
    if isinstance(layer, BatchLayer):
        return layer.plain(k)
    if isinstance(layer, HyperDropout):
        return nn.Dropout(float(layer.given.rate))
    return None


def _replaced(
    network: nn.Module, new: Callable[[nn.Module], nn.Module | None]
) -> nn.Module:
    """A copy in which a layer makes way for `new(layer)` unless that is None.

    A layer that stands in two places, as one ReLU or Dropout may, does so in the copy.
    """
    made, fresh = copy.deepcopy(network), {}
    for path, layer in network.named_modules(remove_duplicate=False):
        if layer not in fresh:
            fresh[layer] = new(layer)
        if (own := fresh[layer]) is not None:
            parent, _, leaf = path.rpartition(".")
            setattr(made.get_submodule(parent), leaf, own.train(layer.training))
    return made


def _check(model: nn.Module, members: int) -> None:
    if members < 1:
        raise ValueError(f"members must be at least 1, got {members}")
    if isinstance(model, BatchEnsemble):
        raise ValueError(
            "the model is a batch ensemble already; convert the network it came from"
        )
    found = {p: m for p, m in model.named_modules() if isinstance(m, LAYERS)}
    if not found:
        raise ValueError("the model has no Linear or Conv2d layer that could be shared")
    for path, layer in found.items():
        odd = isinstance(layer, nn.Conv2d) and (
            layer.groups != 1 or layer.padding_mode != "zeros"
        )
        if odd or type(layer) not in LAYERS:  # what a subclass does would be lost
            raise ValueError(
                f"layer {path or 'the model'} is {layer}: only Linear and Conv2d "
                "themselves can be converted, with groups=1 and padding_mode='zeros'"
            )


def convert(
    model: nn.Module,
    members: int,
    hyper: bool = False,
    *,
    space: Space | None = None,
    tied: bool = False,
    seed: int = 0,
) -> BatchEnsemble:
    """A batch ensemble, or a hyper-batch ensemble, of networks like `model`.

    Linear and convolutional layers become layers of M members; norm layers are shared
    and see the whole batch, as in the published code. The factors start from
    N(1, 0.5^2), those of a hyper-batch ensemble from N(1, 0.75^2).

    Args:
        model: one network, such as `models.build` makes; it is left alone.
        members: M.
        hyper: let the weights answer to hyperparameters (`space.names` of the model;
            dropout is one of them if the model has dropout layers).
        space: permitted ranges, over all of which the members' distributions stretch
            at first; only with `hyper`.
        tied: share the factors, u = r and v = s, as in the paper's residual networks;
            only with `hyper`.
        seed: of the factors, D and the embeddings.

    Returns:
        A network from (M * B, ...), member-major, to logits (M * B, C).

    Raises:
        ValueError: fewer than one member; a layer of a kind that cannot be converted;
            `space` or `tied` without `hyper`.
    """
    _check(model, members)
    if not hyper and (space is not None or tied):
        raise ValueError(
            "space and tied are for hyper-batch ensembles; write hyper=True with them"
        )
    model = nn.Sequential(model) if isinstance(model, LAYERS) else model
    names, given = spaces.names(model), Given()
    generator = stream(seed, "factors")  # not that of the weights, which `build` has
    like = next(model.parameters())
    limits = (space or Space()).limits(names).to(like) if hyper else None

    def new(layer: nn.Module) -> nn.Module | None:
        if isinstance(layer, LAYERS):
            if not hyper:
                return BatchLayer(layer, members, BATCH_STD, generator)
            return HyperLayer(
                layer, members, HYPER_STD, generator, given, len(names), tied
            )
        if hyper and isinstance(layer, nn.Dropout):
            return HyperDropout(given)
        return None

    groups = {
        param.rpartition(".")[0]: f"l2_{group}"
        for group, params in spaces.groups(model).items()
        for param in params
    }
    return BatchEnsemble(_replaced(model, new), members, names, given, groups, limits)
