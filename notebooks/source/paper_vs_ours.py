# %% [markdown]
# # How near are we to the papers' numbers?
#
# **Minutes:** read 20, do 0, compute 0
#
# This page stands beside the lessons. It has every number and every checkable claim of the four
# papers that we know of, and one claim of ours; next to each is what we have found. Nothing is
# trained here: it reads tables that were computed beforehand.
#
# **We did not have the papers as PDF.** Each number says how we know it:

# %% tags=["parameters"]
import os

preset: str = os.environ.get("SBTUTOR_PRESET", "class")  # changes nothing on this page

# %%
import pandas as pd

from sbtutor import beside, claims, lab, papers, plots

lab.set_up()
sources = pd.DataFrame(papers.SOURCES.items(), columns=["known from", "that is"])
lab.show(beside.html(sources.set_index("known from")))

# %% [markdown]
# ## How to read the tables
#
# - **paper**: the paper's number, with the error that it gives (a standard deviation or a standard
#   error over a few runs).
# - **ours**: the same experiment at full size, as mean ± half of the 95 % interval over n seeds.
#   Where it was not run, the cell says so, with the hours of one GPU that it would take; the *sweep*
#   would fill it. The runs of one cell often fill others, too, so hours of cells do not add up.
#   Parameters and formulas need no training and are computed here.
# - **ours, reduced**: the same methods with a small network on fewer and smaller images. *These are
#   not comparable in level.* Compare signs and order within the column, and mind the intervals.
#
# The hours are arithmetic, not a measurement: operations counted, divided by 20 TFLOP/s, which we
# assume that a GPU sustains. On yours it may be half or three times as much. `benchmarks/gpu.py`
# measures it.

# %%
found = papers.table("results", "sweeps")


def of(paper: str, place: str = "") -> pd.DataFrame:
    """The numbers of a paper, or of one of its places."""
    kept = found[found["paper"] == paper]
    return kept[kept["place"] == place] if place else kept


def show(kept: pd.DataFrame, *how) -> None:
    """Paper beside ours, as a table with its notes."""
    lab.show(beside.html(beside.shown(kept, *how), beside.notes(kept)))


known = found["ours"].notna()
reduced = found["reduced"].notna()
print(f"{len(found)} numbers: {known.sum()} ours, {reduced.sum()} ours, reduced")

# %% [markdown]
# ## SharpBalance (Lu et al. 2024)
#
# Figure 7: three ensembles of three ResNet-18 a method, after 200 epochs. The number in the figure is
# the ensemble's accuracy; the paper's error is a standard deviation over three ensembles. The
# C sets hold 15 corruptions at five severities.
#
# Two things stand between the paper's cells and ours. SharpBalance is ours by the rule that the
# paper draws, while the paper's numbers probably come from its code, which has another rule (lesson
# [09](09_sharpbalance.ipynb)); the sweeps run that one, too, as `split` code or code_boost. And
# $\rho = 0.2$ and $k = 0.5$ are those of the published script for CIFAR-100. For CIFAR-10 and
# TinyImageNet the paper may have others, which we did not find; ours has the same.

# %%
figure_7 = of("Lu 2024", "Figure 7")
show(figure_7.assign(reduced=None))

# %% [markdown]
# The same in small: the sweep `fig7-cifar10-mini` on CIFAR-10 (a JPEG copy), with five corruptions
# at three severities that this package makes itself in place of CIFAR-10-C.

# %%
OWN = {"CIFAR-10-C": "CIFAR-10-C (ours: own corruptions)"}
small = figure_7[figure_7["reduced"].notna()].replace({"data": OWN})
lab.show(beside.html(beside.shown(small).drop(columns=["ours", "sweep"])))

# %% [markdown]
# At this size and after 15 epochs $\rho = 0.2$ is too much: SAM and SharpBalance are *less*
# accurate than the deep ensemble, which is the other way round than in the paper.
#
# What an ensemble gains over its mean member, in points, is another claim of the paper: a deep ensemble
# most, SAM least. Bars are 95 % intervals over our seeds; the paper gives none for the gain.

# %%
gains = papers.gains("results")
gains["of"] = gains["data"].replace(OWN) + ":<br>" + gains["method"]
words = [f"{g.data}: {g.method}, {g.who} {g.mean:.2f}" for g in gains.itertuples()]
title = "Gain of an ensemble of three over its mean member (Figure 7)"
figure = plots.blank(
    title, f"{title}, in points: {'; '.join(words)}.", "points", height=450
)
for i, (who, part) in enumerate(gains.groupby("who", sort=False)):
    more, less = part["high"] - part["mean"], part["mean"] - part["low"]
    bars = {"type": "data", "symmetric": False, "array": more, "arrayminus": less}
    marker = {**plots.look(i)["marker"], "size": 11}
    figure.add_scatter(
        x=part["mean"], y=part["of"], error_x=bars if more.notna().all() else None,
        mode="markers", marker=marker, name=who
    )  # fmt: skip
figure.update_yaxes(autorange="reversed")

# %% [markdown]
# Our means are in the paper's order, but three ensembles a method are few: in pairs (lesson
# [10](10_full_scale.ipynb)) each difference of two methods' gains has an interval that holds 0.
# (Some small experiments with eight ensembles stand among the claims below.)
#
# Figure 1c: sharpness and diversity of ensembles on CIFAR-10, by $\rho$ (SAM) and by $\rho$ and $k$
# (SharpBalance). We know the points by eye, so the table has the ends of their ranges. Sharpness can
# be compared in its order only [1]. *least* and *greatest* are the extremes of 14 settings of SAM and
# 12 of SharpBalance. Ours are means of three ensembles, the figure's points probably one each, and
# our intervals do not allow for the choice. Logit variance and accuracy are on CIFAR-10-C.

# %%
show(of("Lu 2024", "Figure 1c"), ("method", "data", "quantity"), "statistic")

# %% [markdown]
# The linear model of lesson [08](08_theory.ipynb) needs no training. Figure 1b, read by eye, is 1 to 30 %
# below the formulas at the radii of the authors' notebook. They drew their teacher at random, once,
# and ours has a mean length; but SAM's variance does not depend on it. Perhaps the figure has other
# radii.

# %%
theory = found[found["data"] == "linear model"]
figure_1b = theory["place"] == "Figure 1b"
show(theory[figure_1b], ("method", "quantity"), None)

# %% [markdown]
# The simulations that are stored in the authors' notebook: variances agree within a few percent, and
# sharpness lies below our bound. (It need not, since the length of their teacher is random.)

# %%
show(theory[~figure_1b], ("method", "quantity"), None)

# %% [markdown]
# ### Its claims
#
# Each claim became several questions with a number and a sign. *All questions* counts their verdicts:
# *shown* means that the whole 95 % interval over seeds is on the claimed side, *contradicted* that it
# is on the other side, *not shown at this size* that it holds both. *In accord* is an equality or a
# bound that the interval does not contradict, so an equality is in accord also because an interval is
# wide. *By construction* is what cannot be otherwise. One question stands there in full, chosen for
# what it says, not for its verdict. No interval is adjusted for the number of questions.
#
# All of these are small experiments: narrow networks, images of 14x14 or 16x16 pixels (CIFAR-10 is a
# JPEG copy), seconds to minutes of training. They test whether the claims hold *there*. They cannot say
# that a paper is wrong.


# %%
def answers(paper: str) -> None:
    """A paper's claims with our answers, and how they are repeated."""
    table = claims.table("results", paper)
    print("again: " + "\n       ".join(table["command"].unique()))
    lab.show(beside.html(claims.shown(table)))


answers("Lu 2024")

# %% [markdown]
# On claim 5: at this size SAM costs accuracy, so SharpBalance, too, stays below a deep ensemble. On
# claim 6: SAM's members are less accurate than a deep ensemble's, against the claim. On claim 10:
# Theorem 1 is a limit of large $n$ and $d$, and at our size a few percent off; with its next term it
# is in accord.
#
# Lessons [07](07_tradeoff.ipynb) and [09](09_sharpbalance.ipynb) have all questions, and the controls.
#
# ## Loss landscape (Fort et al. 2019)
#
# The authors' notebook comes without outputs, and of the paper's text we know three accuracies,
# two of them from memory. Others have repeated the experiment, with other preprocessing.

# %%
show(of("Fort 2019"), ("place", "model", "quantity"), None)

# %%
answers("Fort 2019")

# %% [markdown]
# On claim 4: on fashion-mini other optima are nearer the lower limit, too. On claim 5: samples around
# each of four optima make the Brier score worse; averages of weights change it by less than we can
# show. On claim 8: on CIFAR-10 the lead in accuracy shrinks with severity.
#
# Lesson [02](02_loss_landscape.ipynb) has all questions.
#
# ## Pre-train basin (Sadrtdinov et al. 2023)
#
# The result tables of this paper we have not seen. What is known are four numbers of a list of
# benchmarks, which does not say of what method they are, and a tutorial's words on the best cycles.
# SUN-397, ChestX and Clipart are not among our data sets; their cost is that of the sweep on
# CIFAR-100, times their share of its training images.

# %%
show(of("Sadrtdinov 2023"), ("data", "method", "quantity"), None)

# %%
answers("Sadrtdinov 2023")

# %% [markdown]
# On claim 4: on fashion-mini the best cycles behind a barrier beat the best that have none. On claim
# 7: on CIFAR-10 soups of SSE, its cycles chosen for soups, beat those of Local DE.
#
# Lesson [05](05_pretrain_basin.ipynb) has all questions.
#
# ## Hyperparameter ensembles (Wenzel et al. 2020)
#
# Table 2: WRN-28-10 on CIFAR-100, four members, as quoted in a Japanese commentary; errors are
# standard errors.

# %%
show(of("Wenzel 2020", "Table 2"), ("method",))

# %% [markdown]
# The authors' library repeats it (uncertainty-baselines, the read-me of its folder `cifar`). By its
# code, one network and deep ensemble have the default L2 there, ours have the best settings of the
# search. Its hyper-deep ensemble leaves stratification out, and the networks of its search have
# random first weights, ours one and the same. Our sweep looks at no corrupted images, and MIMO is
# not in this package: for these the cost is that of the sweep as it is.

# %%
show(of("Wenzel 2020", "leaderboard"))

# %% [markdown]
# The rest: parameters, hours, other networks, and images of another kind (SVHN).

# %%
rest = of("Wenzel 2020")
rest = rest[~rest["place"].isin(["Table 2", "leaderboard"])]
show(rest, ("model", "data", "method", "quantity"), None)

# %%
answers("Wenzel 2020")

# %% [markdown]
# On claim 3: greedy choice takes others than the best, but hardly ever with unequal weights. On claim
# 7: with $\tau = 0$ the ranges stay as wide as at first; only a faster tuner makes them narrow. On
# claim 8: LeNet is worse with hyper-batch at severity 3, in the worst case and in the mean.
#
# Lessons [03](03_hyperparameter_ensembles.ipynb) and [04](04_batch_ensembles.ipynb) have all questions.
#
# ## Where our numbers come from
#
# Preset, images, network, seeds, device, date and command of each table that stands in *ours* or
# *ours, reduced*:

# %%
made = pd.concat([found["made"], found["reduced_made"]])[lambda told: told != ""]
lab.show(
    beside.html(made.value_counts(sort=False).rename_axis("made").to_frame("numbers"))
)

# %% [markdown]
# The claims have theirs in `results/claims*.json` and in the files that these name.
#
# ## What would it cost to fill the empty cells?
#
# Each sweep is a file in `notebooks/sweeps/`, and lesson [10](10_full_scale.ipynb) tells how to run one.
# Those on `-mini` are their small twins for a laptop, in hours of one CPU core.

# %%
costs = papers.costs("sweeps", "results")
large = costs[costs["of one"] == "GPU"]
print(f"all large sweeps: {beside.spoken(large['hours'].sum())}")
costs["hours"] = [f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in costs["hours"]]
lab.show(beside.html(costs.set_index("sweep")))

# %% [markdown]
# To fill a cell: run its sweep, collect its table under the sweep's name, and build this page again.
#
# ```
# python -m sbtutor.batch notebooks/sweeps/fig7-cifar10.yaml --out runs/fig7 --gpus 1
# python -m sbtutor.batch collect runs/fig7 --to notebooks/results/fig7-cifar10
# python -m sbtutor.course build paper_vs_ours
# ```
#
# A number is wrong, or you have the paper at hand? It is one row of `notebooks/results/papers.csv`.
