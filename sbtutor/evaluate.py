"""All numbers of one trained ensemble: how good, how different, how sharp."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sbtutor import corruptions, data, diversity, metrics, models, sharpness
from sbtutor.predict import Predictions, predict

# Named one by one: a kind appended to corruptions.KINDS leaves these results alone.
KINDS = ("gaussian_noise", "impulse_noise", "defocus_blur", "contrast", "brightness")
SEVERITIES = (1, 3, 5)
SHIFT_IMAGES = 1000  # test images, each seen under every corruption and severity
SHARPNESS_IMAGES = 1000  # training images, without augmentation
SHARPNESS_RHO = 0.1  # radius of `sam_rise`, the same for every run so that runs compare
PROBES = 10  # of the Hessian trace, a member
CHUNK = 250  # images at once for it
REACH_IMAGES = 500  # training images for the four measures of `reach_row`
# Radii relative to the weights, set after a look at the training images of one seed of
# each data set, so that the rises are of the order of the loss.
L2_RHO, LINF_RHO, AVERAGE_RHO = 0.25, 0.01, 0.1
DRAWS = 20  # of the average case


def predictions_row(predictions: Predictions) -> dict[str, float]:
    """Quality and diversity of an ensemble, from its logits alone.

    Returns:
        `member_*` is the mean over members; the names without it are the ensemble's,
        whose probabilities are the members' mean.
    """
    logits, labels = predictions.logits, predictions.labels
    members = logits.softmax(-1)
    ensemble = metrics.ensemble_probs(logits)
    row = {}
    for name in ("accuracy", "nll", "brier", "ece"):
        measure = getattr(metrics, name)
        own = torch.stack([measure(probs, labels) for probs in members])
        row[f"member_{name}"] = own.mean()
        row[name] = measure(ensemble, labels)
    row["disagreement"] = diversity.disagreement(logits)
    row["der"] = diversity.disagreement_error_ratio(logits, labels)
    row["eir"] = diversity.ensemble_improvement_rate(logits, labels)
    row["logit_variance"] = diversity.logit_variance(logits)
    row["prob_variance"] = diversity.prob_variance(logits)
    row["kl"] = diversity.kl_divergence(logits)
    row["js"] = diversity.js_divergence(logits)
    return {name: float(value) for name, value in row.items()}


def few_images(split: data.Split) -> data.Split:
    """The class-balanced images that are shifted, the same for every run."""
    return data.subset(split, min(SHIFT_IMAGES, len(split.labels)), seed=0)


def shifted_splits(split: data.Split) -> Iterator[tuple[str, int, data.Split]]:
    """Kind, severity and `few_images` so corrupted, for all fifteen pairs."""
    few = few_images(split)
    for kind, severity in itertools.product(KINDS, SEVERITIES):
        images = corruptions.corrupt(few.images, kind, severity)
        yield kind, severity, data.Split(images, few.labels, few.classes)


def shift_row(members: list[nn.Module], split: data.Split) -> dict[str, float]:
    """Mean of `predictions_row` over five corruptions at severities 1, 3 and 5.

    A class-balanced 1,000 images of the split are used, the same for every run.
    """
    rows = [
        predictions_row(predict(members, shifted))
        for _, _, shifted in shifted_splits(split)
    ]
    return {name: sum(r[name] for r in rows) / len(rows) for name in rows[0]}


def sharpness_row(members: list[nn.Module], train: data.Split) -> dict[str, float]:
    """Mean over members of three sharpness measures, on 1,000 training images.

    Returns:
        `sam_rise`: loss rise at SAM's step of length 0.1; `fisher_trace`: mean over
        the samples of ||gradient||^2; `hessian_trace`: Hutchinson, 10 probes.
    """
    few = data.subset(train, min(SHARPNESS_IMAGES, len(train.labels)), seed=0)
    rows = [_member_sharpness(member, few) for member in members]
    return {
        name: float(torch.stack([row[name].cpu() for row in rows]).mean())
        for name in rows[0]
    }


def reach_row(members: list[nn.Module], train: data.Split) -> dict[str, float]:
    """Mean over members of four measures that look farther, on 500 training images.

    Returns:
        `worst_case_l2` and `worst_case_linf`: adaptive, 20 steps, radius 0.25 and 0.01;
        `average_rise`: adaptive, 20 draws of relative size 0.1; `top_eigenvalue` of
        the Hessian, to 1 %.
    """
    few = data.subset(train, min(REACH_IMAGES, len(train.labels)), seed=0)
    device = next(members[0].parameters()).device
    images, labels = data.to_float(few.images.to(device)), few.labels.to(device)

    def average(loss_fn: sharpness.LossFn, w: sharpness.Params) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        return sharpness.average_sharpness(loss_fn, w, AVERAGE_RHO, DRAWS, draw)

    worst = sharpness.worst_case_sharpness
    measures = {
        "worst_case_l2": lambda loss_fn, w: worst(loss_fn, w, L2_RHO, "l2"),
        "worst_case_linf": lambda loss_fn, w: worst(loss_fn, w, LINF_RHO, "linf"),
        "average_rise": average,
        "top_eigenvalue": lambda loss_fn, w: sharpness.hessian_top_eigenvalue(
            loss_fn, w, tolerance=1e-2
        ),
    }
    return {
        name: float(sharpness.of_members(measure, members, images, labels).mean())
        for name, measure in measures.items()
    }


def _member_sharpness(member: nn.Module, split: data.Split) -> dict[str, Tensor]:
    device = next(member.parameters()).device
    images = data.to_float(split.images.to(device))
    labels = split.labels.to(device)
    params = sharpness.parameters_of(member)
    with models.evaluating(member):
        loss_fn = sharpness.loss_of(member, images, labels)
        return {
            "sam_rise": sharpness.sam_sharpness(loss_fn, params, SHARPNESS_RHO),
            "fisher_trace": sharpness.fisher_trace(member, images, labels).mean(),
            "hessian_trace": _hessian_trace(member, params, images, labels),
        }


def _hessian_trace(
    member: nn.Module, params: dict[str, Tensor], images: Tensor, labels: Tensor
) -> Tensor:
    """Of the mean loss, chunk by chunk: the graph of a second derivative is large.

    Each chunk meets the same probes, so the mean is that of one large batch.
    """
    total = torch.zeros(())
    for x, y in zip(images.split(CHUNK), labels.split(CHUNK)):
        generator = torch.Generator().manual_seed(0)
        loss_fn = sharpness.loss_of(member, x, y)
        trace, _ = sharpness.hessian_trace(loss_fn, params, PROBES, generator)
        total = total + trace.cpu() * len(y) / len(labels)
    return total
