# %% [markdown]
# # Why does averaging a few networks help, and how do we measure help?
#
# **Minutes:** read 15, do 32, compute 1

# %% [markdown]
# ## Objectives
#
# After this lesson you can
#
# - compute an ensemble's prediction, and say how averaging logits differs;
# - measure it by accuracy, NLL, Brier score and ECE, and say what each one sees;
# - derive why the mean can never have a worse Brier score than the average member;
# - read a calibration plot;
# - say what changes when the test images are shifted.
#
# You need: lesson 00.

# %% [markdown] tags=["teacher"]
# **For the teacher.** Talking points:
#
# - Why can the mean not lose in Brier score and NLL, but in accuracy? (Convex losses; accuracy is
#   not one.)
# - "Diversity is the gain" holds for *equal* members. Draw three members on the board that gain
#   much and are bad.
# - An ensemble is never surer than its average member. When is that good, when bad, for ECE?
# - What does the band in the figure of sizes hold, and what not? (Seeds; not other images.)
#
# Time: 15 minutes to read, half of it on why the mean cannot lose; exercises 1 and 2 in class,
# 3 and 4 in pairs or at home.
#
# Typical misunderstandings: the mean of logits for the mean of probabilities; a low ECE for a good
# network; overlapping bands for "no difference", although each set has the same order.

# %% tags=["parameters"]
import os

preset: str = os.environ.get("SBTUTOR_PRESET", "class")  # smoke | class | paper
seed: int = 0  # seed of the first member
members: int = 5  # M, the size of the ensemble

# %%
from sbtutor import session

lesson = session.start("01", preset, seed)

# %% [markdown]
# ## Members
#
# We train $M$ networks. They share the architecture, the data and all settings. They
# differ in their first weights and in the order in which they see the data.

# %%
run = lesson.fit(method="sgd", members=members)
print(f"{members} members, trained in {run.history['epoch'].max() + 1} epochs")

# %% [markdown]
# All that follows needs only the members' **logits**: for each member, image and
# class, the number that the network gives before softmax. Keep the axes in mind:
# $M$ members, $N$ images, $C$ classes, in this order.

# %%
from sbtutor import data
from sbtutor.predict import predict

splits = data.load(lesson.base.data)
predictions = predict(run.members, splits.test)
logits, labels = predictions.logits, predictions.labels
print("logits (M, N, C):", tuple(logits.shape), " labels (N,):", tuple(labels.shape))

# %% [markdown]
# ## From logits to an ensemble
#
# Softmax turns the logits $z_m(x)$ of one member into probabilities, $p_m(c \mid x) =
# e^{z_{m,c}(x)} / \sum_k e^{z_{m,k}(x)}$. The ensemble is their mean:
#
# $$\bar p(c \mid x) = \frac{1}{M} \sum_{m=1}^{M} p_m(c \mid x).$$
#
# Here it is in two lines, beside the package's own function.

# %%
import torch

from sbtutor import metrics

member_probs = logits.softmax(dim=-1)  # (M, N, C)
mean_probs = member_probs.mean(dim=0)  # (N, C)
assert torch.allclose(mean_probs, metrics.ensemble_probs(logits), atol=1e-6)

# %% [markdown]
# ## Four ways to be good
#
# Let $y_n$ be the true class of image $n$, and $\bar p_n$ the predicted probabilities.
#
# | measure | formula | what it sees |
# |---|---|---|
# | accuracy | share of images with $\arg\max_c \bar p_{n,c} = y_n$ | the answer only |
# | NLL | $-\frac1N \sum_n \log \bar p_{n, y_n}$ | the probability of the truth; punishes being sure and wrong without limit |
# | Brier score | $\frac1N \sum_n \sum_c (\bar p_{n,c} - t_{n,c})^2$ | distance to the truth $t_n$ (1 for the true class, else 0); between 0 and 2 |
# | ECE | sort images by *confidence* (largest probability) into 15 bins; in each take the distance between share right and mean confidence; average, weighted by the number of images | whether 80 % sure means 80 % right |
#
# NLL is the *negative log-likelihood*, in nats. ECE is the *expected calibration error*.
# Lower is better for all but accuracy.

# %% [markdown]
# ## Predict first
#
# Compare the ensemble with its average member. Which of the four will improve?

# %%
my_guess = {"accuracy", "nll", "brier", "ece"}  # keep those that you expect to improve
lesson.guess("what the ensemble improves", my_guess)

# %%
import pandas as pd

NAMES = ("accuracy", "nll", "brier", "ece")
single = {k: run.metrics[f"test_member_{k}"] for k in NAMES}
whole = {k: run.metrics[f"test_{k}"] for k in NAMES}
pd.DataFrame({"mean member": single, "ensemble": whole}).round(4)

# %%
improved = {k for k in NAMES if (whole[k] > single[k]) == (k == "accuracy")}
lesson.compare("what the ensemble improves", sorted(improved))

# %% [markdown]
# NLL and Brier score must improve; the next section shows why. Accuracy usually does.
# ECE may go either way. The ensemble is never more confident than its average member,
# since $\max_c \bar p_c \le \frac1M\sum_m \max_c p_{m,c}$, while it is right more often. That
# helps members that are too sure, and can make well calibrated ones too modest.
#
# ## Why the mean cannot lose
#
# For the Brier score there is an exact account. Let $t$ be the truth of one image, as
# a vector. Then
#
# $$\frac1M \sum_m \|p_m - t\|^2 \;=\; \|\bar p - t\|^2 \;+\; \frac1M \sum_m \|p_m - \bar p\|^2 .$$
#
# To see why, write $p_m - t = (p_m - \bar p) + (\bar p - t)$ and multiply out. The mixed
# term is $2\,(\bar p - t) \cdot \frac1M \sum_m (p_m - \bar p)$, and that sum is zero.
#
# On the left is the average member's score, on the right the ensemble's score plus the
# **ambiguity**, the members' variance around their mean. So
#
# - the ensemble is never worse than the average member;
# - it gains exactly as much as the members differ.
#
# For the Brier score, diversity *is* the gain over the average member. That does not
# mean that more is always better: members can be made diverse by making them worse.

# %%
truth = torch.nn.functional.one_hot(labels, logits.shape[-1])
average_member = (member_probs - truth).square().sum(-1).mean()
ensemble = (mean_probs - truth).square().sum(-1).mean()
ambiguity = (member_probs - mean_probs).square().sum(-1).mean()
print(f"average member {average_member:.5f} = {ensemble:.5f} + {ambiguity:.5f}")
assert torch.isclose(average_member, ensemble + ambiguity)

# %% [markdown]
# For NLL, Jensen's inequality gives the same order, since $-\log$ is convex:
# $-\log \bar p_y \le \frac1M \sum_m -\log p_{m,y}$. For accuracy there is no such
# theorem: an ensemble *can* be worse than its members.
#
# ## More members
#
# How does the gain grow with the number of members? With $M$ members there are many
# ensembles of each size. We take all of them, and average.

# %%
from itertools import combinations


def size_curve(logits, labels, measure):
    """Mean of a measure over all ensembles of each size."""
    curve = []
    for size in range(1, len(logits) + 1):
        parts = [torch.stack(part) for part in combinations(logits, size)]
        values = [measure(metrics.ensemble_probs(part), labels) for part in parts]
        curve.append(float(torch.stack(values).mean()))
    return curve


curve = size_curve(logits, labels, metrics.nll)
package = metrics.by_size(member_probs, lambda p: metrics.nll(p.mean(0), labels))
assert torch.allclose(torch.tensor(curve), package, atol=1e-6)
print("NLL by size:", ", ".join(f"{value:.3f}" for value in curve))

# %% [markdown]
# One set of members gives one curve. The next figure shows the mean of eight such
# sets, trained beforehand with fresh seeds, and its 95 % interval (command:
# `python notebooks/results/recompute.py size`).

# %%
from sbtutor import plots, results

sizes = results.committed("results/size")


def plot_sizes(images: str, quantity: str):
    """Mean and 95 % interval over eight sets of members, by ensemble size."""
    rows = sizes[sizes["images"] == images].groupby("size")[quantity]
    stats = [results.interval(values) for _, values in rows]
    middle = {quantity: [s.mean for s in stats]}
    bands = {quantity: ([s.low for s in stats], [s.high for s in stats])}
    title = f"{quantity} by ensemble size, {images} images (fashion-mini)"
    ends = list(rows.groups)
    return plots.lines(ends, middle, title, "members", quantity, bands)


plot_sizes("test", "nll")

# %% [markdown]
# The second member brings the most, and each further one less. For the Brier score the
# law is exact: averaged over all subsets, the ambiguity of $M$ members is
# $(1 - 1/M)\,V$, where $V$ is what infinitely many such members would gain. So the second
# member brings half of all there is to gain.
#
# The eight sets differ in first weights and data order only; the images are the same. So
# the band says what other seeds would give, not what other images would give. The bands of
# two sizes may overlap although each single curve falls: they come from the same sets.
#
# ## Explore
#
# Look at the other measures, and at the shifted images.

# %%
import ipywidgets

from sbtutor import widgets

images = ipywidgets.Dropdown(options=["test", "shifted"])
quantity = ipywidgets.Dropdown(options=list(NAMES), value="brier")
widgets.explore(plot_sizes, images=images, quantity=quantity)

# %% tags=["nbval-check-output"]
images.value = "shifted"
figure = plot_sizes(images.value, quantity.value)
assert list(figure.data[-1].x) == sorted(sizes["size"].unique())
print(figure.layout.title.text)

# %% [markdown]
# ## Probabilities or logits?
#
# One could also average the logits, and apply softmax afterwards. That is a *geometric*
# mean of the probabilities, rescaled. A member that is sure of "no" can then veto a
# class. All four papers of this course average probabilities, and so do we.

# %%
by_average = {}
for average in ("probs", "logits"):
    probs = metrics.ensemble_probs(logits, average=average)
    by_average[average] = {k: float(getattr(metrics, k)(probs, labels)) for k in NAMES}
pd.DataFrame(by_average).T.rename_axis("mean of").round(4)

# %% [markdown]
# Differences here are small, and one run cannot rank them.

# %% [markdown]
# ## Is 80 % sure really 80 % right?
#
# Put the images into bins by the ensemble's *confidence*, its largest probability. In
# each bin compare the mean confidence with the share of right answers. On the diagonal
# they agree. Below it the ensemble is too sure of itself, above it too modest. Larger
# marks hold more images.

# %%
bins = {
    "member 0": metrics.reliability(member_probs[0], labels),
    "ensemble": metrics.reliability(mean_probs, labels),
}
plots.reliability(bins, "Calibration of a member and of the ensemble, test images")

# %% [markdown]
# ## When the world shifts
#
# Test images come from the same source as the training images. Real ones seldom do. So
# we disturb them, at five severities (0 leaves them as they are). We compare the average
# member with the ensemble.

# %%
from sbtutor import corruptions
from sbtutor.evaluate import predictions_row

few = data.subset(splits.test, min(1000, len(splits.test.labels)), seed=0)


def at_severity(kind, severity):
    """All numbers of the ensemble on images of one kind and severity."""
    images = few.images
    if severity > 0:
        images = corruptions.corrupt(images, kind, severity)
    seen = predict(run.members, data.Split(images, few.labels, few.classes))
    confidence = metrics.ensemble_probs(seen.logits).amax(-1).mean()
    return predictions_row(seen) | {"confidence": float(confidence)}


# %%
shifted = {}
for kind in ("gaussian_noise", "defocus_blur", "contrast"):
    shifted[kind] = pd.DataFrame([at_severity(kind, severity) for severity in range(6)])


def plot_shift(kind, quantity="accuracy"):
    """Average member and ensemble against severity."""
    columns = {"average member": f"member_{quantity}", "ensemble": quantity}
    series = {name: shifted[kind][column].tolist() for name, column in columns.items()}
    title = f"{quantity} under {kind} (one run, seed {seed})"
    return plots.lines(list(range(6)), series, title, "severity", quantity)


plot_shift("gaussian_noise")

# %%
plot_shift("defocus_blur")

# %%
plot_shift("contrast")

# %% [markdown]
# Compare the two lines at each severity: the ensemble falls with its members. (Intervals
# over eight sets are in the figure above; choose *shifted*.) It is a better witness than
# each member; it is not a cure.
#
# Does it at least know that it sees less? If confidence fell as fast as accuracy, yes:

# %%
shifted["gaussian_noise"][["accuracy", "confidence", "ece", "nll"]].round(3)

# %% [markdown]
# ## Exercises
#
# **1. The ensemble's probabilities** (easy, 3 minutes). Write the function without looking
# back. `check` tells you what is wrong.

# %% tags=["exercise"]
from sbtutor import check


def my_ensemble_probs(logits):
    """Logits (M, N, C) to the ensemble's probabilities (N, C)."""
    # solution
    return logits.softmax(dim=-1).mean(dim=0)
    # end


right = check.ensemble_probs(my_ensemble_probs)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>Which axis holds the members, which the
# classes?</details>
# <details><summary>Hint 2: an outline</summary>First softmax over the classes, then a mean over
# the members.</details>
# <details><summary>Hint 3: almost there</summary>The first axis is <code>dim=0</code>, the last
# <code>dim=-1</code>. Chain <code>.softmax(dim=...)</code> and
# <code>.mean(dim=...)</code>.</details>
#
# <!-- solution -->
#
# **2. A vote** (medium, 8 minutes). Let each member vote for its favourite class. The
# class with most votes wins; how you break ties does not matter here.


# %% tags=["exercise"]
def my_vote(logits):
    """Logits (M, N, C) to the class with most votes (N,)."""
    # solution
    return logits.argmax(-1).mode(dim=0).values
    # end


right = check.vote(my_vote)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>What does <code>logits.argmax(-1)</code> hold, and
# which shape has it?</details>
# <details><summary>Hint 2: an outline</summary>First the votes, (M, N). Then, for each image, the
# most frequent value among its M votes.</details>
# <details><summary>Hint 3: almost there</summary>The most frequent value along an axis is
# <code>votes.mode(dim=...)</code>. It gives values and indices; you want
# <code>.values</code>.</details>
#
# <!-- solution -->
#
# The **ensemble improvement rate** (EIR, Theisen et al. 2023) is the share of the members'
# error that the ensemble removes. When can a vote remove less than the mean?

# %%
from sbtutor import diversity

eir_vote = diversity.ensemble_improvement_rate(logits, labels, by="vote")
eir_probs = diversity.ensemble_improvement_rate(logits, labels, by="probs")
print(f"error removed by voting: {eir_vote:.1%}, by averaging: {eir_probs:.1%}")

# %% [markdown]
# <details><summary>Why</summary>A vote throws away how sure each member is. Two members
# that lean weakly to a wrong class outvote one that is sure of the right one.</details>
#
# **3. The ambiguity** (medium, 10 minutes). Write what the mean gains in Brier score,
# $\frac1M \sum_m \|p_m - \bar p\|^2$, averaged over the images. You need no labels: diversity can
# be measured without knowing the truth.


# %% tags=["exercise"]
def my_ambiguity(probs):
    """The members' probabilities (M, N, C) to one number."""
    # solution
    from_mean = probs - probs.mean(0)
    return from_mean.square().sum(-1).mean()
    # end


right = check.ambiguity(my_ambiguity)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>The square of a vector's length is the sum of the
# squares of its entries, here one for each class.</details>
# <details><summary>Hint 2: an outline</summary>Subtract the ensemble's probabilities from each
# member's; square; take the sum over classes; take the mean over members and images.</details>
# <details><summary>Hint 3: almost there</summary><code>probs - probs.mean(0)</code> has shape
# (M, N, C). Then <code>.square()</code>, <code>.sum(...)</code> over the last axis, and
# <code>.mean()</code>.</details>
#
# <!-- solution -->
#
# **4. Half of everything** (medium, 10 minutes). You have trained two members only. You know the
# mean Brier score of one member, and that of the two together. What will $M$ members have?


# %% tags=["exercise"]
def my_brier(one, two, size):
    """Brier scores of sizes 1 and 2, and M = size, to the Brier score of size M."""
    # solution
    return one - 2 * (1 - 1 / size) * (one - two)
    # end


right = check.brier_by_size(my_brier)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>The average member's score does not depend on M. What
# the mean gains over it is the ambiguity, (1 - 1/M) V. (See "More members".)</details>
# <details><summary>Hint 2: an outline</summary>Write this for M = 2 and find V from the two
# scores. Then put V into the formula for M.</details>
# <details><summary>Hint 3: almost there</summary>For M = 2 the gain is V / 2, so V is
# <code>2 * (one - two)</code>. The score of size M is <code>one</code> less
# (1 - 1/M) V.</details>
#
# <!-- solution -->
#
# Now hold your prediction beside this lesson's own members. (Here it is exact, as `size_curve`
# averages over all subsets. For two members alone, one pair, it is an estimate.)

# %%
briers = size_curve(logits, labels, metrics.brier)
print("Brier score by size:", ", ".join(f"{b:.4f}" for b in briers))
print("predicted for the last:", my_brier(*briers[:2], len(briers)))

# %% [markdown]
# ## What we saw
#
# | claim | source | here |
# |---|---|---|
# | ensembles improve accuracy and Brier score | Fort et al. 2019 | shown: from one to six members accuracy goes from 85.0 % to 86.9 %, Brier score from .215 to .188 |
# | the gain shrinks with each member | Fort et al. 2019 | shown: the second member brings 1.1 points of accuracy, the sixth 0.1 |
# | the ensemble is better than a member under shift too | Fort et al. 2019 | shown, on average over five corruptions: accuracy 54.4 % to 57.5 %, Brier score .669 to .581 |
# | four members, CIFAR-100: accuracy .801 to .826, NLL .811 to .661, ECE .062 to .022 | Wenzel et al. 2020 | same direction, six members: accuracy .850 to .869, NLL .431 to .371, ECE .027 to .016 |
#
# ## Common mistakes
#
# - **Softmax over the wrong axis.** The result still sums to one somewhere. Keep the
#   order members, images, classes.
# - **Calling subsets of one set of members independent.** They share members. The band
#   in our figure is over eight separate sets.
# - **Reading ECE alone.** A network that always gives the class frequencies has ECE
#   near 0 and is useless.
# - **Choosing the best member on the test set** and calling that the single network.
#
# ## References
#
# - Fort, Hu, Lakshminarayanan (2019). *Deep ensembles: a loss landscape perspective.*
#   arXiv 1912.02757.
# - Wenzel, Snoek, Tran, Jenatton (2020). *Hyperparameter ensembles for robustness and
#   uncertainty quantification.* NeurIPS. arXiv 2006.13570.
# - Theisen, Kim, Yang, Hodgkinson, Mahoney (2023). *When are ensembles really
#   effective?* NeurIPS. arXiv 2305.12313.
# - Krogh, Vedelsby (1994). *Neural network ensembles, cross validation, and active
#   learning.* NIPS. (The ambiguity identity, for regression.)
# - Hendrycks, Dietterich (2019). *Benchmarking neural network robustness to common
#   corruptions and perturbations.* ICLR. arXiv 1903.12261. (Our strengths differ.)
# - Guo, Pleiss, Sun, Weinberger (2017). *On calibration of modern neural networks.*
#   ICML. arXiv 1706.04599.
