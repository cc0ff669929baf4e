"""Ensembles of optima, and around them, by number of optima and under shift."""

from functools import partial

import torch
from torch import Tensor

from sbtutor import corruptions, data, diversity, metrics
from sbtutor.config import DataConfig
from sbtutor.optima import Optima


def places(few: data.Split) -> dict[str, data.Split]:
    """Test images at severities 0 to 5, each under one kind in turn; and digits."""
    made = {"0": few}
    for severity in range(1, 6):
        images = few.images.clone()
        for i, kind in enumerate(corruptions.KINDS):
            part = slice(i, None, len(corruptions.KINDS))
            images[part] = corruptions.corrupt(few.images[part], kind, severity)
        made[str(severity)] = data.Split(images, few.labels, few.classes)
    side = few.images.shape[-1]
    digits = data.load(DataConfig(name="digits", size=side)).test
    images = digits.images.expand(-1, few.images.shape[1], -1, -1).contiguous()
    made["digits"] = data.Split(images, digits.labels, digits.classes)
    return made


def ensemble_rows(logits: list[Tensor], split: data.Split, place: str) -> list[dict]:
    """Accuracy, Brier score and JS by number of optima, mean over all subsets.

    Around an optimum JS is that of four networks (of ten checkpoints every second one),
    in the row of one optimum.

    Args:
        logits: of the networks around each optimum; those of one are averaged first.
        split: what they were asked.
        place: severity, or "digits", whose labels mean nothing here.
    """
    each = torch.stack([metrics.ensemble_probs(part) for part in logits])
    alike = len(logits[0]) == 1  # one network an optimum: an ensemble of optima
    few = [part[:: max(1, len(part) // 4)][:4] for part in logits]
    near = float(torch.stack([diversity.js_divergence(part) for part in few]).mean())
    columns = {"js": torch.full((len(each),), torch.nan)}
    columns["js"][0] = near
    if alike:
        columns["js"] = metrics.by_size(torch.cat(logits), diversity.js_divergence)
    for name in ("accuracy", "brier") if place != "digits" else ():
        measure = partial(getattr(metrics, name), labels=split.labels)
        columns[name] = metrics.by_size(each, lambda p, m=measure: m(p.mean(0)))
    return [
        {"place": place, "optima": i + 1}
        | {name: float(values[i]) for name, values in columns.items()}
        for i in range(len(each))
    ]


def shift_rows(optima: Optima, samples: list[dict[str, Tensor]]) -> list[dict]:
    """Ensembles: one row a method, place and number of optima.

    Of wild samples only their divergence at one optimum is kept.
    """
    made = {"optima": [point[None] for point in optima.points]}
    for method in samples[0]:
        made[method] = [near[method] for near in samples]
    rows = []
    for place, split in places(optima.few).items():
        for method, groups in made.items():
            sizes = [len(g) for g in groups]
            logits = optima.logits(torch.cat(groups), split).split(sizes)
            found = ensemble_rows(list(logits), split, place)
            if method.startswith("wild"):
                found = [{key: found[0][key] for key in ("place", "optima", "js")}]
            rows += [{"method": method} | row for row in found]
    return rows
