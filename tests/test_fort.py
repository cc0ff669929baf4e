"""Fort et al.'s settings, and the signs of their claims on made-up tables."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sbtutor import subspace

sys.path.append(str(Path(__file__).parents[1] / "notebooks" / "results"))

import claims_fort
import fort
import questions


def test_settings_are_fort_et_als():
    train = fort.TRAIN
    assert (train.optimizer, train.lr, train.lr_decay) == ("adam", 1.6e-3, 0.5)
    assert (train.epochs, train.milestones) == (40, (10, 20, 30))
    assert train.weight_decay == train.crop == 0
    assert not train.flip


def test_the_claims_signs_are_the_papers():
    """Made-up tables in which all is as the paper says, and one in which nothing is."""
    seeds = range(4)
    good = dict(disagreement_within=0.1, disagreement_between=0.3, accuracy_range=0.01)
    good |= dict(cosine_within=0.99, cosine_between=0.01, der=0.9, place_optima=0.8)
    good |= dict(silhouette_map=0.5, silhouette_probs=0.5)
    good |= dict(line_worst_change=-0.5, curve_worst_change=-0.01)
    good |= dict(curve_middle_disagreement=0.3)
    for name in subspace.SAMPLERS:
        good |= {f"gap_{name}": 0.4, f"price_{name}": 0.05, f"place_{name}": 0.2}
    bad = {name: -value for name, value in good.items()}
    bad |= dict(disagreement_within=0.3, cosine_between=0.5, accuracy_range=0.1)
    bad |= {f"place_{name}": 0.9 for name in subspace.SAMPLERS}
    bad |= dict(line_worst_change=-0.05, curve_worst_change=-0.5)
    for row, said in ((good, "shown"), (bad, "contradicted")):
        frame = pd.DataFrame([row | {"seed": seed} for seed in seeds])
        frame *= 1 + 1e-3 * np.arange(4)[:, None]
        asked = [(q, "x") for q in claims_fort.of_runs("d", frame.set_index("seed"))]
        verdicts = questions.table(asked).set_index("quantity")["verdict"]
        assert set(verdicts) == {said}, verdicts


def shifted(sign):
    """Accuracy grows with optima, more so under shift; sign -1 turns all round."""
    rows = []
    methods = ("optima", "average", *claims_fort.NEAR, *claims_fort.WILD[1:])
    for seed, place, method, optima in itertools.product(
        range(4), [*"012345", "digits"], methods, (1, 2, 3, 4)
    ):
        hard = 5 if place == "digits" else int(place)
        best = 2 * optima - 0.1 * (optima == 4)
        gain = sign * best * (1 + hard) * (1 + 1e-3 * seed) * (method == "optima")
        js = 0.01 * gain + sign * 1e-3 * hard * (1 + 1e-3 * seed) * (method != "optima")
        if method in claims_fort.NEAR and optima == 4:
            gain = sign * (9 + 1e-3 * seed)
        rows.append((seed, place, method, optima, gain / 100, -gain / 100, js))
    names = ["seed", "place", "method", "optima", "accuracy", "brier", "js"]
    return pd.DataFrame(rows, columns=names)


@pytest.mark.parametrize(("sign", "said"), [(1, "shown"), (-1, "contradicted")])
def test_the_signs_of_claims_on_ensembles(sign, said):
    asked = [(q, "x") for q in claims_fort.of_ensembles("d", shifted(sign))]
    found = questions.table(asked)
    kept = found[~found["quantity"].str.contains("with average - without")]
    assert set(kept["verdict"]) == {said}, kept[kept["verdict"] != said]
    assert set(kept["claim"]) == {5, 7, 8}
