# %% [markdown]
# # What do several networks know that one does not, and what does flatness cost them?
#
# **Minutes:** read 8, do 16, compute 1

# %% [markdown]
# ## Objectives
#
# After this lesson you can
#
# - check that your set-up works;
# - say what a *deep ensemble* is, and measure what it gains;
# - say what *sharpness* and *diversity* are, and why SAM trades one for the other;
# - say what SharpBalance does about it;
# - find your way through the rest of the course.
#
# You need: Python, and the idea of training a classifier by gradient descent.

# %% [markdown] tags=["teacher"]
# **For the teacher.** Talking points:
#
# - What would an ensemble of three equal networks gain? (Nothing: only differences pay.)
# - Why is one number for diversity not enough? A bad member differs from everybody.
# - SAM changes two things at once. Let the class say which of them should help, and which hurt.
#
# Time: 8 minutes to read, 15 for the exercises, which need no programming beyond lists. The three
# trainings take about a minute at preset class; start them before you talk.
#
# Typical misunderstandings: the ensemble is taken for a vote (exercise 1); a gain in points is
# taken for a gain in per cent (exercise 3); one run is taken for a proof (exercise 4).

# %% tags=["parameters"]
import os

preset: str = os.environ.get("SBTUTOR_PRESET", "class")  # smoke | class | paper
seed: int = 0  # seed of the first member

# %%
from sbtutor import session

lesson = session.start("00", preset, seed)

# %% [markdown]
# If the line above names a device, a preset and a seed, your set-up works.
#
# The preset says how large everything is. `smoke` takes seconds and only shows that the
# code runs. `class` is made for a laptop: real images, small networks. `paper` holds
# the settings of the published experiments, and wants a GPU.
#
# ## The images
#
# In `class` these are 10,000 pictures of clothes from Fashion-MNIST (Xiao et al. 2017),
# which come with the package. There are 5,000 to train on, 1,000 to choose settings
# with, and 4,000 to test.

# %%
from sbtutor import data, plots

splits = data.load(lesson.base.data)
few = data.subset(splits.test, 16, seed=1)
names = [splits.test.classes[k] for k in few.labels]
plots.gallery(few.images.numpy(), names, "Sixteen test images and their classes")

# %% [markdown]
# ## Three networks that differ by chance
#
# A **deep ensemble** is the simplest of all ensembles. Train the same network several
# times, from different random weights and with the data in a different order. Then
# average what the members say.
#
# Write $p_m(c \mid x)$ for the probability that member $m$ gives to class $c$ for image
# $x$. With $M$ members the ensemble's probability is their mean:
#
# $$\bar p(c \mid x) = \frac{1}{M} \sum_{m=1}^{M} p_m(c \mid x).$$
#
# Its answer is the class with the largest $\bar p$.
#
# To fit the story into about a minute, this lesson trains for half the usual epochs. The
# learning rate is cut once, in the middle.

# %%
half = lesson.base.train.epochs // 2
short = dict(epochs=half, milestones=[half // 2], warmup_epochs=half // 2)

# %% [markdown]
# ## Predict first
#
# One member gets roughly 83 of 100 test images right. How many more will the mean of
# three get right? Write your guess before you run the next cells.

# %%
my_guess = 3.0  # percentage points; change me
lesson.guess("gain of three members, in points", my_guess)

# %%
deep = lesson.fit(method="sgd", **short)
gain = 100 * (deep.metrics["test_accuracy"] - deep.metrics["test_member_accuracy"])
lesson.compare("gain of three members, in points", round(gain, 1))

# %% [markdown]
# The gain comes from images on which the members *disagree*. If they all made the same
# mistakes, the mean would make them too. So two things make a good ensemble: good
# members, and members that err on different images.
#
# We measure the second by the **disagreement-error ratio** (DER): how often two members
# give different answers, divided by how often one is wrong.
# 0 means that they never differ. Members that err independently, and rarely, come
# near 2.

# %%
print(f"DER of the deep ensemble: {deep.metrics['test_der']:.2f}")

# %% [markdown]
# ## Flat minima
#
# Think of the loss as a landscape over the weights. Some minima are wide valleys,
# others are narrow. In a narrow one, a small change of the weights raises the loss
# a lot: it is **sharp**. Flat minima often do better on new images, though not always.
#
# **Sharpness-aware minimisation** (SAM, Foret et al. 2021) looks for flat ones. In each
# step it first goes a distance $\rho$ (rho) *uphill*, takes the gradient there, and uses
# that gradient for the step from where it was.
#
# So the same three networks once more, trained with SAM:

# %%
sam = lesson.fit(method="sam", **short)
for name, run in (("deep ensemble", deep), ("SAM ensemble", sam)):
    m = run.metrics
    print(f"{name}: trace of the Hessian {m['hessian_trace']:.0f}", end=", ")
    print(f"DER {m['test_der']:.2f}")

# %% [markdown]
# The *Hessian* is the matrix of second derivatives of the loss. Its *trace* adds up the
# curvature along all weights. A large trace means sharp.
#
# In preset `class` SAM makes it smaller. But DER falls as well: the members have become
# more alike. This is the **sharpness-diversity trade-off** (Lu et al. 2024).
#
# ## Keeping both
#
# **SharpBalance** (Lu et al. 2024) starts as SAM. Half-way it asks each member which
# training images are sharpest for it. From then on, each member uses SAM only on the
# images that the *other* members call sharp, and plain gradient steps on the rest.
# So the members seek flatness on sets of images that differ from member to member (but
# overlap a lot).

# %%
balanced = lesson.fit(method="sharpbalance", **short)
shares = ", ".join(f"{share:.0%}" for share in balanced.sam_masks.float().mean(1))
print(f"share of the training images on which each member uses SAM: {shares}")

# %% [markdown]
# ## The whole story in one table

# %%
import pandas as pd

runs = {"deep ensemble": deep, "SAM": sam, "SharpBalance": balanced}
shown = {
    "test_member_accuracy": "member accuracy",
    "test_accuracy": "ensemble accuracy",
    "test_der": "DER",
    "hessian_trace": "Hessian trace",
    "shift_member_accuracy": "member accuracy, shifted",
    "shift_accuracy": "ensemble accuracy, shifted",
}
table = pd.DataFrame({name: run.metrics for name, run in runs.items()}).T
table[list(shown)].rename(columns=shown).round(3)

# %% [markdown]
# "Shifted" means: 1,000 of the test images after noise (two kinds), blur, loss of
# contrast or more brightness, each at three strengths: 15 changes, averaged. It shows
# how the networks fare when the world is not quite like the training data.
#
# **One run proves little.** Another seed gives other numbers. So the course repeats
# its experiments over eight ensembles with fresh seeds, and shows means with 95 % intervals.
# Here are those for the two numbers that the trade-off is about. They were
# computed beforehand; the command that recomputes them is
# `python notebooks/results/recompute.py fashion`.

# %%
from sbtutor import results

many = results.committed("results/fashion")
kept = many[many["label"].isin(["DE", "SAM 0.1", "SharpBalance 0.1"])]
plots.scatter(
    kept,
    x="hessian_trace",
    y="test_der",
    group="label",
    title="Sharpness and diversity, eight ensembles each (fashion-mini)",
    x_title="Hessian trace (sharper to the right)",
    y_title="DER (more diverse upwards)",
)

# %% [markdown]
# Small dots are single ensembles. Large marks are their means. The bars are 95 %
# intervals. The eight ensembles differ in first weights and data order only; the images
# are the same. So an interval says what another seed would give, not what other images
# would give.
#
# ## Explore
#
# Choose what to compare. Which numbers fall with SAM, and which rise?

# %%
import ipywidgets

from sbtutor import widgets

FAMILIES = {"test": "test", "shifted test": "shift"}


def compare(images: str, quantity: str):
    """One quantity for the three methods, with intervals."""
    column = f"{FAMILIES[images]}_{quantity}"
    title = f"{quantity} on {images} images (fashion-mini, eight ensembles)"
    return plots.intervals(results.by_label(kept, column), title, quantity)


images = ipywidgets.Dropdown(options=list(FAMILIES))
quantity = ipywidgets.Dropdown(options=["accuracy", "member_accuracy", "der", "nll"])
widgets.explore(compare, images=images, quantity=quantity)

# %% tags=["nbval-check-output"]
quantity.value = "der"
title = compare(images.value, quantity.value).layout.title.text
assert title.startswith("der on test images")
print(title)

# %% [markdown]
# **Train some yourself.** Press *Start*, and three small networks train while you watch. (Nothing
# is trained before, and you may run other cells meanwhile.) Left: the training loss of each
# member. Middle: accuracy on the validation images, of the members (thin) and the ensemble
# (thick). Right: the trade-off point and the way it has come. *SAM rise* says how much
# one step uphill raises the loss: a cheap measure of how sharp a minimum is.
#
# - Start a deep ensemble, then SAM. The first stays as a grey square. Where does SAM end?
# - Choose a larger $\rho$. Does the point go on in the same direction? With every seed?
# - Start one method again with other seeds. How far apart do its points end? That is how
#   little one run proves.

# %%
brief = dict(members=3, epochs=8, milestones=[5], warmup_epochs=4, compile=False)
trainer = widgets.trainer(lesson.vary(**brief))
trainer

# %% [markdown]
# The next cell presses *Start* for you, for two epochs, and waits for the end. (The book has no
# kernel and no buttons, so there this is all you see.)

# %%
brief |= dict(epochs=2, milestones=[1], warmup_epochs=1)
short_one = widgets.trainer(lesson.vary(**brief))
short_one.buttons["start"].click()
assert short_one.training.join(timeout=600), "two epochs do not take ten minutes"
assert short_one.training.status == "finished", short_one.training.error
assert [epoch.number for epoch in short_one.training.history] == [1, 2]
short_one.picture()

# %% [markdown]
# ## Exercises
#
# **1. One image** (easy, 3 minutes). Three members look at one image. These are their
# probabilities:
#
# | | coat | shirt | dress |
# |---|---|---|---|
# | member 0 | .50 | .45 | .05 |
# | member 1 | .55 | .40 | .05 |
# | member 2 | .09 | .65 | .26 |
#
# What is the ensemble's probability of each class, and what is its answer? No code is needed.
# `check` tells you whether you are right, and if not, what is wrong.

# %% tags=["exercise"]
from sbtutor import check

my_probs = [0.38, 0.50, 0.12]  # solution
my_answer = "shirt"  # solution
right = check.one_image(my_probs, my_answer)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>The formula is in the section on three networks: a
# mean over members.</details>
# <details><summary>Hint 2: an outline</summary>Take one column of the table at a time. Then look
# which mean is the largest.</details>
# <details><summary>Hint 3: almost there</summary>For coat it is (.50 + .55 + .09) / 3. Write the
# three means in brackets, and the answer in quotes, as in "dress".</details>
#
# <!-- solution -->
#
# <details><summary>Why</summary>Two of three members would answer coat, but both are nearly
# undecided. Member 2 is sure that it is no coat. A mean of probabilities listens to how sure each
# member is; a vote does not.</details>
#
# **2. How often do they differ?** (easy, 5 minutes). Two members have given their answers, one
# class number for each image. On which share of the images do they differ? (This is the upper half
# of DER.)


# %% tags=["exercise"]
def my_share_differing(a, b):
    """Two lists of N class numbers to a share between 0 and 1."""
    # solution
    differ = [x != y for x, y in zip(a, b)]
    return sum(differ) / len(a)
    # end


right = check.share_differing(my_share_differing)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>For one image the answers <code>x</code> and
# <code>y</code> are the same, or they are not. By how much the numbers differ says
# nothing.</details>
# <details><summary>Hint 2: an outline</summary>Go through both lists at once with
# <code>zip(a, b)</code>, count the pairs that differ, divide by the number of images.</details>
# <details><summary>Hint 3: almost there</summary><code>x != y</code> is True or False, and
# <code>sum</code> counts True as 1. Fill in: <code>sum(... for x, y in zip(a, b)) /
# len(a)</code></details>
#
# <!-- solution -->
#
# **3. The gain, in points** (easy, 4 minutes). Accuracies are shares between 0 and 1. By how many
# percentage points is the ensemble better than its *mean* member?


# %% tags=["exercise"]
def my_points_gained(members, ensemble):
    """A list of the members' accuracies, and the ensemble's, to points."""
    # solution
    return 100 * (ensemble - sum(members) / len(members))
    # end


right = check.points_gained(my_points_gained)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>From 80 % to 84 % is a gain of 4 points.</details>
# <details><summary>Hint 2: an outline</summary>First the members' mean accuracy. Then the
# difference. Then from a share to points.</details>
# <details><summary>Hint 3: almost there</summary>The mean is <code>sum(members) /
# len(members)</code>; a share times 100 is in points.</details>
#
# <!-- solution -->
#
# <details><summary>Why</summary>Say always what a gain is measured from. Over the <em>best</em>
# member it is smaller; and whoever picks that member by its test accuracy has used the test images
# to choose.</details>
#
# **4. One more run** (easy, 3 minutes). Each of the eight seeds behind these figures gives a pair: a
# deep ensemble, and one with SAM ($\rho = 0.1$). Under shift the ensemble with SAM is the more
# accurate one in six pairs, and the less accurate one in two. You train a ninth pair, with another
# seed. Suppose that SAM's accuracy comes out *lower*. What follows? (To try it, write `seed = 100`
# in the parameters cell and run the lesson again.)
#
# - a: There is a mistake in the code.
# - b: SAM is worse under shift.
# - c: Little. Such runs happen; six of nine are for SAM, and nine are few.
# - d: Leave this run out, since it does not fit the others.

# %% tags=["exercise"]
my_choice = "c"  # solution
right = check.one_more_run(my_choice)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>How surprising is the new run, after those
# eight?</details>
# <details><summary>Hint 2: an outline</summary>Two of eight came out so before. Which of the four
# sentences would you also have said after one of those two?</details>
# <details><summary>Hint 3: almost there</summary>A rare result is no mistake, one result is no
# proof, and a result that nobody likes counts like any other.</details>
#
# <!-- solution -->
#
# <details><summary>Why</summary>The Hessian trace, DER and clean accuracy put SAM below the deep
# ensemble in all eight pairs: there one more run tells the same story. Under shift the order
# changes from seed to seed. That is why the course shows means with intervals.</details>
#
# ## What we saw
#
# | idea | here (eight ensembles) | in the paper (CIFAR-10, ResNet-18) |
# |---|---|---|
# | an ensemble beats its members | yes, 85.1 % to 86.4 % | 94.74 % to 95.58 % |
# | SAM lowers sharpness and diversity | yes, both | yes, both |
# | SAM makes better members | under shift (54.5 % to 55.2 %), not on clean images | yes |
# | SharpBalance is more diverse at the same sharpness | not on these images; on CIFAR-10 see lesson 09 | yes |
#
# That a small network does not gain clean accuracy from SAM need not surprise: it may not
# fit its training data, and SAM makes fitting harder. Lessons 07 and 09 look closer, with
# more methods and a second data set.

# %% [markdown]
# ## Common mistakes
#
# - **The same seed for all members.** Then there is one network, three times.
# - **Averaging logits instead of probabilities.** That is another ensemble; lesson 01
#   compares them.
# - **Believing one run.** Differences between methods are often smaller than
#   differences between seeds.
#
# ## A map of the course
#
# | lesson | question | state |
# |---|---|---|
# | 00 | What does the whole story look like in one minute? | you are here |
# | 01 | [Why does averaging a few networks help?](01_deep_ensembles.ipynb) | ready |
# | 02 | [Why does random initialisation beat subspace sampling?](02_loss_landscape.ipynb) | ready |
# | 03 | [Does mixing hyperparameters add diversity?](03_hyperparameter_ensembles.ipynb) | ready |
# | 04 | [Can an ensemble cost little more than one network?](04_batch_ensembles.ipynb) | ready |
# | 05 | [Stay in the pre-train basin, or leave it?](05_pretrain_basin.ipynb) | ready |
# | 06 | [What is sharpness, and do its measures agree?](06_sharpness.ipynb) | ready |
# | 07 | [Does SAM buy flatness with diversity?](07_tradeoff.ipynb) | ready |
# | 08 | [What does a linear model prove about it?](08_theory.ipynb) | ready |
# | 09 | [Can we keep both? SharpBalance and its controls](09_sharpbalance.ipynb) | ready |
# | 10 | [From this laptop to the papers' experiments: how do we trust the table?](10_full_scale.ipynb) | ready |
#
# And a page beside them: [what the four papers report, and ours](paper_vs_ours.ipynb).
#
# ## References
#
# - Lu, Liu, Zhou, et al. (2024). *Sharpness-diversity tradeoff: improving flat ensembles
#   with SharpBalance.* NeurIPS. arXiv 2407.12996.
# - Lakshminarayanan, Pritzel, Blundell (2017). *Simple and scalable predictive
#   uncertainty estimation using deep ensembles.* NeurIPS. arXiv 1612.01474.
# - Foret, Kleiner, Mobahi, Neyshabur (2021). *Sharpness-aware minimization for
#   efficiently improving generalization.* ICLR. arXiv 2010.01412.
# - Theisen, Kim, Yang, Hodgkinson, Mahoney (2023). *When are ensembles really
#   effective?* NeurIPS. arXiv 2305.12313.
# - Xiao, Rasul, Vollgraf (2017). *Fashion-MNIST: a novel image dataset for benchmarking
#   machine learning algorithms.* arXiv 1708.07747.
