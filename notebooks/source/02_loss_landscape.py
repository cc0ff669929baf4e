# %% [markdown]
# # Why does random initialisation beat subspace sampling?
#
# **Minutes:** read 30, do 39, compute 2

# %% [markdown]
# ## Objectives
#
# After this lesson you can
#
# - treat a network as a point, and say when two points are two functions;
# - draw networks near one optimum in four ways;
# - derive and read the diversity-accuracy plane;
# - walk from one optimum to another without losing accuracy;
# - say what an ensemble gains from networks near one optimum, and what from new starts;
# - say which of the paper's claims hold at this size, and which do not.
#
# You need: lessons 00 and 01.

# %% [markdown] tags=["teacher"]
# **For the teacher.** Talking points:
#
# - When are two points of weights the same function? (Exercise 5: always look at votes, too.)
# - Why divide by the error? Two good networks *must* agree on most images (exercise 3).
# - Where in the plane would a sampler lie that pays no accuracy for being different?
# - "One valley in loss, not one in function": what does the bent path prove, what not?
#
# Time: 30 minutes to read, of which a third goes to the plane of diversity and accuracy; do not
# skip its two curves. Exercises 1 to 4 in class, 5 at home.
#
# Typical misunderstandings: a barrier on the straight line is taken for a proof of different
# functions; the limit curves are taken for bounds; distances on the t-SNE map are read.

# %% tags=["parameters"]
import os

preset: str = os.environ.get("SBTUTOR_PRESET", "class")  # smoke | class | paper
seed: int = 0  # seed of the first member
images: int = 1000  # test images that the networks are compared on

# %%
from sbtutor import session

lesson = session.start("02", preset, seed)

# %% [markdown]
# ## The question
#
# A deep ensemble needs $M$ trainings. Could one training be enough? Write $w$ for all
# weights of a network, biases included, as one vector. Training ends at some $w^*$, the
# **optimum** of that run. (The name is a habit: it is where training stopped, not the
# lowest point.) Near $w^*$ there are many more networks that do almost as well. Drawing
# some of them, and averaging what they say, is called **subspace sampling**. It costs no
# second training.
#
# Fort et al. (2019) say that this gains much less than new starts do. Networks near one
# optimum are *the same function* with small changes. Another random start ends at *another
# function*. This lesson looks at both.
#
# We train three networks nearly as they did their SmallCNN (the images are ours: fewer, grey
# and scaled): three convolutions without norm layers, dropout of
# 0.1, and 40 epochs of Adam, whose learning rate is halved three times. (The line above has
# the preset's usual network and epochs.) The weights are kept after each epoch.

# %%
import dataclasses

from sbtutor import results, train
from sbtutor.config import ModelConfig

settings = dict(optimizer="adam", lr=1.6e-3, lr_decay=0.5, weight_decay=0.0)
settings |= dict(members=3, snapshots=True, epochs=6 if preset == "smoke" else 40)
settings |= dict(milestones=[settings["epochs"] * q // 4 for q in (1, 2, 3)])
model = ModelConfig(name="small_cnn", norm="none")
if preset == "paper":
    settings |= dict(crop=0, flip=False, bf16=False, compile=False, batch_size=128)
    model = ModelConfig(name="medium_cnn")

# %%
experiment = dataclasses.replace(lesson.vary(**settings), model=model)
run = train.fit(experiment, results.run_folder(lesson.runs, experiment))

# %% [markdown]
# ## A network is a point
#
# All $P$ weights of a network in a row are a point of $P$ dimensions. A **trajectory** is
# the row of points after each epoch. (Snapshots are rounded to 16 bits to save space.)

# %%
import torch

from sbtutor import snapshots, stack

network = run.members[0]
by_hand = torch.cat([p.detach().flatten() for p in network.parameters()])
optima = stack.points_of(run.members)  # (M, P)
assert torch.equal(by_hand, optima[0])
trajectories = snapshots.points(run.out).to(optima)  # (M, T, P)
print("optima (M, P):", tuple(optima.shape), " T =", trajectories.shape[1], "epochs")

# %% [markdown]
# What a network *does* is another matter. We ask all of them about the same test images.
# The **vote** of a network for an image is the class with its largest logit.

# %%
from sbtutor import data

splits = data.load(experiment.data)
few = data.subset(splits.test, min(images, len(splits.test.labels)), seed=0)
# The network with each row's weights, asked about the images of `few`:
ends = stack.logits_at(network, optima, few)  # (M, N, C)
along = torch.stack([stack.logits_at(network, path, few) for path in trajectories])


def accuracy(logits):
    """Share of right votes, for each network."""
    return (logits.argmax(-1) == few.labels).float().mean(-1)


print("accuracies of the optima:", ", ".join(f"{a:.3f}" for a in accuracy(ends)))

# %% [markdown]
# ## Alike in weights, alike in votes?
#
# Two numbers compare networks $i$ and $j$:
#
# $$\cos_{ij} = \frac{w_i \cdot w_j}{\|w_i\| \, \|w_j\|}, \qquad
# d_{ij} = \frac1N \sum_n \mathbb 1[\hat y_i(x_n) \ne \hat y_j(x_n)].$$
#
# The **weight cosine** is 1 for parallel weights and 0 for orthogonal ones. The
# **disagreement** is the share of the $N$ images on which the votes $\hat y_i(x_n)$ and
# $\hat y_j(x_n)$ differ. You will write it yourself in exercise 1.
#
# We take eight checkpoints of each run, at equal distances in epochs.

# %%
from sbtutor import diversity, landscape

step = max(1, settings["epochs"] // 8)
points = trajectories[:, step - 1 :: step].flatten(0, 1)  # run after run
unit = points / points.norm(dim=1, keepdim=True)
cosine = unit @ unit.T
assert torch.allclose(cosine, landscape.weight_cosine(points), atol=1e-4)
apart = diversity.pairwise_disagreement(along[:, step - 1 :: step].flatten(0, 1))

# %%
from sbtutor import maps

pair = {"weight cosine": cosine.cpu().round(decimals=2), "disagreement": apart}
title = "Three runs: within a run alike, between runs orthogonal and different"
maps.heatmaps(pair, ["1", "2", "3"], title, f"every {step}th epoch, early ones first")

# %% [markdown]
# Each block on the diagonal is one run. There the later checkpoints are nearly parallel,
# and vote nearly alike. Between runs the cosine is about 0, at all times. And the votes
# differ more than late checkpoints of one run do, though the accuracies are nearly equal.
#
# How much does the cosine of 0 say? Less than it seems, for two reasons. In many dimensions
# unrelated vectors are nearly always almost orthogonal: for two vectors of $P$ independent
# numbers of mean 0 the cosine is about $\pm 1/\sqrt P$. And weights are not functions. Put
# the channels of a layer in another order, and those of the next layer to match. The
# weights change, the votes do not (exercise 5). So the cosine shows that the runs ended at
# unrelated *points*. That they are different *functions* is shown by the votes alone.
#
# ## A plane through two optima
#
# Two optima and the point 0 span a plane. We look at the networks on it. Its axes
# are made orthogonal by Gram and Schmidt:

# %%
from sbtutor import planes

first = optima[0] / optima[0].norm()
rest = optima[1] - (optima[1] @ first) * first  # what is not along the first axis
second = rest / rest.norm()
plane = planes.radial_plane(optima[0], optima[1])
assert torch.allclose(plane.axes, torch.stack([first, second]), atol=1e-5)

# %% [markdown]
# A point of the plane is $x \, e_1 + y \, e_2$, with the two axes $e_1$ and $e_2$. Its
# distance from 0 is the length of the weights, $\sqrt{x^2 + y^2} = \|w\|$. On a circle around
# 0 all networks have weights of equal length.
#
# On a ray from 0, weights and biases are multiplied by a number $c$. Without biases our
# layers would pass it on: the logits of $L$ layers would be $c^L$ times the old ones, and all
# votes the same. With biases this holds only nearly, and near the optimum. Outward the
# biases of all layers but the first matter less and less; far out the network votes as if it
# had none there. Towards 0 the last layer's biases win, and in the end all images get the
# same vote.
#
# `survey` gives, for each point, the accuracy and the share of votes it has in common with
# each optimum.

# %%
ticks = torch.linspace(-0.3, 1.3, 9 if preset == "smoke" else 17)  # 17 x 17 networks
ticks = ticks * float(optima.norm(dim=1).max())
seen = landscape.survey(network, plane.points(ticks, ticks), few, references=ends[:2])

# %%
from sbtutor import plots

places = plane.coordinates(optima[:2]).tolist()
marks = {"optimum 1": places[0], "optimum 2": places[1]}
axes = ("along optimum 1", "orthogonal to it")
grid = [round(x, 2) for x in ticks.tolist()]


def on_plane(values, title, unit):
    """A map of one value per point of the plane."""
    z = values.view(len(grid), len(grid)).numpy()
    return plots.surface(grid, grid, z, title, *axes, unit, marks)


on_plane(seen.accuracy, "Two good regions, of nearly equal accuracy", "accuracy")

# %%
to_first, to_second = seen.similarity.unbind(1)
title = "Votes in common with optimum 1, minus those with optimum 2"
on_plane(to_first - to_second, title, "share of images")

# %%
shared = 1 - diversity.pairwise_disagreement(ends[:2])[0, 1]
print(f"optima 1 and 2 have {shared:.3f} of their votes in common")

# %% [markdown]
# The first map has two good regions, and does not tell one from the other. The second does.
# Near optimum 1 the networks vote more like optimum 1, near optimum 2 more like optimum 2. Same
# accuracy, other function.
#
# But look at the numbers, too. The difference is small, since the optima have *most* votes in
# common. Both are right on most images, and there they must agree. They can differ only
# where at least one of them errs. So we shall have to divide by the error.
#
# ## Four ways to stay near one optimum
#
# All samplers start from one run: from its optimum $w^*$, or from the mean $\mu$ of its
# last $K = 10$ checkpoints. Each has a **strength**.
#
# | sampler | a sample | strength |
# |---|---|---|
# | random | $w = w^* + r \, v / \lVert v \rVert$, with $v \sim \mathcal N(0, I)$ | the length $r$ of the step, here as a share of $\lVert w^* \rVert$ |
# | dropout | $w_i = w^*_i \, b_i / (1 - p)$, with $b_i = 0$ with probability $p$, else 1 | $p$ |
# | diagonal | $w_i \sim \mathcal N(\mu_i, (s \, \sigma_i)^2)$, with $\sigma_i$ the standard deviation of weight $i$ over the checkpoints | $s$ |
# | low rank | $w = \mu + s \sum_{j=1}^{5} z_j v_j$, with $z_j \sim \mathcal N(0, 1)$ | $s$ |
# | swag | $w = \mu + s \sum_{j=1}^{5} z_j \, \frac{\ell_j}{\sqrt{K - 1}} \, v_j$, with $z_j \sim \mathcal N(0, 1)$ | $s$ |
#
# The $v_j$ are the checkpoints' **principal directions**: unit vectors along which they
# spread most. $\ell_j$ is how far: the $j$-th singular value of the matrix with rows
# (checkpoint $- \mu$). "low rank" is the paper's form. It goes equally far in each of the
# five directions. "swag" is the low-rank part of SWAG (Maddox et
# al. 2019). It goes far where training went far: for $s = 1$
# its covariance is that of the checkpoints, as far as five directions can hold it. So there
# are four ways, one of them in two forms. ($\sigma_i$ divides by $K$, as in the authors' code.)
#
# The first is two lines. It equals the package's, given the same random numbers:

# %%
from sbtutor import subspace

draw = torch.Generator().manual_seed(seed)
v = torch.randn(len(optima[0]), generator=draw).to(optima)
sample = optima[0] + 2.0 * v / v.norm()  # a step of length r = 2

draw = torch.Generator().manual_seed(seed)
package = subspace.random_directions(optima[0], torch.tensor([2.0]), draw)
assert torch.allclose(sample, package[0], atol=1e-5)
print(f"length of the optimum {optima[0].norm():.2f}, of the step 2.00")

# %% [markdown]
# `subspace.SAMPLERS` holds all five, called alike. `subspace.REACH` holds strengths that do
# great harm to small networks.
#
# ## Predict first
#
# Take only networks that are as accurate as the optima. Whose votes differ most from those of
# optimum 1: the other optima's, or those of one of the five samplers?

# %%
my_guess = "dropout"  # or "optima", "random", "diagonal", "low rank", "swag"
lesson.guess("whose votes differ most at equal accuracy", my_guess)

# %% [markdown]
# ## The diversity-accuracy plane
#
# Let $a$ be the accuracy of a network $w$, and $d(w^*, w)$ its disagreement with optimum 1.
# A network that errs more also differs more. So we divide by its own error:
#
# $$\text{height} = \frac{d(w^*, w)}{1 - a}.$$
#
# Here it is for optimum 2:

# %%
votes = ends.argmax(-1)
differs = (votes[1] != votes[0]).float().mean()  # d(w*, w)
errs = (votes[1] != few.labels).float().mean()  # 1 - a
height = landscape.normalized_disagreement(ends[0], ends[1:2], few.labels)
assert torch.isclose(differs / errs, height[0], atol=1e-5)
print(f"optimum 2 differs on {differs:.3f}, errs on {errs:.3f}: height {height[0]:.2f}")

# %% [markdown]
# Two curves help to read heights. Let $a^*$ be the accuracy of optimum 1, and $C$ the number
# of classes.
#
# **Independent errors** (upper curve). Suppose that whether $w$ errs has nothing to do with
# whether $w^*$ errs, and that, where $w$ errs, each of the $C - 1$ wrong classes is equally
# likely, whatever $w^*$ says. They differ when just one
# of them is right. They also differ when both are wrong in different ways: of the $C - 1$
# wrong classes, $C - 2$ are not the one that $w^*$ gave. So
#
# $$d_{\text{up}}(a) = a^*(1 - a) + a(1 - a^*) + (1 - a)(1 - a^*)\,\frac{C-2}{C-1}.$$
#
# **Flipped answers** (lower curve). Take the votes of $w^*$. With probability $d$ replace
# a vote by one of the $C - 1$ other classes, at random. A right vote is kept with
# probability $1 - d$. A wrong one becomes right with probability $d / (C - 1)$. The
# disagreement is $d$ itself. So
# $a = (1 - d)\,a^* + d\,\frac{1 - a^*}{C - 1}$, and, solved for $d$,
#
# $$d_{\text{low}}(a) = \frac{a^* - a}{a^* - \frac{1 - a^*}{C - 1}}.$$
#
# Both are divided by $1 - a$. Let us flip answers, and see whether they land on the curve:

# %%
classes, best = ends.shape[-1], float(accuracy(ends)[0])
draw = torch.Generator().manual_seed(seed)
flip = torch.rand(len(few.labels), generator=draw) < 0.3
other = torch.randint(1, classes, votes[0].shape, generator=draw)
flipped = torch.where(flip, (votes[0] + other) % classes, votes[0])
right = float((flipped == few.labels).float().mean())
_, low = landscape.limit_curves(best, classes, [right])
found = float((flipped != votes[0]).float().mean()) / (1 - right)
print(f"accuracy {right:.3f}: height {found:.3f}, on the lower curve {low[0]:.3f}")

# %% [markdown]
# (With 1,000 images chance moves this height by about 0.02.)
#
# The paper calls the curves limits. They are two stories about how networks differ, and no
# bounds. A network that spoils right votes only, and no wrong ones, has $d = a^* - a$. That
# is below the lower curve.
#
# Now the five samplers, from weak to strong, 16 samples each, and the two other optima.

# %%
import pandas as pd


def beside(method, points):
    """Where networks lie in the plane around optimum 1."""
    logits = stack.logits_at(network, points, few)
    heights = landscape.normalized_disagreement(ends[0], logits, few.labels)
    columns = {"accuracy": accuracy(logits), "normalized_disagreement": heights}
    return pd.DataFrame({"method": method} | {k: v for k, v in columns.items()})


def sampled(method, shares, member=0):
    """Samples near an optimum, at these shares of the sampler's reach."""
    draw = torch.Generator().manual_seed(seed)
    late, strengths = trajectories[member, -10:], subspace.REACH[method] * shares
    return subspace.SAMPLERS[method](optima[member], late, strengths, draw)


# %%
walk = torch.logspace(-2, 0, 16)  # from 1 % of the reach to all, in equal ratios
parts = [beside("optima", optima[1:])]
parts += [beside(name, sampled(name, walk)) for name in subspace.SAMPLERS]
networks = pd.concat(parts, ignore_index=True)
line = torch.linspace(1 / classes, best, 25)
limits = (line, *landscape.limit_curves(best, classes, line))
limits = [[round(x, 3) for x in curve.tolist()] for curve in limits]
title = "Near one optimum, and other optima (one run)"
maps.diversity_accuracy(networks, limits, title).update_layout(height=440)

# %% [markdown]
# Read each sampler from right to left. The weakest samples of *random* vote nearly as the
# optimum does. The weakest of *dropout* lack one weight in 400, and differ a little. The last
# three begin at the mean $\mu$, which already differs a little. Stronger samples differ more,
# and lose accuracy for it. Towards the left end networks are ruined (*diagonal* does not get
# there): an accuracy of chance and a height of about 1 come from any network that knows
# nothing. So *height alone* says little. Compare at equal accuracy.
#
# Where do the optima lie between the curves? The share of the way from the lower curve to
# the upper one:


# %%
def place(frame):
    """0 on the lower curve, 1 on the upper."""
    a = torch.tensor(frame["accuracy"].to_numpy())
    up, low = (c.numpy() for c in landscape.limit_curves(best, classes, a))
    return (frame["normalized_disagreement"] - low) / (up - low)


middle = networks["accuracy"].between((best + 1 / classes) / 2, best - 0.01)
compared = networks[middle | (networks["method"] == "optima")]
places = place(compared).groupby(compared["method"]).mean()
places.round(2).rename("place between the curves")

# %% [markdown]
# (Samples are left out that have lost less than a point of accuracy, or more than half of
# what the optimum has above chance. For a network better than optimum 1 the lower curve
# is set to 0.)
#
# So the optima are *far* from independent. A likely reason: some images are hard for every
# network, and a shirt is taken for a T-shirt more often than for a boot. Both bring the votes
# together. And their share is no higher here than that of most samples which have lost much
# accuracy. What sets the optima apart is that they reach their height at no cost, on average.
#
# How far apart? Ask what a sampler has *paid*, in points of accuracy, where it is as high as
# the other optima. To read that off, we smooth accuracies and heights along the strengths.
# **Isotonic regression** takes the nearest values that only fall, or only rise, so that no
# lucky sample decides. At strength 0 we start from accuracy $a^*$ and height 0, the optimum
# itself.

# %%
import numpy as np
from sklearn.isotonic import isotonic_regression

others = networks[networks["method"] == "optima"]
level = others["normalized_disagreement"].mean()  # mean height of the other optima


def price(sampler):
    """Points of accuracy lost where a sampler is as high as the other optima."""
    near = networks[networks["method"] == sampler]
    accuracies = isotonic_regression([best, *near["accuracy"]], increasing=False)
    heights = isotonic_regression([0, *near["normalized_disagreement"]])
    return 100 * (best - np.interp(level, heights, accuracies))


paid = {name: price(name) for name in subspace.SAMPLERS}
print("points paid:", ", ".join(f"{name} {value:.1f}" for name, value in paid.items()))
# Who pays for height is lower at equal accuracy.
cheapest = min(paid, key=paid.get)
answer = "optima" if paid[cheapest] > 0 else cheapest
lesson.compare("whose votes differ most at equal accuracy", answer)

# %% [markdown]
# One run says little: with another seed the samplers change places. And optimum 1 may be better
# or worse than the others. So this was done around each of four optima in turn, where both
# evens out, for eight sets with fresh seeds. There are two data sets: ours, and CIFAR-10
# (10,000 images at 16x16, with Fort et al.'s MediumCNN at a quarter of its width). Beside the
# **price** stands the **gap**: the optima's mean height, less the sampler's where it has lost
# one point of accuracy. So the sampler may be one point worse. This favours it.

# %%
many = results.committed("results/landscape")


def over_seeds(column, scale=1):
    """Mean and 95 % interval for each data set."""
    values = scale * many[column]
    return {k: str(results.interval(v)) for k, v in values.groupby(many["data"])}


# %% tags=["nbval-check-output"]
rows = {f"price of {k}, points": over_seeds(f"price_{k}", 100) for k in paid}
rows |= {f"gap to {k}": over_seeds(f"gap_{k}") for k in paid}
pd.DataFrame(rows).T

# %% [markdown]
# All prices and all gaps lie above 0. To be as high as another optimum, a sampler pays 3 to
# 4 points on fashion-mini, and 21 to 25 on CIFAR-10. (At least: some samplers never get
# that high within their reach. Then the loss at full reach counts.) Having paid one point,
# it still lies .18 to .22 below the optima, whose height is .53 (CIFAR-10: .55 to .62 below
# .90). So at equal accuracy the optima lie above every sampler, on both data sets.
#
# ## A map of predictions
#
# Do the samples of a run stay with their run? **t-SNE** (van der Maaten and Hinton 2008)
# draws points of many dimensions on a sheet. It tries to keep neighbours as neighbours. We
# give it the probabilities of each network for all images, $N \cdot C$ numbers a network:
# every second checkpoint of the three runs, and weak samples of all five kinds around each
# optimum.
#
# Be careful with such maps. Distances between clusters mean nothing, nor do their sizes, nor
# the axes. t-SNE can even break one cloud into clusters. It may only suggest; the votes decide.

# %%
near = []
for member in range(3):
    weak = [sampled(k, torch.full((2,), 0.1), member) for k in subspace.SAMPLERS]
    near.append(stack.logits_at(network, torch.cat(weak), few))
everything = torch.cat([*along[:, 1::2], *near])
perplexity = min(30.0, len(everything) / 6)  # about the number of neighbours
where = landscape.prediction_map(everything, seed, perplexity).numpy()

# %%
# As many points a run as were kept; what is left are the samples.
*paths_flat, rest = np.split(where, np.cumsum([settings["epochs"] // 2] * 3))
clouds = dict(zip(["near 1", "near 2", "near 3"], np.split(rest, 3)))
figure = maps.trajectories(
    dict(zip(["run 1", "run 2", "run 3"], paths_flat)),
    "Predictions: three runs from the star to the large mark, and samples",
    clouds,
)
figure.update_layout(height=400)

# %% [markdown]
# The map suggests that each run goes its own way and does not meet the others again, and that
# the samples stay with their optimum. Ask the votes: which optimum is nearest to each sample?

# %%
differ = diversity.pairwise_disagreement(torch.cat([ends, *near]))[3:, :3]
home = torch.arange(3).repeat_interleave(len(near[0]))
at_home = int((differ.argmin(1) == home).sum())
print(f"{at_home} of {len(home)} samples are nearest to their own optimum")

# %% [markdown]
# ## A path from one optimum to another
#
# On the straight line between two optima the network breaks down. (That alone does not prove
# different functions: see exercise 5.) Garipov et al. (2018) and
# Draxler et al. (2018) found that a *bent* path need not. Take a Bézier curve from
# optimum $w_1$ to optimum $w_2$ with one bend $\beta$,
#
# $$w(t) = (1 - t)^2 \, w_1 + 2t(1 - t) \, \beta + t^2 \, w_2, \qquad 0 \le t \le 1,$$
#
# and train $\beta$, so that the mean training loss along the curve becomes small. The ends
# stay where they are.

# %%
from sbtutor import paths

bend = paths.fit_bend(
    network,
    *optima[:2],
    splits.train,
    epochs=3 if preset == "smoke" else 15,
    seed=seed,
)
t = torch.linspace(0, 1, 21)[:, None].to(optima)
curve = (1 - t) ** 2 * optima[0] + 2 * t * (1 - t) * bend + t**2 * optima[1]
assert torch.allclose(curve, paths.bezier(optima[0], bend, optima[1], 21), atol=1e-5)

# %%
straight = paths.line(optima[0], optima[1], 21)
on_path = {
    name: stack.logits_at(network, points, few)
    for name, points in {"straight line": straight, "curve": curve}.items()
}
both = torch.cat([ends[:2], on_path["curve"]])
from_ends = diversity.pairwise_disagreement(both)[:2, 2:]
shares = {f"accuracy, {name}": accuracy(z) for name, z in on_path.items()}
shares |= {f"curve against optimum {i + 1}": from_ends[i] for i in (0, 1)}
series = {name: np.round(y.tolist(), 4).tolist() for name, y in shares.items()}
marks_t = [round(x, 2) for x in t.flatten().tolist()]
title = "From optimum 1 (t = 0) to optimum 2 (t = 1), one run"
plots.lines(marks_t, series, title, "t", "share of images")

# %% [markdown]
# "Against" is the disagreement of the curve's networks with an end.
#
# The two optima are connected: from one to the other we never leave the good networks. Yet
# the votes change on the way. Half-way they differ from both ends. The valley is one in
# loss and not one in function.
#
# One caution. Fitting the bend *is* training, and with dropout off. So the middle of the
# curve may have a lower training loss than the ends. The path was not found for free.
#
# ## What is it good for? Ensembles
#
# Now average. With 1 to 4 optima, and around each of them
#
# - **optima**: the optimum alone. With one it is a single network, with more a deep
#   ensemble;
# - **average**: *one* network with the mean weights of the last ten checkpoints (Izmailov et
#   al. 2018);
# - **trajectory**: the ten checkpoints themselves, as an ensemble;
# - **random**, **dropout**, **diagonal**, **low rank**, **swag**: eight samples. At one
#   optimum this is a *subspace ensemble*; at several it is both.
#
# The strength of each sampler is the one, of eight, whose ensemble has the best Brier score on
# validation images. Probabilities are averaged around each optimum first, then over the
# optima. For each number of optima we take all subsets of that size, and average. All this was
# done beforehand for the eight sets of four optima on each of the two data sets.

# %%
shift = results.committed("results/landscape_shift")


def curves(rows, x, ends, quantity, title, series):
    """Mean and 95 % interval over seeds; series: name to (column, value) pairs."""
    middle, bands = {}, {}
    for name, which in series.items():
        kept = rows
        for column, value in which.items():
            kept = kept[kept[column] == value]
        by_x = dict(list(kept.groupby(x)[quantity]))
        stats = np.array([results.interval(by_x[end])[:3] for end in ends])
        stats = stats.round(5)  # mean, low and high at each end
        middle[name], *band = stats.T.tolist()
        bands[name] = tuple(band)
    return plots.lines(ends, middle, title, x, quantity, bands)


# %%
def by_size(images: str, quantity: str, place: str, sampler: str):
    """One network around each optimum, or several, by number of optima."""
    rows = shift[(shift["data"] == images) & (shift["place"] == place)]
    series = {name: {"method": name} for name in ("optima", sampler)}
    title = f"{quantity} by number of optima ({images}, severity {place})"
    return curves(rows, "optima", [1, 2, 3, 4], quantity, title, series)


by_size("cifar10", "accuracy", "0", "diagonal")

# %% [markdown]
# The left end of *optima* is the single network, that of *diagonal* the subspace ensemble. The
# step from one optimum to two is the step from one function to two. (The bands hold what
# differs between seeds as a whole. They may overlap where each seed has the same order; the
# table of claims below compares within seeds.)
#
# Here is what each way changes, against the single network:

# %%
shift["points"] = 100 * shift["accuracy"]


def changes(place):
    """Points of accuracy and Brier score less the single network's, mean over seeds."""
    rows = shift[(shift["place"] == place) & shift["optima"].isin([1, 4])]
    rows = rows[~rows["method"].str.startswith("wild")]
    keys = ["method", "data", "optima"]
    means = rows.groupby(keys, sort=False)[["points", "brier"]].mean().unstack("data")
    return (means - means.loc["optima", 1]).unstack("optima").round(4)


print(changes("0").to_string())

# %% [markdown]
# On CIFAR-10 the second optimum brings 3.7 points of accuracy, and four bring 6.2. Samples
# around *one* optimum change the accuracy by -0.2 to 0.2 points (the average and the trajectory
# by 0.2 and 0.3). But they lower its Brier score, by .011 to .015 (the average and the
# trajectory by .006 and .008). Four optima lower it by .084. On top of four optima, the samples
# make the Brier score *worse*, by .004 to .008. (The average and the trajectory change it by
# less than .001, not shown either way; they raise the accuracy by 0.3 and 0.4 points.) A likely
# reason, not tested: each network is too sure of itself. Around one optimum, samples make it
# more modest, and that is what the validation images chose them for. Four optima are modest
# already.
#
# On fashion-mini four optima bring 0.8 points and lower the Brier score by .012. Samples
# around one change it by -.001 to .002. On top of four optima they make it worse by about
# .001 or less.
#
# ## Under shift
#
# The same test images, corrupted. There are 15 kinds of corruption (Hendrycks and
# Dietterich 2019; our strengths differ), at severities 1 to 5. Each image gets one kind in
# turn. Here is one image under six of them, at severity 4:

# %%
from sbtutor import corruptions

kinds = corruptions.KINDS[1::3] + corruptions.KINDS[-1:]
shown = [corruptions.corrupt(few.images[:1], kind, 4)[0] for kind in kinds]
names = [kind.replace("_", " ") for kind in kinds]
plots.gallery(torch.stack(shown).numpy(), names, "One image, six corruptions", 6)


# %%
def by_severity(images: str, quantity: str, sampler: str):
    """Single network, subspace ensemble, deep ensemble and both, by severity."""
    rows = shift[shift["data"] == images].rename(columns={"place": "severity"})
    series = {
        "single network": {"method": "optima", "optima": 1},
        f"{sampler}, one optimum": {"method": sampler, "optima": 1},
        "four optima": {"method": "optima", "optima": 4},
        f"{sampler}, four optima": {"method": sampler, "optima": 4},
    }
    title = f"{quantity} by severity of corruption ({images})"
    severities = ["0", "1", "2", "3", "4", "5"]
    return curves(rows, "severity", severities, quantity, title, series)


by_severity("cifar10", "brier", "diagonal")

# %% [markdown]
# The same table at severity 5:

# %%
print(changes("5").to_string())

# %% [markdown]
# In Brier score the gap between four optima and the single network is wider at severity 5
# than on clean images: on CIFAR-10 .089 against .084, on fashion-mini .038 against .012. In
# accuracy it is not: on CIFAR-10 it shrinks from 6.2 to 2.3 points, since at severity 5 all
# are poor; on fashion-mini it grows from 0.8 to 1.6 points at severity 4, and is back at
# 0.8 at severity 5. And under strong shift the samples help, even at four optima: on
# CIFAR-10, at severity 5, *diagonal* lowers the Brier score by .044 around one optimum, and
# by .019 around four.
#
# A network that sees something strange should become unsure. The members of an ensemble
# can do more: they can contradict each other. The **Jensen-Shannon divergence** measures
# how much. With the entropy $H(p) = -\sum_c p(c) \log p(c)$,
#
# $$\mathrm{JS} = \frac1N \sum_n \Big[ H(\bar p(x_n)) - \frac1M \sum_m H(p_m(x_n)) \Big],$$
#
# the uncertainty of the mean less the mean uncertainty. It is 0 when all members say the same,
# and at most $\log M$. The unit is nats.

# %%
probs = ends.softmax(-1)  # (M, N, C)
of_mean = torch.special.entr(probs.mean(0)).sum(-1)  # H of the mean, (N,)
mean_of = torch.special.entr(probs).sum(-1).mean(0)
js = (of_mean - mean_of).mean()
assert torch.isclose(js, diversity.js_divergence(ends), atol=1e-5)
print(f"JS of the three optima: {js:.4f} of at most {np.log(3):.4f} nats")

# %% [markdown]
# The next figure has the JS of four networks: four optima, or four near one optimum. Here we
# let each sampler be as *wild* as it may. Of eight strengths it gets the largest at which the
# mean sample loses at most one point of validation accuracy (if there is none, the smallest).
# (For the ensembles above we took
# the strength with the best Brier score.) The last place is another data set: pictures of
# digits. No class is right there. We only ask whether the networks contradict each other.

# %%
PLACES = {"0": "clean", "digits": "digits"} | {k: f"severity {k}" for k in "12345"}


def js_by_place(images: str):
    """JS among four networks of each kind."""
    rows = shift[shift["data"] == images].replace({"place": PLACES})
    near = ("trajectory", "wild dropout", "wild diagonal")
    series = {k: {"method": k, "optima": 1} for k in near}
    series = {"optima": {"method": "optima", "optima": 4}} | series
    order = ["clean", *(f"severity {k}" for k in "12345"), "digits"]
    return curves(rows, "place", order, "js", f"JS of four networks ({images})", series)


js_by_place("fashion-mini")

# %% [markdown]
# And on both data sets, at three places:

# %%
four = (shift["method"] == "optima") & (shift["optima"] == 4)
compared = shift[four | shift["method"].str.startswith("wild")]
compared = compared[compared["place"].isin(["0", "5", "digits"])]
js_table = compared.pivot_table("js", "method", ["data", "place"], sort=False)
print(js_table.round(3).to_string())

# %% [markdown]
# The optima contradict each other most, at every severity and on digits. So it is for all six
# kinds of neighbours, on both data sets: 84 comparisons. On fashion-mini the JS of the optima
# rises from .027 to .092 at severity 5, and to .170 on digits; that of wild samples at most
# from .016 to .022, and .033 on digits. On CIFAR-10 it is .186, .205 and .243, of wild samples
# at most .048.
#
# ## Explore
#
# First planes and paths, computed beforehand for three networks of each of three kinds: a deep
# ensemble; the same with SAM; and three that were fine-tuned from one checkpoint (lesson 05, five classes).
# Discs are the networks. For the straight line the plane goes through all three. For the
# curve it goes through the two ends and the bend, so that the whole curve lies in it. Losses
# above $\ln C$, that of guessing among $C$ classes, have one colour. Move $t$, or click a point
# of the path.
#
# - The straight line of the deep ensemble: how high does the loss rise? How many votes does
#   the network in the middle still share with its ends?
# - Now the curve. The loss stays low. But look at *disagreement*: how far are you from both
#   ends half-way, and how far are the ends from each other?
# - Is the barrier between the fine-tuned networks as high? Do they lie in one basin?
#
# Each kind is one run, and each picture one plane of very many. So none of them shows that one
# method's minima are wider; lesson 06 measures that, with intervals.

# %%
from sbtutor import widgets

box = widgets.landscape("results/planes")
box

# %% tags=["nbval-check-output"]
for box.controls["path"].value in ("straight line", "curve"):
    values = {name: control.value for name, control in box.controls.items()}
    figure = box.draw(**values)
    shown = box.figure.outputs[0]["data"]["application/vnd.plotly.v1+json"]
    assert shown["layout"]["title"]["text"] == figure.layout.title.text
    print(figure.layout.title.text)

# %% [markdown]
# Then the plane of diversity and accuracy. Find for each sampler the strength at which it first
# loses a point. (1 is the sampler's whole reach.) How high is it there? Does the order of the
# samplers stay when you change `seed` at the top?


# %%
def at_strength(sampler: str, strength: float):
    """Eight samples of one strength beside the other optima."""
    parts = [beside("optima", optima[1:])]
    parts += [beside(sampler, sampled(sampler, torch.full((8,), strength)))]
    title = f"Eight samples: {sampler}, strength {strength:.2f}"
    return maps.diversity_accuracy(pd.concat(parts), limits, title)


# %%
import ipywidgets

sampler = ipywidgets.Dropdown(options=list(subspace.SAMPLERS))
strength = ipywidgets.FloatSlider(
    value=0.1, min=0, max=1, step=0.05, continuous_update=False
)
few_strengths = {"strength": [0.05, 0.1, 0.2, 0.4, 0.8]}
widgets.explore(at_strength, twin=few_strengths, sampler=sampler, strength=strength)

# %% tags=["nbval-check-output"]
before = at_strength(sampler.value, strength.value).data[-1].x
strength.value = 0.8
figure = at_strength(sampler.value, strength.value)
assert np.mean(figure.data[-1].x) < np.mean(before)  # stronger samples err more
print(figure.layout.title.text)

# %% [markdown]
# ## The paper's claims, one by one
#
# Eight claims, in our words, each as one or more questions. *Shown* means that the whole 95 %
# interval over eight sets of optima is on the claimed side. *Contradicted*: all of it is on the
# other side. *Not shown at this size*: it holds both. The thresholds (such as cosine > 0.9)
# are ours; the paper gives none. The questions on claims 3, 4 and 5 were made stricter after a
# first form of the tables was known, so this is description, not a test. All sets see the same
# images. No interval is adjusted for the number of questions. First,
# how many questions have which answer:

# %%
claims = results.committed("results/claims_fort")
answers = claims.groupby(["claim", "data"])["verdict"].value_counts()

# %% tags=["nbval-check-output"]
print(answers.unstack(fill_value=0).to_string())

# %% [markdown]
# Some of them in full: verdict, estimate and interval. (Claim 3 is the table above.) The
# **silhouette** is 1 if every network lies far nearer to its own run than to the next, 0 if
# there is no difference, negative if it is nearer to another run.

# %%
pd.set_option("display.max_colwidth", None, "display.width", 250)
claims["statement"] = claims["quantity"] + " " + claims["expected"]
claims["found"] = [
    f"{row.verdict}: {row.estimate:.3g} [{row.low:.3g}, {row.high:.3g}]"
    for row in claims.itertuples()
]
found = claims.set_index(["statement", "claim", "data"])["found"].unstack(sort=False)


def about(claim, words=""):
    """The answers to a claim's questions in which these words occur."""
    rows = found.xs(claim, level="claim")
    return rows[rows.index.str.contains(words)]


# %% tags=["nbval-check-output"]
pd.concat([about(1), about(2)])

# %% tags=["nbval-check-output"]
pd.concat([about(4, "optima|lost"), about(6)])

# %% tags=["nbval-check-output"]
about(5, "without")

# %% tags=["nbval-check-output"]
print(about(8, "one network").to_string())

# %% tags=["nbval-check-output"]
print("\n".join(claims["command"].unique()))

# %% [markdown]
# ## Exercises
#
# **1. The disagreement matrix** (easy, 5 minutes). From logits to the shares of differing
# votes of all pairs. No loop is needed.

# %% tags=["exercise"]
from sbtutor import check


def my_disagreement_matrix(logits):
    """Logits (M, N, C) to the matrix (M, M) of shares of differing votes."""
    # solution
    votes = logits.argmax(-1)
    return (votes[:, None] != votes).float().mean(-1)
    # end


right = check.disagreement_matrix(my_disagreement_matrix)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>First the votes, (M, N): the class of the largest
# logit.</details>
# <details><summary>Hint 2: an outline</summary><code>votes[:, None]</code> has shape (M, 1, N).
# What is the shape of <code>votes[:, None] != votes</code>? Take its mean over the
# images.</details>
# <details><summary>Hint 3: almost there</summary>It is (M, M, N), and holds True and False. For a
# mean it needs <code>.float()</code>; the images are the last axis.</details>
#
# <!-- solution -->
#
# **2. Dropout on weights** (medium, 10 minutes). Write the second sampler of the table. Draw
# from `generator`, so that the same seed gives the same network.


# %% tags=["exercise"]
def my_weight_dropout(center, rate, generator):
    """Each of P weights is 0 with probability rate, else divided by 1 - rate."""
    # solution
    keep = torch.rand(len(center), generator=generator) >= rate
    return center * keep / (1 - rate)
    # end


right = check.weight_dropout(my_weight_dropout)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>The mean of b / (1 - p) must be 1. Each weight has a
# fate of its own.</details>
# <details><summary>Hint 2: an outline</summary><code>torch.rand(len(center),
# generator=generator)</code> gives a number in [0, 1) for each weight. Which of them are below
# <code>rate</code>, and how many?</details>
# <details><summary>Hint 3: almost there</summary>Keep a weight where its number is <code>&gt;=
# rate</code>. True counts as 1 in a product. Divide by <code>1 - rate</code>.</details>
#
# <!-- solution -->
#
# **3. How much can two networks differ?** (medium, 5 minutes). Two networks have accuracies $a$ and
# $b$ on the same images; there are three classes or more. On which share of the images do their
# votes differ at least, and at most?


# %% tags=["exercise"]
def my_bounds(a, b):
    """Two accuracies to the least and the most disagreement."""
    # solution
    return abs(a - b), min(1, 2 - a - b)
    # end


right = check.disagreement_bounds(my_bounds)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>Where both are right they agree.</details>
# <details><summary>Hint 2: an outline</summary>Least: let them err on the same images, as far as
# this is possible, and in the same way. Most: let them err on different images.</details>
# <details><summary>Hint 3: almost there</summary>Least: only one is right on a share |a - b|. Most:
# the errors 1 - a and 1 - b add up. But no share is above 1.</details>
#
# <!-- solution -->
#
# <details><summary>Why</summary>For a = b the most is 2 (1 - a), if a is 1/2 or more. Divided by
# the error 1 - a it is 2: no height can be above that. Good networks <em>must</em> agree on most
# images; that is why we divide.</details>
#
# **4. The upper curve** (medium, 8 minutes). How high are independent errors? Derive the curve
# from its story, without looking back.


# %% tags=["exercise"]
def my_upper_height(accuracy, reference, classes):
    """a, a* and C to d_up(a) / (1 - a)."""
    # solution
    one = reference * (1 - accuracy) + accuracy * (1 - reference)
    both = (1 - accuracy) * (1 - reference) * (classes - 2) / (classes - 1)
    return (one + both) / (1 - accuracy)
    # end


right = check.upper_height(my_upper_height)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>In which cases do the two votes differ? There are
# three.</details>
# <details><summary>Hint 2: an outline</summary>Only the reference is right; only the network is
# right; both err, in different ways. Errors are independent, so probabilities multiply.</details>
# <details><summary>Hint 3: almost there</summary>The first is a* (1 - a). In the last, of C - 1
# wrong classes C - 2 are not the reference's. Divide the sum by 1 - a.</details>
#
# <!-- solution -->
#
# <details><summary>Why</summary>At a = a* = 0.71 with ten classes (the paper's MediumCNN) it is
# 2 * 0.71 + 0.29 * 8/9 = 1.678. Even independent errors stay below 2: where both err on one image,
# two errors make at most one difference.</details>
#
# **5. Same function, other weights** (medium, 10 minutes). Put the output channels of a convolution
# in another order, and the inputs of the next one to match. A convolution's weight has the axes
# (outputs, inputs, height, width), and its bias one number an output.


# %% tags=["exercise"]
def my_reordered(weight, bias, following, order):
    """The three tensors, so that the new channel k is the old channel order[k]."""
    # solution
    return weight[order], bias[order], following[:, order]
    # end


right = check.reordered(my_reordered)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>Which axis of which tensor belongs to these
# channels?</details>
# <details><summary>Hint 2: an outline</summary>The channels are the outputs of
# <code>weight</code>, the entries of <code>bias</code>, and the inputs of <code>following</code>,
# the next layer's weight.</details>
# <details><summary>Hint 3: almost there</summary><code>weight[order]</code> reorders the first
# axis; <code>[:, order]</code> reorders the second.</details>
#
# <!-- solution -->
#
# Once it is right, the next cell reorders two layers of our network, compares the twin with it, and
# walks straight from one to the other.

# %%
if right:
    from sbtutor import vector

    params = {name: p.detach().clone() for name, p in network.named_parameters()}
    for here, there in (("conv1", "conv2"), ("conv2", "conv3")):
        names = (f"{here}.weight", f"{here}.bias", f"{there}.weight")
        layers = [params[name] for name in names]
        order = torch.randperm(len(layers[1]))
        params.update(zip(names, my_reordered(*layers, order)))
    twins = torch.stack([optima[0], vector.flatten(params)])
    print("weight cosine", landscape.weight_cosine(twins)[0, 1])
    seen_by = stack.logits_at(network, twins, few)
    print("disagreement", diversity.pairwise_disagreement(seen_by)[0, 1])
    print(accuracy(stack.logits_at(network, paths.line(*twins, 11), few)))

# %% [markdown]
# <details><summary>Why</summary>The cosine falls far below 1 (not to 0, since the head's
# weights stay where they are), the disagreement is 0. Half-way the accuracy breaks down, though
# both ends are one function. So neither orthogonal weights nor a barrier on the straight line
# prove different functions.</details>
#
# ## What we saw
#
# | claim of the paper | here (eight sets of four optima; fashion-mini, and CIFAR-10 at 16x16) |
# |---|---|
# | along a run weights are nearly parallel and votes alike; between runs weights are orthogonal and votes differ, at equal accuracy | shown, but for equal accuracy on CIFAR-10: cosine .999 within the later half of a run (CIFAR-10: .997), about .008 in size between runs (.007); votes differ 2.4 times as often between runs as within (3.5 times). The best and the worst of four runs differ by 1.2 points on average (1.5; less than 2 is not shown there) |
# | in a map of predictions runs form clusters, and samples stay with theirs | shown, by the silhouette on the map and in the probabilities |
# | at equal accuracy all samplers lie below the optima; more diversity costs accuracy | shown for each sampler, on both data sets: the price of the optima's height is 3 to 4 points (21 to 25) |
# | optima lie near the upper curve, samples near the lower one | samples in the lower half: shown. Optima in the upper half: shown on CIFAR-10, contradicted on fashion-mini. The optima are .28 of the way up (.58), samples that have lost a point .14 to .17 (.16 to .21). So the optima lie above the samples, but nowhere near the upper curve |
# | a deep ensemble beats a subspace ensemble; both together gain a little more | first half shown for all samplers. Second half, by the Brier score: contradicted for all five samplers on clean images, not shown for the average and the trajectory |
# | on a path between optima accuracy stays, and the function changes | shown: at its worst the curve lies 0.7 points below its ends (2.1, so a loss below 2 points is not shown there), the straight line 57 (45). Half-way the curve's votes differ from both ends 2.2 times (3.5) as much as late checkpoints of a run do |
# | optima contradict each other (JS) more than samples do, more so under shift and on other data | first half shown in all 84 comparisons. The JS of the optima is higher at severity 5 than on clean images: shown on both. (It is also higher on digits; not among the questions.) |
# | accuracy and Brier score improve with each optimum; under shift the gap widens | first half shown, but for the accuracy of the fourth on fashion-mini. Second half, against the single network: in Brier score shown at every severity on fashion-mini, on CIFAR-10 at severity 5 only (contradicted at 1); in accuracy shown at severities 2 to 4 on fashion-mini, contradicted from 2 on for CIFAR-10. Against subspace ensembles, at severity 5, in Brier score: shown on fashion-mini, contradicted on CIFAR-10 for all five samplers (not shown for the average and the trajectory) |
#
# Why is CIFAR-10 closer to the paper than fashion-mini? A likely reason, not tested: shared
# errors. Most images that one optimum gets wrong on fashion-mini, another gets wrong in the
# same way. No other start removes such errors:

# %%
both_err = (votes[0] != few.labels) & (votes[1] != few.labels)
alike = both_err & (votes[0] == votes[1])
errors = (votes[0] != few.labels).float().mean()
print(
    f"optimum 1 errs on {errors:.3f}; on {alike.float().mean():.3f} so does optimum 2,"
)
print("with the same wrong answer")

# %% [markdown]
# ## Common mistakes
#
# - **Comparing diversity at unequal accuracy.** A ruined network differs from everything. Ask
#   first what the difference costs.
# - **Taking orthogonal weights for different functions.** Reordered channels give the same
#   function. Compare votes.
# - **Choosing a sampler's strength on the test images.** Ours, for the ensembles, was chosen on
#   validation images. In the plane nothing is chosen: all strengths are shown.
# - **Reading distances off a t-SNE map.** Only who is near whom is meant to hold.
# - **Forgetting the statistics of BatchNorm.** At a new point, such as an average of weights,
#   they must be estimated again. Our networks here have none.
# - **Dividing by the wrong error.** The height is per error of the *sample*, not of the
#   reference.
#
# ## References
#
# - Fort, Hu, Lakshminarayanan (2019). *Deep ensembles: a loss landscape perspective.*
#   arXiv 1912.02757.
# - Garipov, Izmailov, Podoprikhin, Vetrov, Wilson (2018). *Loss surfaces, mode connectivity,
#   and fast ensembling of DNNs.* NeurIPS. arXiv 1802.10026.
# - Draxler, Veschgini, Salmhofer, Hamprecht (2018). *Essentially no barriers in neural network
#   energy landscape.* ICML. arXiv 1803.00885.
# - Izmailov, Podoprikhin, Garipov, Vetrov, Wilson (2018). *Averaging weights leads to wider
#   optima and better generalization.* UAI. arXiv 1803.05407.
# - Maddox, Garipov, Izmailov, Vetrov, Wilson (2019). *A simple baseline for Bayesian
#   uncertainty in deep learning.* NeurIPS. arXiv 1902.02476. (SWAG; we use its low-rank part.)
# - van der Maaten, Hinton (2008). *Visualizing data using t-SNE.* JMLR 9.
# - Hendrycks, Dietterich (2019). *Benchmarking neural network robustness to common
#   corruptions and perturbations.* ICLR. arXiv 1903.12261. (Our strengths differ.)
# - Theisen, Kim, Yang, Hodgkinson, Mahoney (2023). *When are ensembles really
#   effective?* NeurIPS. arXiv 2305.12313. (Disagreement per error, of whole ensembles.)
