# %% [markdown]
# # Stay in the pre-train basin, or leave it?
#
# **Minutes:** read 30, do 46, compute 3

# %% [markdown]
# ## Objectives
#
# After this lesson you can
#
# - train a network on one task, give it a new head, and train it on for another;
# - tell a Local from a Global deep ensemble;
# - measure the barrier between two networks, with BatchNorm's statistics re-estimated;
# - build ensembles by cycles of the learning rate, in a chain (SSE) or as a star (StarSSE);
# - average weights into a soup, and say when that fails;
# - say which of the paper's claims hold at this size, and which do not.
#
# You need: lessons 00 to 02.

# %% [markdown] tags=["teacher"]
# **For the teacher.** Talking points:
#
# - "One basin" is a statement about a *line*, a *loss* and a *limit*. Let the class name all three.
# - Why does fine-tuning from one checkpoint end near it, and training from scratch not?
# - StarSSE and SSE take the same epochs. What differs is what may run at once (exercise 2).
# - Most differences here do not show with four seeds. That is a result, too.
#
# Time: 30 minutes to read, of which a third goes to barriers; the two live grids take about three
# minutes at preset class. Exercise 5 can be homework.
#
# Typical misunderstandings: an ensemble of probabilities and a soup of weights are taken for the
# same; mixed BatchNorm statistics are taken for a detail (they make a part of the hill); "no
# barrier on the line" is taken for "no barrier on any path".

# %% tags=["parameters"]
import os

preset: str = os.environ.get("SBTUTOR_PRESET", "class")  # smoke | class | paper
seed: int = 0  # of the first checkpoint and of the first member
members: int = 5  # M, as in the paper; preset smoke takes 3

# %%
from sbtutor import session

lesson = session.start("05", preset, seed)

# %% [markdown]
# ## The question
#
# Few people train a large network from nothing. They take one that somebody has trained on a
# large task, a **checkpoint**, and train it on for their own. This is **transfer learning**. The
# first task is the **source**, training for it is **pre-training**. The own one is the
# **target**, training for it is **fine-tuning**.
#
# A deep ensemble (lesson 01) gets different members from different first weights. In transfer
# learning there is often only *one* checkpoint. Can networks that all start from it be different
# enough? Sadrtdinov et al. (2023) answer with a picture. Around the checkpoint the loss is low: the
# **pre-train basin**. Members that stay in it are good, and alike. Members that leave it are
# different, and lose what the checkpoint knew. Somewhere between could be the best place. And
# there are two ways to go there: one after the other (SSE), or as a star (StarSSE).
#
# ## Two tasks
#
# At preset class we cut fashion-mini in two. The source has five classes with all their training
# images, the target the five others with only 500. The network is a ResNet-8 of width 8: eight
# layers with BatchNorm. (The line above has the preset's usual network and epochs.) Smoke does
# the same with digits. Preset paper fine-tunes a ResNet-50 with ImageNet's weights to CIFAR-100.
# It needs a GPU and some hours; we have not run it.

# %%
from dataclasses import replace

from sbtutor import data
from sbtutor.config import DataConfig, ModelConfig, TrainConfig

TARGETS = {"smoke": tuple("56789")}
TARGETS["class"] = ("Pullover", "Shirt", "Dress", "Sandal", "Sneaker")


def two_tasks(images):
    """Training images of the source; the target's splits, with few training images."""
    whole = data.load(lesson.base.data)
    names = TARGETS[preset]
    others = [name for name in whole.train.classes if name not in names]
    splits = data.Splits(*(data.only(part, names) for part in whole))
    few = data.subset(splits.train, images, seed)
    return data.only(whole.train, others), splits._replace(train=few)


# %%
if preset == "paper":
    from sbtutor import pretrained

    fine, recipe = pretrained.PAPER["supervised_resnet50"]
    source, target = None, data.load(DataConfig(name="cifar100"))
else:
    images, epochs = (150, 3) if preset == "smoke" else (500, 40)
    source, target = two_tasks(images)
    settings = dict(method="sgd", members=1, schedule="cosine", batch_size=50)
    settings |= dict(crop=1, flip=preset == "class")  # a flipped 7 is no 7
    fine, recipe = TrainConfig(epochs=epochs, lr=0.1, **settings), None
fine = replace(fine, seed=seed)

# %%
import torch

from sbtutor import plots


def one_each(split):
    """The first image of each of the first five classes, side by side."""
    where = [int((split.labels == c).nonzero()[0]) for c in range(5)]
    return torch.cat(list(split.images[where]), dim=-1)


tasks = {"target": target.train} | ({"source": source} if source else {})
strips = torch.stack([one_each(split) for split in tasks.values()]).numpy()
told = [f"{name}: {', '.join(split.classes[:5])}" for name, split in tasks.items()]
plots.gallery(strips, told, "One image a class", columns=1)

# %% [markdown]
# Now $M$ checkpoints. Each has first weights of its own, and sees the source in an order of its
# own. (At preset paper there are two: torchvision's weights V1 and V2 of ResNet-50.) Beside them we
# keep $M$ *untrained* networks, to see what pre-training is worth.

# %%
from sbtutor import models, transfer

M = 3 if preset == "smoke" else members
jobs = 1 if preset == "smoke" else None  # processes at once; None takes all cores
kept = lesson.runs / "networks"  # a second run of this lesson finds them here
if preset == "paper":
    both = ("IMAGENET1K_V1", "IMAGENET1K_V2")
    checkpoints = [pretrained.load("resnet50", weights=w) for w in both]
    torch.manual_seed(seed)
    bodies = [pretrained.torchvision.models.resnet50() for _ in both]
    untrained = [pretrained.for_images(body) for body in bodies]
else:
    model = ModelConfig(name="resnet8", width=4 if preset == "smoke" else 8)
    shape, classes = target.train.images.shape[1:], len(target.train.classes)
    seeds = range(seed, seed + M)
    long = replace(fine, epochs=3 if preset == "smoke" else 20)
    checkpoints = transfer.pretrain(model, source, long, seeds, kept, jobs)
    untrained = [models.build(model, shape, classes, s) for s in seeds]
    for each in untrained:
        each.normalize.set(*data.channel_statistics(target.train.images))

# %% [markdown]
# ## A new head
#
# The last layer of a classifier, its **head**, turns features into one logit a class. The source
# has other classes than the target. So the head is thrown away, and a new one with random weights
# takes its place. All other weights stay, and are trained on, too.

# %%
import copy

from torch import nn


def new_head(network, classes):
    """A copy whose last linear layer is a new one."""
    made = copy.deepcopy(network)
    linear = [k for k, v in made.named_modules() if isinstance(v, nn.Linear)]
    path, _, name = linear[-1].rpartition(".")
    old = made.get_submodule(linear[-1])
    head = nn.Linear(old.in_features, classes).to(old.weight)
    setattr(made.get_submodule(path), name, head)
    return made


classes = len(target.train.classes)
mine = new_head(checkpoints[0], classes).state_dict()
theirs = transfer.with_head(checkpoints[0], classes, seed).state_dict()
assert {k: t.shape for k, t in mine.items()} == {k: t.shape for k, t in theirs.items()}
random = [k for k in mine if not torch.equal(mine[k], theirs[k])]
print("random in both:", ", ".join(random), "; equal:", len(mine) - len(random))

# %% [markdown]
# ## One checkpoint, or many?
#
# **Local deep ensemble** (Local DE): fine-tune the *same* checkpoint $M$ times. Members differ
# by their heads' first weights, and by the order of the images. **Global deep ensemble** (Global
# DE): fine-tune $M$ different checkpoints. It takes $M$ pre-trainings, which on ImageNet
# is a lot. As a control, the untrained networks go through the same fine-tuning.

# %%
how = dict(split=target.train, config=fine, out=kept, jobs=jobs, recipe=recipe)
local = transfer.fine_tune(checkpoints[:1] * M, **how)
world = transfer.fine_tune(checkpoints, **how)  # the Global DE
scratch = transfer.fine_tune(untrained, **how)

# %% [markdown]
# For each ensemble: how good is a member on average (test images), how good is the mean of the
# probabilities, and how often do two members differ? **Disagreement** is the share of images on
# which two votes differ, **normalised** if it is divided by the members' mean error. (For the
# NLL see lesson 01.) Keep in mind that this is one run.

# %%
import pandas as pd

from sbtutor import diversity, metrics
from sbtutor.predict import predict


def row(networks):
    """Quality of an ensemble and of its members, and how different these are."""
    seen = predict(networks, target.test)
    probs, labels = seen.logits.softmax(-1), seen.labels
    own = torch.stack([metrics.accuracy(p, labels) for p in probs])
    mean = probs.mean(0)
    differ = diversity.normalized_disagreement(seen.logits, labels)
    found = dict(members=len(networks), member_points=100 * own.mean())
    found |= dict(points=100 * metrics.accuracy(mean, labels))
    found |= dict(nll=metrics.nll(mean, labels), normalised_disagreement=differ)
    return {name: round(float(value), 3) for name, value in found.items()}


made = {"from scratch": scratch, "Local DE": local, "Global DE": world}
print(pd.DataFrame({name: row(networks) for name, networks in made.items()}).T)

# %% [markdown]
# ## What is a basin?
#
# All weights of a network are one point $\theta$ (lesson 02). The straight line between
# networks $a$ and $b$ is
#
# $$\theta(t) = (1 - t) \, \theta_a + t \, \theta_b, \qquad 0 \le t \le 1.$$
#
# At each $t$ there is a network, and it has a loss $L(\theta(t))$, the mean cross-entropy. If the
# loss hardly rises on the way, we say that $a$ and $b$ lie in *one basin*. That can be written in
# a few lines. (The state dict of a network holds its weights and its **buffers**: tensors that are
# not trained, such as BatchNorm's statistics. `num_batches_tracked` is a whole number, which has no
# middle.)


# %%
def between(a, b, t):
    """The network at t; all weights and statistics mixed alike."""
    made, there = copy.deepcopy(a), b.state_dict()
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(there[name], t)  # (1 - t) here + t there
    return made


def loss(network, split):
    """Mean cross-entropy in nats."""
    seen = predict([network], split)
    return float(metrics.nll(seen.logits[0].softmax(-1), seen.labels))


# %% [markdown]
# But mixed statistics are wrong. BatchNorm divides each channel by the standard deviation that it
# has seen in training. Say the channels of $a$ and $b$ have variance 1 and nothing to do with each
# other. Half-way the channel is the mean of both, and has variance 1/2. The mixed statistics say 1.
# In each layer the signal gets too small. So the statistics must be **re-estimated**: training
# images pass once, and each BatchNorm takes the mean and variance that it sees (Izmailov et al.
# 2018). Let the images be cropped and flipped at random, as training has seen them: else the
# statistics are a little off even at the ends. `stack.refreshed` does that, and so does
# `transfer.straight_line`.

# %%
from sbtutor import stack
from sbtutor.batches import augmented

few = data.subset(target.train, min(500, len(target.train.labels)), seed)
as_trained = augmented(few, fine)  # for BatchNorm's statistics
ts = torch.linspace(0, 1, 11)
mixed = [between(*world[:2], float(t)) for t in ts]
stale = torch.tensor([loss(network, few) for network in mixed])
fresh = [loss(stack.refreshed(network, as_trained), few) for network in mixed]


def line(a, b, split=few):
    """Loss and accuracy at the 11 points; the package's way."""
    return transfer.straight_line(a, b, split, refresh=as_trained)


assert torch.allclose(torch.tensor(fresh), line(*world[:2]).loss, atol=1e-3)

# %%
losses = {name: line(*pair[:2]).loss for name, pair in made.items()}
losses["Global DE, statistics mixed"] = stale
series = {name: y.numpy().round(4).tolist() for name, y in losses.items()}
marks = ts.numpy().round(1).tolist()
title = "Training loss on the line between two members (one run)"
plots.lines(marks, series, title, "t", "training loss (nats)")

# %% [markdown]
# Compare the two lines of the Global DE. They have the same weights. Part of the hill is an
# artefact of old statistics; the rest is real. From here on all statistics are re-estimated.
#
# How high is a hill? The ends need not be equally good. So the **barrier** is how far the loss
# rises above the straight line between the ends' losses:
#
# $$B(a, b) = \max_t \; L(\theta(t)) - \big[(1 - t) \, L(\theta_a) + t \, L(\theta_b)\big].$$
#
# It is at least 0, as at the ends nothing rises.

# %%
hill = losses["Global DE"]
chord = (1 - ts) * hill[0] + ts * hill[-1]
package = transfer.barrier(*world[:2], few, refresh=as_trained)
assert torch.isclose((hill - chord).max(), package)
print(f"barrier of the first two members of the Global DE: {package:.3f} nats")

# %% [markdown]
# Which loss? A basin is meant to be one of the *training* loss. But what we want in the end is low
# loss on other images. Both barriers:


# %%
def barriers(a, b):
    """On training and on validation images; statistics from training images."""
    parts = {"training": few, "validation": target.val}
    return {k: transfer.barrier(a, b, v, refresh=as_trained) for k, v in parts.items()}


table = {name: barriers(*pair[:2]) for name, pair in made.items()}
print(pd.DataFrame(table).T.map("{:.3f}".format).to_string())

# %% [markdown]
# Members of the Global DE lie in different basins, and so do networks from scratch. Members of the
# Local DE are another matter: look at both columns. How low must a barrier be for "one basin"? The
# paper gives no number that we know of. We say, and said so before we measured: below .05 nats.
# The barrier on training images is often the higher one: near the ends the training loss is very
# low, and is easily made worse.
#
# ## Many members, each for one cycle
#
# $M$ fine-tunings of $E$ epochs are $M \cdot E$ epochs. A **snapshot ensemble** (SSE, Huang et al.
# 2017) is cheaper. Fine-tune once, to get model 1. Then raise the learning rate again, and let it
# fall as a cosine for $E_c$ epochs: a **cycle**. At its end, where the learning rate is low, keep
# the network as member 2. Go on from there with the next cycle. With learning rates $\eta$ of the
# fine-tuning and $\eta_c$ of the cycles, epoch $e = 0, 1, \ldots$ has
#
# $$\eta(e) = \begin{cases}
# \tfrac12 \, \eta \, \big(1 + \cos \tfrac{\pi e}{E}\big) & e < E \\
# \tfrac12 \, \eta_c \, \big(1 + \cos \tfrac{\pi c}{E_c}\big), \quad
# c = (e - E) \bmod E_c & \text{else.}
# \end{cases}$$

# %%
import math

cycle = transfer.scaled(fine, lr=2, epochs=0.5)  # twice the rate, half the epochs
parts = [fine, *[cycle] * (M - 1)]
rates = [
    part.lr * (1 + math.cos(math.pi * e / part.epochs)) / 2
    for part in parts
    for e in range(part.epochs)
]
assert rates == transfer.learning_rates(fine, cycle, M, recipe)
assert len(rates) == transfer.budget(fine, cycle, M)

# %%
title = f"Fine-tuning, then {M - 1} cycles of twice the learning rate"
steps, rounded = list(range(len(rates))), [round(rate, 4) for rate in rates]
figure = plots.lines(steps, {"rate": rounded}, title, "epoch", "learning rate")
figure.update_traces(mode="lines")

# %% [markdown]
# The **strength** of a cycle has two parts: the factor of the learning rate, $\eta_c / \eta$, and
# the factor of the length, $E_c / E$. The optimizer starts each cycle anew: what momentum has
# gathered is forgotten.
#
# In SSE each member starts where the one before ended. So with each cycle the chain may go further
# away from the checkpoint. **StarSSE** (Sadrtdinov et al. 2023) changes one thing: *each* cycle
# starts from model 1.
#
# | | member 2 starts from | member 3 starts from | member 4 starts from |
# |---|---|---|---|
# | SSE | model 1 | member 2 | member 3 |
# | StarSSE | model 1 | model 1 | model 1 |
#
# The cycles of a star do not wait for each other. So they can run side by side, in several
# processes or on several machines.

# %%
first = local[0]
star = transfer.star_sse(first, target.train, cycle, M, kept, None, recipe, jobs)
sse = transfer.sse(first, target.train, cycle, M, kept, None, recipe)

# %% [markdown]
# By hand, for members 2 and 3:

# %%
from sbtutor.cycles import Task, train

again = kept if torch.cuda.is_available() else None  # a GPU may round otherwise


def one_cycle(start, m):
    """Trained on from `start` for a cycle; m decides the order of the images."""
    config = replace(cycle, seed=cycle.seed + m)
    (trained,) = train([Task(start, config)], target.train, again)
    return trained.networks[-1]


second = one_cycle(first, 1)
star_3, sse_3 = one_cycle(first, 2), one_cycle(second, 2)
points = stack.points_of([*star[1:3], second, star_3, *sse[1:3], second, sse_3])
assert torch.equal(points[:2], points[2:4])
assert torch.equal(points[4:6], points[6:])
assert torch.equal(points[0], points[4])  # the second member of both is the same

# %%
made |= {"SSE": sse, "StarSSE": star}
table = {
    name: row(networks) | barriers(*networks[:2]) for name, networks in made.items()
}
print(pd.DataFrame(table).T.astype(float).round(3).to_string())

# %% [markdown]
# (`training` and `validation` are the barriers of the first two members.) Mind one thing: members
# of SSE and StarSSE, but for the first, were trained for longer than those of the DEs. That alone
# may make them better. So further down there will be DEs that were trained twice as long.
#
# ## Predict first
#
# We let one cycle, of full length, start from model 1, with 1/4 to 8 times the learning rate of
# fine-tuning. From which factor on is there a barrier of .05 nats between model 1 and where the
# cycle ends? And does this cycle, of one network, make it better or worse?

# %%
QUESTION = "the basin ends at a factor of"
my_factor = 1  # .25, .5, 1, 2, 4 or 8
lesson.guess(QUESTION, my_factor)

# %%
factors = (0.25, 1, 8) if preset == "smoke" else (0.25, 0.5, 1, 2, 4, 8)
how = dict(members=2, lr_factors=factors, epoch_factors=(1,), out=kept, jobs=jobs)
pairs = transfer.grid("star", first, target.train, fine, recipe=recipe, **how)

# %%
rows = {}
for (factor, _), pair in pairs.items():
    votes = predict(pair, target.test)
    points = 100 * metrics.accuracy(votes.logits[1].softmax(-1), votes.labels)
    apart = float(diversity.disagreement(votes.logits))
    found = barriers(*pair) | {"points of member 2": points, "disagreement": apart}
    rows[factor] = {name: round(float(value), 3) for name, value in found.items()}
measured = pd.DataFrame(rows).T.rename_axis("factor")
print(measured.to_string())

# %%
left = [factor for factor in factors if measured.loc[factor, "training"] >= 0.05]
lesson.compare(QUESTION, left[0] if left else "none of these")
series = {name: list(measured[name]) for name in ("training", "validation")}
title = "Barrier between model 1 and the end of one cycle (one run)"
figure = plots.lines(factors, series, title, "factor of the learning rate", "nats")
figure.update_xaxes(type="log", tickvals=factors)

# %% [markdown]
# ## The grid of cycles
#
# One run says little. So for four seeds on fashion-mini and three on CIFAR-10 (scaled to 16x16,
# from images saved as JPEG, 1,000 target images of four classes), SSE and StarSSE of five members
# were trained for each cell of a grid: five factors of the learning rate and three of the length.
# Each seed has its own checkpoints, target images and heads. (On fashion-mini fine-tuning took 80
# epochs there, not 40.) Here is StarSSE: means over seeds, each ± half of its 95 % interval:

# %%
from plotly.subplots import make_subplots

from sbtutor import results

TABLES = "results"
grid = results.committed(f"{TABLES}/transfer_grid")
for name in ("test_", "refreshed_member_", "soup_test_"):
    grid[f"{name}points"] = 100 * grid[f"{name}accuracy"]
AT = ["epochs", "lr"]  # the grid's axes
NAMES = {"local": "Local DE", "global": "Global DE", "sse": "SSE", "star": "StarSSE"}
LABELS = {
    "normalized_disagreement": "normalised disagreement",
    "barrier": "barrier to model 1 (nats)",
    "test_nll": "ensemble's NLL (nats)",
    "soup_test_points": "soup (points)",
    "test_points": "ensemble (points)",
    "refreshed_member_points": "mean member (points)",
}


# %%
def maps_of(images: str, method: str):
    """Four quantities over the grid of cycles: means over seeds, 95 % intervals."""
    rows = grid[(grid["data"] == images) & (grid["method"] == method)]
    figure = make_subplots(2, 2, subplot_titles=[LABELS[n] for n in list(LABELS)[:4]])
    told = []
    for i, name in enumerate(list(LABELS)[:4]):
        cells = {at: results.interval(v) for at, v in rows.groupby(AT)[name]}
        z = pd.Series({at: cell.mean for at, cell in cells.items()}).unstack()
        half = pd.Series({at: c.high - c.mean for at, c in cells.items()}).unstack()
        words = z.map("{:.3g}".format) + half.map("<br>± {:.2g}".format)
        x, y = [[f"{v:g}" for v in axis] for axis in (z.columns, z.index)]
        shown = dict(x=x, y=y, z=z.round(4).values, text=words.values, showscale=False)
        look = dict(colorscale="Cividis", texttemplate="%{text}", textfont_size=11)
        figure.add_heatmap(**shown, **look, row=i // 2 + 1, col=i % 2 + 1)
        told.append(f"{LABELS[name]} {z.values.min():.3g} to {z.values.max():.3g}")
    figure.update_xaxes(type="category").update_yaxes(type="category")
    figure.update_xaxes(title_text="factor of the learning rate", row=2)
    figure.update_yaxes(title_text="of the length", col=1)
    title = f"{NAMES[method]} by strength of the cycles ({images}; ± 95 %)"
    meta = {"alt": f"{title}. Means over seeds on the grid: {'; '.join(told)}."}
    look = dict(template=plots.TEMPLATE, title_text=title, meta=meta)
    return figure.update_layout(**look, width=760, height=480)


# %%
maps_of("fashion-mini", "star")

# %% [markdown]
# Read the maps from left to right. With the learning rate members differ more. At factor 1 there
# is next to no barrier, .004 nats at full length; at factor 2 it is .062, at 4 .288, at 8 .650.
# The ensemble's NLL falls at first, as differences help. It is lowest at factor 4 and full
# length. Beyond that the members get too poor. The soup is best at factor 1 or less: it wants no
# barrier at all.
#
# The length matters less. And longer cycles do not lead further away: at factor 8 the barrier is
# .754 nats for a quarter of the length, .650 for full length (no step of the length shows a
# difference). We think that a longer fall of the learning rate lets a network settle again.

# %%
many = results.committed(f"{TABLES}/transfer")
many["points"], many["nll"] = 100 * many["test_accuracy"], many["test_nll"]
many["soup_points"] = 100 * many["soup_test_accuracy"]
many["member_points"] = 100 * many["member_accuracy"]
tuned = many[(many["size"] == 5) & many["method"].isin(["sse", "star"])]

# %% tags=["nbval-check-output"]
cells = tuned.groupby(["data", "method"], sort=False)[["lr", "epochs", "barrier"]]
print(cells.agg(lambda v: ", ".join(f"{x:.3g}" for x in v)).to_string())

# %% [markdown]
# That is, for each seed, the cell whose ensemble has the lowest NLL on validation images, and its
# barrier to model 1. We call these cycles **tuned**. Does it pay to leave the basin? We compare,
# for each seed, the best cell outside (barrier above .1 nats) with the best one well inside
# (below .01), both chosen on validation images. Each answer below has an estimate, its 95 %
# interval over seeds, and what it says of the claim (explained further down).

# %%
claims = results.committed(f"{TABLES}/claims_sadrtdinov")
claims["found"] = [
    f"{c.estimate:.3g} [{c.low:.3g}, {c.high:.3g}] {c.verdict}"
    for c in claims.itertuples()
]


def about(claim, words=""):
    """The answers to a claim's questions in which these words occur."""
    rows = claims[(claims["claim"] == claim) & claims["quantity"].str.contains(words)]
    parts = []
    for (quantity, expected), part in rows.groupby(
        ["quantity", "expected"], sort=False
    ):
        parts.append(f"{quantity} {expected}")
        parts += [f"    {c.data:12} {c.found}" for c in part.itertuples()]
    return "\n".join(parts)


# %% tags=["nbval-check-output"]
print(about(4, "best cell|barrier of tuned"))

# %% [markdown]
# On fashion-mini the tuned cycles of StarSSE have a mean barrier of .171 nats, those of SSE .091.
# By our limit of .05 they are outside the basin, though the intervals reach below it. And the
# best cells outside have a *lower* NLL than the best ones well inside, by .028 nats for StarSSE
# and .059 for SSE; both are shown. So here it pays to leave the basin a little. Far outside, at
# factor 8, it does not: the map has a higher NLL there. Two words of caution. The limit is ours.
# And by it not even all members of a Local DE are in one basin: see claim 1 below.
#
# ## SSE against StarSSE, member by member
#
# In SSE an error can pile up: each member starts from the one before. In a star no member knows of
# the others. So what happens along the members, 2 to 5?

# %%
each = results.committed(f"{TABLES}/transfer_members")
each["member"] += 1  # model 1 is not in the table
each["points"] = 100 * each["test_accuracy"]


def interval_by(rows, x, quantity):
    """Mean, and low and high of the 95 % interval, at each x."""
    found = [results.interval(v)[:3] for _, v in rows.groupby(x)[quantity]]
    middle, low, high = ([round(v, 4) for v in column] for column in zip(*found))
    return middle, (low, high)


def by_member(images: str, quantity: str, factor: float, length: float = 1):
    """Mean and 95 % interval over seeds, along the members of both ensembles."""
    rows = each[(each["lr"] == factor) & (each["epochs"] == length)]
    middle, bands = {}, {}
    for method, part in rows[rows["data"] == images].groupby("method"):
        name = NAMES[method]
        middle[name], bands[name] = interval_by(part, "member", quantity)
    title = f"{quantity}, cycles of x{factor:g} rate, x{length:g} length ({images})"
    return plots.lines([2, 3, 4, 5], middle, title, "member", quantity, bands)


by_member("fashion-mini", "barrier", 4)

# %% [markdown]
# The next table has the change of SSE from member 2 to member 5, for tuned cycles and for the
# strongest ones (8 times the learning rate, full length): estimate, 95 % interval, and what it
# says of the claim. **Distance** is the length of the straight line from model 1, $\lVert
# \theta_m - \theta_1 \rVert$. (In a star members 2 and 5 differ by their seeds alone. There is
# nothing to ask.)

# %% tags=["nbval-check-output"]
print(about(5, ": SSE.*member 5"))

# %% [markdown]
# On fashion-mini, in tuned cycles, the distance from model 1 grows, by 4.0 from member 2 to
# member 5. That members get worse does not show. In the strongest cycles the later members are
# even *better* than the second, by 2.5 points, and their barrier is lower, by .071 nats: the
# opposite of the claim. A likely reason, not tested: our fine-tuning has not converged. Member 5
# of SSE has gone through four cycles, each member of a star through one.
#
# How far are members from *each other*? Here is the barrier to model 1 beside the one between
# members 2 and 5, for cycles of full length, by the factor of the learning rate:

# %% tags=["nbval-check-output"]
full = grid[grid["epochs"] == 1].groupby(["data", "lr", "method"], sort=False)
print(full[["barrier", "barrier_between"]].mean().round(3).unstack().to_string())

# %% [markdown]
# On fashion-mini, at factor 4, there is a barrier of .323 nats between the members of SSE and
# model 1. But between members 2 and 5, three cycles apart, it is .068. So the first cycle leaves
# model 1's basin, and the others then stay in the new one. In a star every member leaves in a
# direction of its own: .288 nats to model 1, and .241 between members 2 and 5. (On CIFAR-10: .367
# and .072 for SSE, .375 and .490 for the star.)
#
# ## Ensembles by size
#
# Now all ensembles, 1 to 5 members. The cycles of SSE and StarSSE were tuned, and their later
# members trained for longer. To be fair, both DEs get tuned as well: of three fine-tunings (as
# before, twice the learning rate, twice the epochs) the one with the lowest validation NLL is
# taken, for each seed.


# %%
def name_of(method):
    """As a reader knows it."""
    kind, *rest = method.split(",")
    return ",".join([NAMES.get(kind, kind), *rest])


FOUR = ("local, tuned", "sse", "star", "global, tuned")


def by_size(images: str, quantity: str, methods=FOUR):
    """Several kinds of ensembles by size."""
    rows, middle, bands = many[many["data"] == images], {}, {}
    for method in methods:
        part, name = rows[rows["method"] == method], name_of(method)
        middle[name], bands[name] = interval_by(part, "size", quantity)
    title = f"{quantity.replace('_', ' ')} by size ({images})"
    return plots.lines([1, 2, 3, 4, 5], middle, title, "members", quantity, bands)


by_size("fashion-mini", "nll")

# %% [markdown]
# The bands hold what differs between seeds as a whole. So we also look at the differences *within*
# each seed: their mean, and its 95 % interval. A star says that 0 lies outside.


# %%
def compared(pairs, quantity, sizes=(2, 3, 5)):
    """A row for each data set and pair of methods, a column a size."""
    words, digits = {}, 2 if "points" in quantity else 4
    for (images, size), rows in many.groupby(["data", "size"], sort=False):
        found = rows.pivot(index="seed", columns="method", values=quantity)
        for ours, theirs in pairs if size in sizes else ():
            d = results.paired(found[ours], found[theirs]).difference
            sign = "*" if d.low > 0 or d.high < 0 else " "
            cell = f"{d.mean:+.{digits}f} ± {d.high - d.mean:.{digits}f}{sign}"
            words.setdefault(size, {})[images, f"{ours} less {theirs}"] = cell
    return pd.DataFrame(words).to_string()


TUNED, BOTH = "local, tuned", "global, tuned"
PAIRS = [("local", "scratch"), ("global", "local"), (BOTH, TUNED)]
PAIRS += [("star", "local"), ("star", TUNED), ("sse", TUNED), ("star", "sse")]
PAIRS += [(BOTH, "star")]

# %% tags=["nbval-check-output"]
print(compared(PAIRS, "nll"))

# %% tags=["nbval-check-output"]
print(compared(PAIRS, "points"))

# %% tags=["nbval-check-output"]
for quantity in ("member_points", "normalized_disagreement"):
    print(quantity, compared(PAIRS[:2], quantity), sep="\n")

# %% [markdown]
# On fashion-mini, with five members: the Global DE is more accurate than the Local DE, by 0.8
# points, by 0.6 if both are tuned. In NLL, .024 and .022, this does not show. Of all that cycles
# do, little shows. The NLL of StarSSE is lower than that of the Local DE by .014 ± .025, than
# that of the *tuned* Local DE by .022 ± .051. SSE is level with the latter (.000 ± .066). StarSSE
# has a lower NLL than SSE, by .022 ± .041: not shown. And between the tuned Global DE and StarSSE
# there is no gap to be seen (.001 ± .027). Intervals from four seeds are wide. So most of these
# differences we can neither show nor exclude.
#
# Is pre-training of any use? Networks from scratch got a learning rate of their own here, twice
# as high, chosen on validation images. Their five make an ensemble as good as the Local DE's: the
# difference is -0.10 ± 0.57 points. The average member of the Local DE is better, by 0.57 ± 0.58
# points, but its members differ less, by .097 (shown): they have a checkpoint in common. (In the
# live run at the top, fine-tuning was half as long, and networks from scratch had no learning
# rate of their own. Look at the difference there.)
#
# ## Soups
#
# An ensemble of $M$ members asks $M$ networks about each image. A **soup** (Wortsman et al. 2022)
# is *one* network, at the mean of the members' weights:
#
# $$\bar\theta = \frac1M \sum_m \theta_m .$$
#
# It costs what one network costs. Half-way between networks of different basins the loss is
# high. So a soup can only work within one basin.

# %%
mean = copy.deepcopy(star[0])
for name, tensor in mean.state_dict().items():
    if tensor.is_floating_point():
        tensor.copy_(torch.stack([net.state_dict()[name] for net in star]).mean(0))
by_hand = stack.refreshed(mean, as_trained)  # the statistics again
package = transfer.soup(star, as_trained)
points = stack.points_of([by_hand, package])
assert torch.allclose(points[0], points[1], atol=1e-6)

# %% [markdown]
# The **greedy soup** tries the members one by one, the most accurate first. A member stays in if
# the soup with it is at least as accurate, on validation images, as the soup before. Here is what
# both kinds make of our ensembles, live:


# %%
def test_points(network):
    """Accuracy on test images, in points."""
    seen = predict([network], target.test)
    return float(100 * metrics.accuracy(seen.logits[0].softmax(-1), seen.labels))


rows = {}
for name in ("Local DE", "SSE", "StarSSE", "Global DE"):
    greedy, chosen = transfer.greedy_soup(made[name], target.val, as_trained)
    found = {"mean member": row(made[name])["member_points"]}
    found |= {"soup": test_points(transfer.soup(made[name], as_trained))}
    rows[name] = found | {"greedy soup": test_points(greedy), "of": len(chosen)}
print(pd.DataFrame(rows).T.round(2))

# %% [markdown]
# And from the tables: differences in points between soups, by size. "For soups" are the cycles of
# the cell whose soup of five is the most accurate on validation images. ("star" alone was tuned
# for the ensemble.)

# %% tags=["nbval-check-output"]
PAIRS = [("star, for soups", "local"), ("local", "sse, for soups")]
PAIRS += [("star, for soups", "sse, for soups"), ("star, for soups", "star")]
print(compared(PAIRS, "soup_points"))

# %% [markdown]
# Do soups fail where there is a barrier, and only there? Each mark is a cell of the grid, as a mean
# over seeds: the barrier to model 1, and what the soup of five gains over the average member (its
# statistics re-estimated, too). Point at a mark to see its factors of rate and length.


# %%
def gain_by_barrier():
    """The soup's gain over its average member, against the barrier."""
    rows = grid.assign(gain=grid["soup_test_points"] - grid["refreshed_member_points"])
    keys = ["data", "method", "lr", "epochs"]
    means = rows.groupby(keys, sort=False)[["barrier", "gain"]].mean()
    rank = means["barrier"].corr(means["gain"], method="spearman")
    title = "Soup less average member, by barrier (means over seeds)"
    alt = f"{title}. Rank correlation {rank:.2f} over {len(means)} cells."
    figure = plots.blank(title, alt, "barrier to model 1 (nats)", "gain (points)")
    for i, (kind, part) in enumerate(means.groupby(["data", "method"], sort=False)):
        text = [f"x{lr:g}, x{length:g}" for *_, lr, length in part.index]
        x, y = part["barrier"].round(4), part["gain"].round(2)
        name = f"{NAMES[kind[1]]}, {kind[0]}"
        figure.add_scatter(x=x, y=y, text=text, mode="markers", name=name)
        figure.data[-1].marker = plots.look(i)["marker"]
    return figure.add_hline(0, line_dash="dot", line_color="#666")


gain_by_barrier()

# %% tags=["nbval-check-output"]
print(about(8, "to model 1"))

# %% [markdown]
# Yes. On fashion-mini soups gain where the barrier is below .01 nats, .26 points for SSE and .30
# for StarSSE, and lose where it is above .1: 2.5 points for SSE, and 20 for StarSSE. The star's
# soups break down, those of SSE do not: after the first cycle its members share a basin, as we
# have seen. Soups of the Global DE are hardly better than guessing.
#
# Is there a soup worth having? With cycles chosen for soups, the star's soup of five is better
# than that of SSE, by .25 points (shown), and than that of the Local DE, by 1.8 ± 2.1 (not
# shown).
#
# So what is best for the ensemble is not best for the soup. An ensemble wants members that
# differ, a soup wants them in one basin.
#
# ## Two older ways to stay near
#
# **SWA** (Izmailov et al. 2018) trains on from model 1 with a *constant* learning rate, keeps the
# network after each epoch, and takes the soup of these. **SWAG** (Maddox et al. 2019) draws members
# at random around that mean, as widely as the trajectory spreads (lesson 02, "swag"). Both stay
# near one point.

# %%
calm = replace(fine, lr=fine.lr / 4, epochs=4 if preset == "smoke" else 20)
steps = transfer.trajectory(first, target.train, calm, kept)
swa = transfer.soup(steps, as_trained)
draw = torch.Generator().manual_seed(seed)
swag = transfer.swag_ensemble(steps, as_trained, M, 1.0, draw)
barrier = barriers(first, swag[0])["training"]
print(f"model 1: {test_points(first):.1f} points, SWA: {test_points(swa):.1f}")
print(f"barrier between model 1 and a sample: {barrier:.3f} nats")

# %% tags=["nbval-check-output"]
rows = many[((many["method"] == "swa") | (many["size"] == 5))]
rows = rows[rows["method"].isin(["swa", "swag", "local", "sse", "star"])]
found = rows.groupby(["data", "method"], sort=False)[["points", "nll", "soup_points"]]
print(found.agg(lambda v: str(results.interval(v))).to_string())

# %% [markdown]
# (For SWA, `points` and `nll` are those of its one network. Its learning rate, and SWAG's, were
# each chosen by validation NLL.) On fashion-mini SWAG's five samples come to 87.1 points and an
# NLL of .372, the Local DE to 88.4 and .347. Samples around one point bring less than members
# that were trained.
#
# ## A picture of the basin
#
# Three networks span a plane (lesson 02). We look at the training loss there. Each point is a
# network, with its own statistics of BatchNorm.

# %%
import functools

from sbtutor import landscape, planes

ticks = 7 if preset == "smoke" else 13
some = data.subset(few, min(200, len(few.labels)), seed)
its_own = augmented(some, fine)


@functools.cache  # each plane is computed once
def on_plane(name):
    """Training loss on a grid, its axes, and the places of three members."""
    networks = (made[name] + local[1:])[:3]  # if there are only two: a third
    points = stack.points_of(networks)
    plane = planes.plane_through(*points)
    places = plane.coordinates(points).cpu()
    low, high = places.min(0).values, places.max(0).values
    side = torch.linspace(-0.35, 1.35, ticks)
    x, y = (low[i] + side * (high[i] - low[i]) for i in (0, 1))
    rows = [plane.points(x, y[i : i + 1]) for i in range(ticks)]
    seen = [landscape.survey(networks[0], r, some, refresh=its_own) for r in rows]
    return x, y, torch.stack([each.loss for each in seen]), places


# %%
def basin_plot(three: str, cap: float = 1.5):
    """Training loss on the plane through model 1 and two other members."""
    x, y, z, places = on_plane(three)
    names = ("model 1", "member 2", "member 3")
    marks = dict(zip(names, places.numpy().round(2).tolist()))
    title = f"{three}: training loss between three members (one run)"
    axes = ("from model 1 to member 2", "orthogonal to it", f"nats (at most {cap})")
    x, y = (side.numpy().round(2).tolist() for side in (x, y))
    figure = plots.surface(x, y, z.clamp(max=cap).numpy(), title, *axes, marks)
    return figure.update_traces(ncontours=9, selector=dict(type="contour"))


basin_plot("StarSSE")

# %%
basin_plot("Global DE")

# %% [markdown]
# Losses above 1.5 nats are drawn as 1.5. Compare the axes, too: the Global DE's members lie much
# further apart. The star's members share one low region. Between the Global DE's members there is
# a ridge.
#
# ## Explore
#
# Choose images, an ensemble, a quantity and the length of the cycles. At which factor of the
# learning rate is the optimum, and is it the same for ensemble and soup? How much does the length
# matter, where the learning rate is low, and where it is high? Where does SSE leave the basin,
# where StarSSE?


# %%
def by_strength(images: str, quantity: str, length: float):
    """A quantity by the cycles' learning rate, mean and 95 % interval over seeds."""
    rows = grid[(grid["data"] == images) & (grid["epochs"] == length)]
    middle, bands = {}, {}
    for method, part in rows.groupby("method"):
        name = NAMES[method]
        middle[name], bands[name] = interval_by(part, "lr", quantity)
    factors = sorted(rows["lr"].unique())
    title = f"{LABELS[quantity]}, cycles of x{length:g} length ({images})"
    labels = ("factor of the learning rate", LABELS[quantity])
    figure = plots.lines(factors, middle, title, *labels, bands)
    return figure.update_xaxes(type="log", tickvals=factors)


# %%
import ipywidgets

from sbtutor import widgets

options = [(label, name) for name, label in LABELS.items()]
controls = dict(
    images=ipywidgets.Dropdown(options=list(grid["data"].unique())),
    quantity=ipywidgets.Dropdown(options=options, value="test_nll"),
    length=ipywidgets.SelectionSlider(options=[0.25, 0.5, 1.0], value=1.0),
)
widgets.explore(by_strength, **controls)

# %% tags=["nbval-check-output"]
controls["quantity"].value, controls["length"].value = "barrier", 0.25
figure = by_strength(**{name: control.value for name, control in controls.items()})
assert list(figure.data[-1].x) == sorted(grid["lr"].unique())
print(figure.layout.title.text)

# %% [markdown]
# Then the ensembles and their soups, by size:

# %%
quantities = ["nll", "points", "soup_points", "member_points"]
choices = dict(
    images=ipywidgets.Dropdown(options=list(many["data"].unique()), value="cifar10"),
    quantity=ipywidgets.Dropdown(options=quantities, value="soup_points"),
)
widgets.explore(by_size, **choices)

# %% tags=["nbval-check-output"]
choices["quantity"].value = "points"
figure = by_size(**{name: control.value for name, control in choices.items()})
assert len([trace for trace in figure.data if trace.name]) == 4
print(figure.layout.title.text)

# %% [markdown]
# The basin again, for any of the ensembles of this run. Which have their three members in one
# valley?

# %%
three = ipywidgets.Dropdown(options=list(made), value="SSE", description="ensemble")
widgets.explore(basin_plot, three=three)

# %%
three.value = "Local DE"
figure = basin_plot(three.value)
assert [trace.name for trace in figure.data[1:]] == ["model 1", "member 2", "member 3"]
assert figure.data[0].z.max() <= 1.5

# %% [markdown]
# ## The paper's claims, one by one
#
# Nine claims, in our words, each as many questions: one for each size, step of the grid, or kind
# of images. *Shown* means that the whole 95 % interval over seeds is on the claimed side,
# *contradicted* that it is on the other side, *not shown at this size* that it holds both. *In
# accord* is an equality inside the interval. Most questions and thresholds were written down
# before these results existed (`notebooks/results/claims_sadrtdinov.py`). No interval is adjusted
# for the number of questions. How many questions have which answer:

# %% tags=["nbval-check-output"]
answers = claims.groupby(["claim", "data"])["verdict"].value_counts()
print(answers.unstack(fill_value=0).to_string())

# %% [markdown]
# Some in full. Claim 1 on basins, and claim 4 on where the best cycles are:

# %% tags=["nbval-check-output"]
print(about(1))

# %% tags=["nbval-check-output"]
print(about(4, "NLL|log2|barrier"))

# %% [markdown]
# ## Exercises
#
# **1. The barrier** (easy, 5 minutes). Write it without looking back.

# %% tags=["exercise"]
from sbtutor import check


def my_barrier(losses):
    """Losses (steps,) at equal steps of t from one end to the other, to a number."""
    # solution
    t = torch.linspace(0, 1, len(losses))
    line = (1 - t) * losses[0] + t * losses[-1]
    return (losses - line).max()
    # end


right = check.barrier(my_barrier)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>What would the loss be at t if it ran straight from
# the first end's to the last end's?</details>
# <details><summary>Hint 2: an outline</summary>Make all t at once; make the straight line, of the
# same shape as the losses; subtract; take the largest.</details>
# <details><summary>Hint 3: almost there</summary><code>torch.linspace(0, 1, len(losses))</code>
# gives t. At t the line is <code>(1 - t) * losses[0] + t * losses[-1]</code>.</details>
#
# <!-- solution -->
#
# **2. What does it cost?** (easy, 5 minutes). Fine-tuning takes 40 epochs, a cycle 20. How
# many epochs are trained for $M = 5$ members (model 1 is one) of a Local DE, of SSE, of StarSSE?
# And how long does each take, counted in epochs, with five machines at once?

# %% tags=["exercise"]
# (Local DE, SSE, StarSSE)
my_epochs = (5 * 40, 40 + 4 * 20, 40 + 4 * 20)  # solution
my_time = (40, 40 + 4 * 20, 40 + 20)  # solution
right = check.cycle_costs(my_epochs, my_time)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>What is trained at all? And what has to wait for
# what?</details>
# <details><summary>Hint 2: an outline</summary>Model 1 is fine-tuned. How many cycles are there for
# the other members? Draw an arrow from each network to those that start from it: the longest path
# is the time.</details>
# <details><summary>Hint 3: almost there</summary>The Local DE has no cycles and no arrows. SSE has a
# chain of four arrows. The star has four arrows that start at the same network.</details>
#
# <!-- solution -->
#
# <details><summary>Why</summary>The five fine-tunings do not wait for each other. In SSE each
# cycle does, so four machines idle. The star waits for model 1, then all four cycles run at once.
# When the members are <em>used</em>, all three cost five networks; a soup costs one.</details>
#
# **3. Where the basin ends** (medium, 8 minutes). Given are factors of the learning rate, in
# rising order, and the barrier that belongs to each. From which factor *on* does the barrier reach
# the limit? All larger factors must reach it, too. If there is no such factor, return `None`.


# %% tags=["exercise"]
def my_basin_end(factors, barriers, limit):
    """Lists of factors and barriers, and a limit in nats, to a factor or None."""
    # solution
    end = None
    for factor, barrier in zip(reversed(factors), reversed(barriers)):
        if barrier < limit:
            break
        end = factor
    return end
    # end


right = check.basin_end(my_basin_end)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>Barriers are noisy. The first one that reaches the
# limit need not be the right one.</details>
# <details><summary>Hint 2: an outline</summary>Go from the largest factor down, and stop as soon as
# one barrier lies below the limit.</details>
# <details><summary>Hint 3: almost there</summary>Start with <code>end = None</code>. Loop over
# <code>zip(reversed(factors), reversed(barriers))</code>: <code>break</code> if the barrier is
# below the limit, else set <code>end</code> to the factor.</details>
#
# <!-- solution -->
#
# <details><summary>Try it on networks (a minute)</summary>Does a chain of shorter cycles leave
# the basin at the same factor? <pre>mine = transfer.grid(
#     "sse", first, target.train, fine, M, (2, 4, 8), (0.25,), kept, jobs, recipe
# )
# found = [barriers(nets[0], nets[-1])["training"] for nets in mine.values()]
# print(found, my_basin_end([2, 4, 8], found, 0.05))</pre></details>
#
# **4. A soup** (medium, 10 minutes). Members in, one new network out, in eval mode. Its BatchNorm's
# statistics are those of the images of `split`.

# %% tags=["exercise"]
import copy

from sbtutor import stack


def my_soup(networks, split):
    """The network at the mean of the weights; the networks stay as they are."""
    # solution
    made = copy.deepcopy(networks[0])
    states = [network.state_dict() for network in networks]
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.stack([state[name] for state in states]).mean(0))
    return stack.refreshed(made, split)
    # end


right = check.soup(my_soup)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>Fill a <code>copy.deepcopy</code> of the first network.
# Its <code>state_dict()</code> shares memory with it.</details>
# <details><summary>Hint 2: an outline</summary>For each tensor of the copy, stack the members'
# tensors of that name and take the mean. Not all tensors have one:
# <code>tensor.is_floating_point()</code>. The last step is
# <code>stack.refreshed</code>.</details>
# <details><summary>Hint 3: almost there</summary>In the loop:
# <code>tensor.copy_(torch.stack([state[name] for state in states]).mean(0))</code>.</details>
#
# <!-- solution -->
#
# **5. A star** (hard, 17 minutes). Write StarSSE for a toy: in each epoch a cycle takes one step
# of SGD, with momentum 0.9, on the mean cross-entropy of one batch. `batches[m][e]` holds the images
# and labels of epoch `e` of cycle `m`. The learning rate of epoch `e`, of $E$, is
# $\frac12 \eta (1 + \cos \frac{\pi e}{E})$. Return all members, `first` being the first.

# %% tags=["exercise"]
import copy
import math


def my_star(first, batches, lr):
    """Model 1, a list of E batches for each cycle, and eta, to the list of members."""
    # solution
    members = [first]
    for cycle in batches:
        net = copy.deepcopy(first)
        optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
        for e, (images, labels) in enumerate(cycle):
            share = (1 + math.cos(math.pi * e / len(cycle))) / 2
            optimizer.param_groups[0]["lr"] = lr * share
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
        members.append(net)
    return members
    # end


right = check.star_cycle(my_star)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>Two loops: over <code>cycle in batches</code>, and in it
# over <code>e, (images, labels) in enumerate(cycle)</code>. What must be made anew for each
# cycle?</details>
# <details><summary>Hint 2: an outline</summary>For each cycle a copy of <code>first</code> and a new
# optimizer. For each epoch: set the learning rate, clear the gradients, call
# <code>backward()</code> of the loss, step.</details>
# <details><summary>Hint 3: almost there</summary><code>optimizer.param_groups[0]["lr"] = ...</code>
# sets the learning rate; its share of eta is
# <code>(1 + math.cos(math.pi * e / len(cycle))) / 2</code>.</details>
#
# <!-- solution -->
#
# ## What we saw
#
# | claim of the paper | here, on fashion-mini (four seeds) |
# |---|---|
# | 1. members of a Local DE lie in one basin, of a Global DE in different ones | Global DE: shown, barriers of 1.87 nats (1.54 on validation images). Local DE: .071 on training images, not shown to be below our limit of .05; .023 on validation images: shown. That it is far lower than the Global DE's: shown |
# | 2. a Global DE is more diverse than a Local DE, and better | first half shown at every size. Second half: in accuracy shown with five members (+0.8 points, both tuned +0.6), not with fewer; in NLL shown for four tuned members only (-.021) |
# | 3. stronger cycles: more diverse, higher barrier, worse members | by the learning rate: disagreement shown up to factor 4, barrier shown from factor 1 on; that the last member gets worse is not shown for any step. By the length: at factor 8 longer cycles give *better* last members (contradicted in all four steps), that differ less (three of four); the barrier does not show |
# | 4. the best cycles are neither the weakest nor the strongest, and beat a Local DE; outside the basin quality falls | the best learning rate lies inside the grid: shown; the best length: not shown. Better than the weakest cycles in NLL: shown (SSE -.065, StarSSE -.083). Better than the strongest: shown for StarSSE's accuracy (+1.6 points), not in NLL. Better than a Local DE: not shown. That leaving the basin costs: contradicted, as above |
# | 5. along SSE members get worse and further away; in a star they do not | further away: shown for tuned cycles. Worse: not shown for tuned cycles; for the strongest contradicted, by accuracy. (Of a star it holds by construction) |
# | 6. StarSSE is at least as good as SSE, and SSE as a Local DE; the best StarSSE has a higher learning rate than fine-tuning | StarSSE against SSE: shown for the accuracy of four members only (+0.95). Both against a Local DE, tuned or not: no difference shows. (In NLL two members of either beat two that were trained twice as long.) Last part: shown, factor 2 or 4 for each seed |
# | 7. soups: StarSSE over Local DE over SSE; each member helps a star's soup | not shown but for one part: with cycles chosen for soups, StarSSE is over SSE by .25 points. That each member helps is not shown for any, and once contradicted |
# | 8. soups fail where there is a barrier, and there only | shown, by all twelve questions |
# | 9. from one checkpoint the gap to a Global DE does not close | for SSE: shown in accuracy with five members (+1.2 points). For StarSSE: shown in NLL with five members (-.009), but not against the tuned Global DE or at other sizes |
#
# **On CIFAR-10**, from three seeds only, most of it looks alike. By number of the claim: (1) The
# Local DE's barrier is .087 nats (.021 on validation images), the Global DE's 1.33. That the
# first is below .05 is not shown for either kind of images. (2) The Global DE is better, shown in
# accuracy with three and five members (+1.1 and +1.6 points), in NLL if both are tuned, with four
# and five (-.048). (3) As on fashion-mini, and in a star the last member does get worse from
# factor 2 on: shown. (4) Tuned StarSSE is better than the strongest cycles in NLL, too, and than
# a Local DE (-.022), but not shown to be better than a tuned Local DE (-.007 ± .047). Whether
# leaving the basin pays or costs does not show. (5) That later members of SSE get worse, or
# better, does not show. (6) Between StarSSE and SSE nothing shows. (7) With cycles chosen for
# soups, StarSSE is over the Local DE by 4.6 points, shown; but so is SSE, by 4.8. Between the two
# nothing shows. (8) Eight of twelve answers are "shown", the other four "not shown". (9) The
# tuned Global DE is better than StarSSE, by 1.7 points and .041 nats with five members: shown. So
# there the gap does not close. And pre-training is worth more: the Local DE is better than
# networks from scratch by 1.5 points with five members: shown.
#
# Why does so much not show? Four seeds, and three, give wide intervals. And what is chosen is
# chosen on few validation images (500 on fashion-mini, 1,000 on CIFAR-10), so that part of each
# choice is luck. Why are some claims contradicted? Our networks are small and are fine-tuned on
# 500 or 1,000 images only, and have not converged: training on makes them better. The source is
# small, too. A checkpoint of ImageNet knows more, so that there is more to lose. With the paper's
# networks (preset paper: ResNet-50, CIFAR-100, 45,000 training images) all this is different. It
# needs a GPU and hours; we have not run it.
#
# ## Common mistakes
#
# - **Measuring a barrier with old BatchNorm statistics.** Part of the hill is then an artefact.
#   Re-estimate them at every point, for soups, too.
# - **Calling two networks "in one basin" from the ends and the middle alone.** The hill may stand
#   elsewhere. And the straight line is only one way: without a barrier on it there may be one
#   elsewhere, with one there may be a bent path around it (lesson 02).
# - **Comparing members that were trained for unequal times.** A cycle trains on. Give the Local DE
#   the same epochs.
# - **Choosing the strength of cycles on test images.** Choose on validation images, for each seed
#   again.
# - **Averaging weights across basins.** Ensembles of different checkpoints average well in
#   *probabilities*, never in weights.
# - **Keeping the optimizer's memory from one cycle to the next.** In a star that would not be the
#   same start for all.
#
# ## References
#
# - Sadrtdinov, Pozdeev, Vetrov, Lobacheva (2023). *To stay or not to stay in the pre-train basin:
#   insights on ensembling in transfer learning.* NeurIPS. arXiv 2303.03374.
# - Huang, Li, Pleiss, Liu, Hopcroft, Weinberger (2017). *Snapshot ensembles: train 1, get M for
#   free.* ICLR. arXiv 1704.00109.
# - Wortsman et al. (2022). *Model soups: averaging weights of multiple fine-tuned models improves
#   accuracy without increasing inference time.* ICML. arXiv 2203.05482.
# - Izmailov, Podoprikhin, Garipov, Vetrov, Wilson (2018). *Averaging weights leads to wider optima
#   and better generalization.* UAI. arXiv 1803.05407.
# - Maddox, Garipov, Izmailov, Vetrov, Wilson (2019). *A simple baseline for Bayesian uncertainty in
#   deep learning.* NeurIPS. arXiv 1902.02476.
# - Frankle, Dziugaite, Roy, Carbin (2020). *Linear mode connectivity and the lottery ticket
#   hypothesis.* ICML. arXiv 1912.05671. (Their barrier is above the mean of the ends.)
# - Neyshabur, Sedghi, Zhang (2020). *What is being transferred in transfer learning?* NeurIPS.
#   arXiv 2008.11687. (Fine-tunings of one checkpoint lie in one basin.)
