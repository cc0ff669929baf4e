# %% [markdown]
# # Can an ensemble cost little more than one network?
#
# **Minutes:** read 35, do 45, compute 2

# %% [markdown]
# ## Objectives
#
# After this lesson you can
#
# - derive a layer that holds many networks in little more than one's weights;
# - count what it saves, and say what it does not save;
# - build weights that answer to hyperparameters, and turn them like knobs;
# - say why one loss trains the weights and another one the ranges of hyperparameters;
# - compare batch, hyper-batch, deep and hyper-deep ensembles over many seeds.
#
# You need: lessons 00 and 01. Lesson 03 helps: it searches hyperparameters by training
# one network for each setting.

# %% [markdown] tags=["teacher"]
# **For the teacher.** Talking points:
#
# - What can a member with a rank-1 factor not be? (No new hidden units, no ratio of full rank.)
# - Memory is saved and arithmetic is not. For whom is that a good bargain?
# - Why two losses, and why on other images? Let the class break the scheme: tune on training images.
# - Most of the paper's order is not found here. What would you have to change to find out why?
#
# Time: 35 minutes to read. It can be split before "Weights that answer": the first half stands
# alone, with exercises 1 and 4 to 6; exercises 2 and 3 belong to the second half.
#
# Typical misunderstandings: member-major and image-major batches; "batch" taken for mini-batch; the
# median of a range taken for its mean; gains counted over unequal members taken for a victory.

# %% tags=["parameters"]
import os

preset: str = os.environ.get("SBTUTOR_PRESET", "class")  # smoke | class | paper
seed: int = 0  # seed of the first member
members: int = 3  # M, the size of the ensembles

# %%
from sbtutor import session

lesson = session.start("04", preset, seed)

# %% [markdown]
# ## The question
#
# A deep ensemble of $M$ networks has $M$ times the weights of one. They must be trained,
# stored and loaded. Wen et al. (2020) asked whether the members could *share* nearly all
# weights, and each keep only a few numbers of its own. That is a **batch ensemble**.
# Wenzel et al. (2020) went on: let the members differ in their hyperparameters too, and
# learn these during the one training. That is a **hyper-batch ensemble**. We build both,
# layer by layer.
#
# ## One matrix, many networks
#
# Take a linear layer with $I$ inputs and $O$ outputs: $y = W x + b$, with $W$ of shape
# $(O, I)$. In a batch ensemble all members share $W$. Member $k$ has three vectors of its
# own: $r_k$ with $I$ numbers, $s_k$ with $O$ numbers, and its bias $b_k$. Its weights are
#
# $$W_k = W \odot (s_k r_k^\top), \qquad\text{entry by entry}\qquad
# W_{k,oi} = s_{ko} \, W_{oi} \, r_{ki} .$$
#
# ($\odot$ multiplies entry by entry. The matrix $s_k r_k^\top$ has **rank 1**: all its
# columns are multiples of one vector.) Nobody has to make the matrix $W_k$. Put an input $x$
# through it and look at output $o$:
#
# $$\sum_i W_{k,oi} \, x_i = \sum_i s_{ko} \, W_{oi} \, r_{ki} \, x_i
# = s_{ko} \sum_i W_{oi} \, (r_{ki} \, x_i) .$$
#
# $s_{ko}$ leaves the sum, since it does not depend on $i$. So: scale the inputs by $r_k$,
# use the shared $W$, scale the outputs by $s_k$. With examples in rows, as in PyTorch,
# that is $[(x \odot r_k) \, W^\top] \odot s_k + b_k$.
#
# All members work in one pass. The batch holds the same $B$ images $M$ times,
# **member-major**: first the $B$ images for member 0, then the same for member 1, and so on.

# %%
import torch

from sbtutor import batch_ensemble
from sbtutor.rank_one import each

small = batch_ensemble.convert(torch.nn.Linear(5, 4), members=3, seed=seed)
layer = small.network[0]
W, r, s, b = layer.own.weight, layer.own.r, layer.own.s, layer.bias
images = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed))
x = small.tile(images)  # (3 * 2, 5): image 0, image 1, image 0, image 1, ...

# %%
by_trick = (x * each(r, x)) @ W.T * each(s, x) + each(b, x)  # each: a row an example
own = [W * torch.outer(s[k], r[k]) for k in range(3)]  # all W_k, as a check
by_weights = torch.cat([images @ own[k].T + b[k] for k in range(3)])
assert torch.allclose(by_trick, by_weights, atol=1e-5)
assert torch.allclose(by_trick, layer(x), atol=1e-5)

# %% [markdown]
# In a convolution $r_k$ scales the input channels and $s_k$ the output channels. (Its weights
# are so few that the package makes the $W_k$ there.) Norm layers are shared. They see all
# members' examples at once.
#
# ## Are these different networks?
#
# The factors start as random numbers around 1, with standard deviation 0.5. So from the
# start every weight of member 1 differs from that of member 0. How free are they? Behind a
# layer comes a ReLU, and then the next layer's $r_k$. A *positive* number may be moved through
# a ReLU, $\mathrm{relu}(s z) = s \, \mathrm{relu}(z)$. So a member owns, roughly, one strength for each input pixel, one for each hidden unit, one for each class, and the biases. A negative factor does more:
# its unit now answers to the opposite images.
#
# Here is what a member cannot do. The ratio of two members' weights,
# $W_{1,oi} / W_{0,oi} = (s_{1o} / s_{0o}) (r_{1i} / r_{0i})$, has rank 1 again. Two networks
# that were trained apart have ratios of any rank. A weight that is 0 is 0 for all members.
# And no member can make a new hidden unit from other pixels: it can only weigh those that
# $W$ already joins.

# %%
ratio = own[1] / own[0]
free = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)) / own[0]
rank = torch.linalg.matrix_rank
print(
    "rank of the ratio: shared", int(rank(ratio, rtol=1e-4)), "- free", int(rank(free))
)
assert rank(ratio, rtol=1e-4) == 1

# %% [markdown]
# ## What it costs
#
# A deep ensemble of such layers has $M (I O + O)$ numbers. The batch ensemble has
#
# $$\underbrace{I O}_{W} + \underbrace{M (I + O)}_{r_k,\ s_k} + \underbrace{M O}_{b_k} .$$
#
# The hyper-batch ensemble, which comes below, has about twice that: a second matrix with
# its own factors and biases. Let us count whole networks. (On PyTorch's device `meta` a
# network has shapes but no numbers. So even large ones are counted at once.)

# %%
import functools

from sbtutor import models, space
from sbtutor.config import ModelConfig

USUAL = {"mlp": 128, "lenet": 6, "resnet8": 16, "wrn28_10": 160}  # widths


@functools.cache
def shapes(name, times):
    """A network without numbers."""
    with torch.device("meta"):
        config = ModelConfig(name=name, width=max(1, int(times * USUAL[name])))
        return models.build(config, (3, 32, 32), classes=10, seed=0)


# %%
def count(name, size, times=1.0):
    """Parameters of one network, and of three kinds of ensembles of `size`."""
    network = shapes(name, times)
    one = sum(p.numel() for p in network.parameters())
    batch = second = 0  # what comes on top of one network, and on top of that
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            outputs, inputs = layer.weight.shape[:2]
            bias = 0 if layer.bias is None else outputs
            batch += size * (inputs + outputs) + (size - 1) * bias
            second += layer.weight.numel() + size * (inputs + outputs + bias)
            second += len(space.names(network)) * (outputs + bias)  # answers to lambda
    ranges = 2 * size * len(space.names(network))  # of the members' hyperparameters
    batch, hyper = one + batch, one + batch + second + ranges
    return {"one": one, "deep": size * one, "batch": batch, "hyper-batch": hyper}


# %% tags=["nbval-check-output"]
import pandas as pd

counts = pd.DataFrame({name: count(name, 4) for name in USUAL}).T
for hyper, kind in ((False, "batch"), (True, "hyper-batch")):
    network = models.build(ModelConfig(name="lenet"), (3, 32, 32), 10, seed=0)
    whole = batch_ensemble.convert(network, 4, hyper=hyper)
    assert sum(p.numel() for p in whole.parameters()) == counts.loc["lenet", kind]
shares = counts.div(counts["one"], axis=0).drop(columns="one").round(3)
shares.insert(0, "one network", counts["one"])
shares

# %%
from sbtutor import plots


def plot_cost(network: str, times: float = 1.0):
    """Parameters of each kind, in units of one network, for 1 to 10 members."""
    rows = [count(network, size, times) for size in range(1, 11)]
    series = {k: [round(row[k] / row["one"], 3) for row in rows] for k in rows[0]}
    series.pop("one")
    title = f"Parameters of ensembles of {network}, {times:g} times its usual width"
    return plots.lines(
        list(range(1, 11)), series, title, "members", "times one network"
    )


# %%
plot_cost("lenet")

# %% [markdown]
# The table is for four members, in units of one network. The wider the layers, the cheaper
# the factors: $I O$ grows faster than $I + O$. For the Wide ResNet of the paper, four members
# cost 0.2 % more than one network.
#
# **Memory is saved. Multiplications are not.** Each member still works on each image, so
# a pass takes about $M$ times the arithmetic of one network. There is one training to run
# instead of $M$, in larger steps; a machine that can do much at once, such as a GPU, may be
# quicker with those. A rough look (milliseconds of a training step with 100 images, an MLP,
# on the CPU):

# %%
import timeit

mlp = models.build(ModelConfig(name="mlp"), (1, 14, 14), 10, seed=0)
few = torch.rand(100, 1, 14, 14)
shared = batch_ensemble.convert(mlp, members)
answering = batch_ensemble.convert(mlp, members, hyper=True)


# %%
def milliseconds(network, images, times=1):
    """Of one step, or of so many in turn: the fastest of seven rounds."""

    def steps():
        for _ in range(times):
            network(images).square().mean().backward()

    return 100 * min(timeit.repeat(steps, number=10, repeat=7))


# %%
taken = {"one network": milliseconds(mlp, few)}
taken[f"{members} networks in turn"] = milliseconds(mlp, few, members)
taken["batch ensemble"] = milliseconds(shared, shared.tile(few))
taken["hyper-batch ensemble"] = milliseconds(answering, answering.tile(few))
print("\n".join(f"{k}: {v:.1f} ms" for k, v in taken.items()))

# %% [markdown]
# Compare the batch ensemble with the networks in turn, not with the one network. With so small
# a matrix there is no time to be won, since scaling inputs and outputs is work, too.
# `benchmarks/batch.py` measures training with more care, on a ResNet-8.
#
# ## Predict first
#
# We train a single network, a deep ensemble and a batch ensemble, with the same settings. An
# ensemble has a lower NLL than its average member. Take this gain of the deep ensemble
# as 100 %. How much of it will the batch ensemble have?

# %%
my_guess = "half"  # or "little" (below a third), "most" (above two thirds)
lesson.guess("share of the deep ensemble's gain", my_guess)

# %% [markdown]
# The network is an MLP with two hidden layers. There are three kinds of **hyperparameters**,
# numbers that ordinary training does not change:
#
# - an **L2 strength** $\lambda$ for each layer: it adds $\frac{\lambda}{N} \lVert W \rVert^2$
#   (biases included) to the loss, with $N$ training images. Large $\lambda$ keeps weights
#   small;
# - the **dropout** rate: the share of hidden units that each training step sets to 0;
# - **label smoothing** $\varepsilon$: a share of the target that is spread evenly over all
#   classes.

# %%
import dataclasses

from sbtutor import data

model = ModelConfig(name="mlp", dropout=0.5)  # "with dropout": the rate stands below
if preset == "paper":
    model = lesson.base.model
splits = data.load(lesson.base.data)

# %%
in_shape = tuple(splits.train.images.shape[1:])
names = space.names(models.build(model, in_shape, len(splits.train.classes), 0))
settings = dict.fromkeys(names, 10.0 if preset == "paper" else 0.3)  # all L2 strengths
settings |= {"dropout": 0.2} if "dropout" in names else {}
settings["label_smoothing"] = 0.01
print(settings)


# %%
def experiment(times=1):
    """The preset's training, so many times as long."""
    epochs = times * lesson.base.train.epochs
    drops = (epochs // 2, 3 * epochs // 4)  # where the learning rate falls
    varied = lesson.vary(members=members, epochs=epochs, milestones=drops)
    return dataclasses.replace(varied, model=model)


# %%
from sbtutor import batch_training, hyper

first = hyper.Trial(settings=settings, init=seed, order=seed)
trials = hyper.inits_of(first, members)  # other first weights, other order of images
deep = hyper.train(experiment(), trials, lesson.runs / "pool", jobs=1)
batch = batch_training.fit(experiment(), settings, lesson.runs / "batch")

# %% [markdown]
# In a batch ensemble all members see the same images in the same order. Only the factors
# are theirs from the start. The settings are round numbers near those that searches found good
# on validation images.

# %%
from sbtutor import diversity, metrics
from sbtutor.predict import predict


def quality(networks):
    """NLL and accuracy, and how often members vote differently; test images."""
    seen = predict(networks, splits.test)
    probs, labels = seen.logits.softmax(-1), seen.labels
    found = {}
    for name in ("nll", "accuracy"):
        measure = getattr(metrics, name)
        found[f"member {name}"] = sum(measure(p, labels) for p in probs) / len(probs)
        found[name] = measure(probs.mean(0), labels)
    if len(networks) > 1:
        found["disagreement"] = diversity.disagreement(seen.logits)
    return {name: float(value) for name, value in found.items()}


# %%
deep_members = [deep.model(k) for k in range(members)]
kinds = {"single": deep_members[:1], "deep": deep_members, "batch": batch.members}
table = pd.DataFrame({kind: quality(m) for kind, m in kinds.items()}).T
table.round(4)

# %%
gains = table["member nll"] - table["nll"]
share = gains["batch"] / gains["deep"]
answer = "little" if share < 1 / 3 else "half" if share < 2 / 3 else "most"
print(f"this run: the batch ensemble has {share:.0%} of the deep ensemble's gain")
lesson.compare("share of the deep ensemble's gain", answer)

# %% [markdown]
# **Disagreement** is the share of test images on which two members vote differently. So
# members with one shared $W$ are not one function. But mind how we counted: each ensemble's
# gain is over its *own* members. Where these are worse, a large gain is no victory. And one
# run cannot rank two ensembles; tables over many seeds come below.
#
# ## Weights that answer
#
# Which settings are best? Nobody knows beforehand. A search trains a network for each
# setting, and throws most of them away. MacKay et al. (2019) had another idea: **self-tuning
# networks**. Make the weights a function of $\lambda$ (from here on $\lambda$ stands for
# *all* hyperparameters in a row, $\lambda_1, \dots, \lambda_H$). Train this one function at
# many $\lambda$. Afterwards $\lambda$ is a knob.
#
# Wenzel et al. (2020) put this into the batch ensemble. A **hyper-batch** layer is
#
# $$W_k(\lambda) = W \odot (s_k r_k^\top) + [D \odot (v_k u_k^\top)] \odot e(\lambda),
# \qquad b_k(\lambda) = b_k + d_k \odot e'(\lambda) .$$
#
# $D$ is a second shared matrix, $u_k$, $v_k$ and $d_k$ are vectors of member $k$. The function
# $e(\lambda)$ gives one number for each output, and multiplies the whole row of that output.
# It must be simple. Here it is linear: $e(\lambda) = E \, t$, where
# $t_h \in [0, 1]$ is the place of $\log \lambda_h$ between the smallest and the largest
# permitted value. ($e'$ is another such function.) Each *example* brings its own $\lambda$, so
# one batch holds many settings. Below, two members see the same two images, each time at
# another $\lambda$.

# %%
from sbtutor.space import Space

permitted = Space(
    l2=(1e-3, 1e2)
)  # per image up to 1e2 / 5,000, the paper's 1e3 / 50,000
small = batch_ensemble.convert(
    torch.nn.Linear(5, 4), 2, hyper=True, space=permitted, seed=seed
)
layer = small.network[0]

# %%
draw = torch.Generator().manual_seed(seed)
layer.embed.data.normal_(generator=draw)  # E; training starts near 0
log_lambda = small.sample(torch.rand(2, 2, 2, generator=draw))  # a row an example
print("hyperparameters of this layer:", ", ".join(small.names))


# %%
def weights(k, row):
    """W_k(lambda) and b_k(lambda) of member k, for one example's log lambda."""
    t = (row - small.least) / (small.most - small.least)
    e, e_bias = (layer.embed @ t).chunk(2)
    v, u = layer.response.s[k], layer.response.r[k]
    A = layer.own.weight * torch.outer(layer.own.s[k], layer.own.r[k])
    D = layer.response.weight * torch.outer(v, u)
    return A + D * e[:, None], layer.bias[k] + layer.bias_delta[k] * e_bias


# %%
x = small.tile(images)
every = [weights(i // 2, row) for i, row in enumerate(log_lambda)]  # member-major
by_hand = torch.stack([W @ v + b for v, (W, b) in zip(x, every)])
assert torch.allclose(by_hand, small(x, log_lambda), atol=1e-4)

# %% [markdown]
# **The L2 term, without the matrices.** Each example has its own weights, so the penalty is a
# mean over members and examples. Let $\nu_{kn}$ be the L2 strength of this layer for example $n$ of
# member $k$. The penalty is $\frac{1}{MB} \sum_{k,n} \nu_{kn} \lVert W_k(\lambda_{kn}) \rVert^2$ (the
# biases likewise). With $A_k = W \odot (s_k r_k^\top)$ and $D_k = D \odot (v_k u_k^\top)$, row $o$
# has the square $\sum_i (A_{k,oi} + D_{k,oi} \, e_o)^2 = \sum_i A_{k,oi}^2 + 2 A_{k,oi} D_{k,oi} \,
# e_o + D_{k,oi}^2 \, e_o^2$. Only $e_o$ and $\nu$ depend on the example. So for each member three
# means over its examples are enough for each output: of $\nu$, of $\nu e_o$ and of $\nu e_o^2$. The
# package does that. By force it is:

# %%
strengths = log_lambda[:, 0].exp()  # the first hyperparameter is this layer's L2
squares = torch.stack([W.square().sum() + b.square().sum() for W, b in every])
by_force = (strengths * squares).mean()
assert torch.allclose(by_force, small.penalty(log_lambda), rtol=1e-4)

# %% [markdown]
# ## Ranges instead of values
#
# During training $\lambda$ must vary, else the weights could not learn to answer. Each member
# $k$ has for each hyperparameter a range $[a, b]$, and draws from it **log-uniformly**:
# $\log \lambda = \log a + z \, (\log b - \log a)$ with $z$ uniform in $[0, 1]$. The ends $a$ and $b$ are learned. (After each tuning step they are put back into the permitted range, with $a < b$.) Four facts, with $w = \log b - \log a$:
#
# | | formula |
# |---|---|
# | slope in the ends | $\partial \lambda / \partial \log a = (1 - z) \, \lambda$ and $\partial \lambda / \partial \log b = z \, \lambda$ |
# | mean | $\mathbb E \lambda = (b - a) / w$ |
# | median | $\sqrt{ab}$, below the mean |
# | entropy | $\mathcal H = \frac12 (\log a + \log b) + \log w$ |
#
# The slopes tell that a gradient can reach the ends: a draw moves with them. The **entropy**
# is the mean of $-\log$ of the density $1 / (\lambda w)$. It is large for distributions that
# spread over many values. Let us compare with 200,000 draws from $[0.1, 100]$:

# %%
from sbtutor import loguniform

low, high = torch.tensor([0.1, 100.0], dtype=torch.float64).log().requires_grad_()
z = torch.rand(200_000, generator=draw, dtype=torch.float64)
drawn = (low + z * (high - low)).exp()  # lambda
slopes = torch.autograd.grad(drawn[0], (low, high), retain_graph=True)
assert torch.allclose(torch.stack(slopes), torch.stack([1 - z[0], z[0]]) * drawn[0])

# %%
mean, entropy = loguniform.mean(low, high), loguniform.entropy(low, high)
density = 1 / (drawn * (high - low))
print(f"mean {mean:.2f}, of the draws {drawn.mean():.2f}; median {drawn.median():.2f}")
print(f"entropy {entropy:.3f}, of the draws {-density.log().mean():.3f} nats")
assert abs(mean - drawn.mean()) < 4 * drawn.std() / len(z) ** 0.5

# %% [markdown]
# ## Two losses that take turns
#
# A **training step** moves the weights, on training images, at drawn $\lambda$. Its loss is the
# mean of the *members'* losses:
#
# $$\frac1M \sum_k \frac1B \sum_i \Big[ -(1 - \varepsilon_{ki}) \log p_k(y_i)
# - \frac{\varepsilon_{ki}}{C} \sum_c \log p_k(c) \Big]
# + \frac1N \sum_{\text{layers}} \text{L2 term} .$$
#
# $p_k(c)$ is member $k$'s probability of class $c$ for image $i$ at $\lambda_{ki}$, $y_i$ the
# truth, $\varepsilon_{ki}$ the label smoothing, $C$ the number of classes. Every third time a
# **tuning step** follows. It moves the ends of the ranges only, on *validation* images. Its loss
# is the loss of the *mean*, less $\tau$ times the sum of all ranges' entropies:
#
# $$-\frac1B \sum_i \log \frac1M \sum_k p_k(y_i) \;-\; \tau \sum_{k,h} \mathcal H_{kh} .$$
#
# Why two losses? Each member should be good for itself; that needs no other member.
# But which ranges are good is a matter of the team: a member may have strange ones if that
# helps the others. And why other images? On training images the smallest L2 always looks
# best. The number $\tau \ge 0$ is ours to choose.

# %%
from sbtutor import tuning

labels = torch.randint(10, (100,), generator=draw)
z = torch.rand(members, 100, len(answering.names), generator=draw)
log_lambda = answering.sample(z).detach()

# %%
logits = answering(answering.tile(few), log_lambda)
log_p = logits.log_softmax(-1)
of_truth = log_p[range(len(log_p)), answering.tile(labels)]
eps = log_lambda[:, -1].exp()
losses = -(1 - eps) * of_truth - eps * log_p.mean(-1)
by_hand = losses.mean() + answering.penalty(log_lambda) / 5000  # N = 5000
package = tuning.training_loss(answering, few, labels, log_lambda, samples=5000)
assert torch.allclose(by_hand, package, rtol=1e-4)

# %%
mean_p = of_truth.exp().view(members, 100).mean(0)
entropies = loguniform.entropy(answering.low, answering.high)  # (M, H)
by_hand = -mean_p.log().mean() - 0.01 * entropies.sum()
package = tuning.tuning_loss(answering, few, labels, z, tau=0.01)
assert torch.allclose(by_hand, package, rtol=1e-4)

# %% [markdown]
# ## Train a hyper-batch ensemble
#
# At first the ranges cover the middle 60 % of what is permitted, on the log scale. Training is
# twice as long as before, since the weights have more to learn (in the paper: 300 epochs for
# 200 or 250). We do it with a small $\tau$ and with a large one.

# %%
SMALL, LARGE = 1e-4, 1e-2
tuned = {}
for tau in (SMALL, LARGE):
    how = tuning.Tuning(
        space=permitted, start=0.6, tau=tau, lr=0.003, tied=preset == "paper"
    )
    long = experiment(times=2 if preset == "class" else 1)
    tuned[tau] = batch_training.fit(long, how, lesson.runs / "batch")
ensemble = tuned[SMALL].ensemble

# %%
kinds |= {f"hyper-batch, tau {tau:g}": fitted.members for tau, fitted in tuned.items()}
table = pd.DataFrame({kind: quality(m) for kind, m in kinds.items()}).T
trained = {"single": [deep_members[0]], "deep": deep_members, "batch": [batch.ensemble]}
trained |= {kind: [ensemble] for kind in table.index[3:]}
table["parameters"] = [
    sum(p.numel() for network in trained[kind] for p in network.parameters())
    for kind in table.index
]
print(table.round(4).to_string())

# %% [markdown]
# `fitted.members` are ordinary networks, without any factors. A hyper-batch member predicts at
# the *mean* of its ranges: with $\lambda$ fixed, $W_k(\lambda)$ is a matrix like any other. So
# all that takes a list of members works: metrics, plots, the other lessons.

# %%
some = data.to_float(splits.test.images[:50]).to(ensemble.low)
with torch.no_grad():
    together = ensemble(ensemble.tile(some))  # at each member's mean
    one_by_one = torch.cat([member(some) for member in tuned[SMALL].members])
assert torch.allclose(together, one_by_one, atol=1e-3)
at_means = pd.DataFrame(ensemble.mean().detach().exp().tolist(), columns=ensemble.names)
at_means.rename_axis("member").round(4)

# %% [markdown]
# ## How the ranges moved

# %%
LN10 = torch.log(torch.tensor(10.0))


def plot_ranges(tau: float, name: str):
    """The members' ranges of one hyperparameter after each epoch; line: their mean."""
    ends = tuned[tau].ranges[..., names.index(name)]  # (T, 2, M), log a and log b
    means = loguniform.mean(ends[:, 0], ends[:, 1]).log() / LN10
    ends = (ends / LN10).round(decimals=3)
    series, bands = {}, {}
    for k in range(members):
        series[f"member {k}"] = means[:, k].round(decimals=3).tolist()
        bands[f"member {k}"] = (ends[:, 0, k].tolist(), ends[:, 1, k].tolist())
    title = f"Ranges of {name} during training, tau = {tau:g} (one run)"
    epochs = list(range(len(ends)))
    x, y = "epochs", f"log10 {name}"
    figure = plots.lines(epochs, series, title, x, y, bands)
    for k, (lows, highs) in enumerate(bands.values()):
        # No filled bands: they overlap.
        line = dict(width=1.5, color=plots.look(k)["line"]["color"])
        ends_k = dict(x=[*epochs, None, *epochs], y=[*lows, None, *highs])
        figure.data[2 * k].update(fill="none", opacity=1, line=line, **ends_k)
    return figure.update_traces(marker_size=3)


# %%
knob = names[0]
plot_ranges(SMALL, knob)

# %%
plot_ranges(LARGE, knob)

# %% [markdown]
# Thin lines are the ends of the ranges, thick ones their means $\mathbb E \lambda$ (near the
# top, since large values weigh most). With the small $\tau$ the three ranges drift apart, a
# little. With the large one all three go to the top together. Why the top? Differentiate the
# entropy:
#
# $$\frac{\partial \mathcal H}{\partial \log b} = \frac12 + \frac1w, \qquad
# \frac{\partial \mathcal H}{\partial \log a} = \frac12 - \frac1w .$$
#
# The upper end is always pushed up. The lower end is pushed *down* only while $w < 2$, that is,
# while $b < e^2 a \approx 7.4 \, a$. For wider ranges it is pushed up as well! For this is the
# entropy of $\lambda$, not of $\log \lambda$, and large values leave more room to spread.
# So $\tau$ keeps ranges from closing, but it also asks for large $\lambda$.

# %%
slopes = torch.autograd.grad(loguniform.entropy(low, high), (low, high))
w = (high - low).detach()
assert torch.allclose(torch.stack(slopes), torch.stack([0.5 - 1 / w, 0.5 + 1 / w]))
w = tuned[SMALL].ranges[0][1] - tuned[SMALL].ranges[0][0]  # before training, (M, H)
print("at first the narrowest range has w =", round(float(w.min()), 2))

# %% [markdown]
# So at first $\tau$ pushes both ends of all ranges up.

# %% [markdown]
# ## One network instead of a search?
#
# The trained network can be asked about any $\lambda$, without training. Give all members
# the same value of one hyperparameter, and leave the others at each member's mean:

# %%
from sbtutor.predict import as_input

val = data.subset(splits.val, min(1000, len(splits.val.labels)), seed=0)
pictures = as_input(val.images, ensemble.low)


# %%
@torch.no_grad()
def nll_at(log_lambda):
    """Validation NLL of the ensemble and of the average member; a row a member."""
    x = ensemble.tile(pictures)
    logits = ensemble(x, each(log_lambda, x)).unflatten(0, (members, -1))
    probs = logits.softmax(-1).cpu()
    mine = [metrics.nll(p, val.labels) for p in (probs.mean(0), *probs)]
    return float(mine[0]), float(sum(mine[1:])) / members


# %%
def turn(moved, values, **others):
    """The same at several values of one hyperparameter; all values are log10."""
    at = ensemble.mean().detach().clone()
    for name, value in others.items():
        at[:, names.index(name)] = value * LN10
    rows = []
    for value in values:
        at[:, names.index(moved)] = value * LN10
        rows.append(nll_at(at))
    return rows


# %% [markdown]
# Is the answer right? For five values we also train a new network, with the other
# hyperparameters at the members' geometric mean:

# %%
least, most = (permitted.limits(names) / LN10)[:, names.index(knob)].tolist()
points = torch.linspace(least, most, 5).tolist()
centre = ensemble.mean().detach().mean(0).exp().tolist()
trials = [
    hyper.Trial(
        settings=dict(zip(names, centre)) | {knob: 10**x}, init=seed, order=seed
    )
    for x in points
]

# %%
searched = hyper.train(experiment(), trials, lesson.runs / "pool", jobs=1)
probs = searched.val.logits.nan_to_num().softmax(-1)  # a diverged one: knows nothing
anew = [float(metrics.nll(p, searched.val.labels)) for p in probs]
turned = [member for _, member in turn(knob, points)]
series = {"average member, knob turned": turned, "networks trained anew": anew}
series = {name: [round(y, 4) for y in ys] for name, ys in series.items()}
title = f"Validation NLL against {knob} (one run)"
plots.lines(points, series, title, f"log10 {knob}", "validation NLL (nats)")

# %% [markdown]
# Networks that are trained anew differ by chance, too. The knob's line is smooth, since all its
# points are one network. (It was trained for longer, so look at the lines' shapes, not at their
# heights.) At the right end a new network is much worse, and the knob does not tell. So the answers are far too weak: this network cannot replace a search.
# Some likely reasons: the largest values lie above the learned ranges, so they were hardly
# ever seen in training; $e(\lambda)$ is linear, one number an output (for such networks the
# paper takes a curved one); nearly all weights are shared by all $\lambda$.
#
# Keep this in mind for the tables below. Where a hyper-batch ensemble is better than a batch
# ensemble, good answers need not be the reason. It also has a second matrix, and each example
# is trained at another dropout rate and with other L2 strengths.
#
# ## Many seeds
#
# One run ranks nothing. The study behind the next tables did all this for eight seeds of the
# MLP and four of LeNet, on fashion-mini at 14x14, with ensembles of three. (A fifth seed of LeNet was planned. Its hyper-batch ensemble diverged in the first epoch, and the whole seed was left out. So LeNet's numbers for hyper-batch are of seeds where training succeeded. Batch ensembles that diverged were passed over.) For each seed, a
# random search of 50 networks came first. Then
#
# - **single**: the network with the best setting of the search, by validation NLL;
# - **deep**: this setting from three first weights;
# - **hyper-deep**: the ensemble of lesson 03, of three settings or fewer, chosen greedily among
#   networks that differ in settings and first weights;
# - **batch**: a batch ensemble. The three best settings of the search, each for one and for
#   two times as many epochs: six trainings, of which the best in validation NLL is kept;
# - **hyper-batch**: as above, two times as many epochs, $\tau = 10^{-4}$ and $\tau = 0$. It
#   needs no search. (But its length, its first ranges, $\tau = 10^{-4}$ and the speed of tuning
#   were chosen by hand, by validation NLL, in some thirty trainings of MLPs with two other
#   seeds.)

# %%
import itertools

from sbtutor import results

# %% tags=["nbval-check-output"]
study = results.committed("results/hyper_kinds").rename(columns={"method": "label"})
shift = results.committed("results/hyper_shift").rename(columns={"method": "label"})
learned = results.committed("results/hyper_ranges")
clean = study.assign(severity=0)
QUANTITIES = ["nll", "accuracy", "brier", "ece"]
UNITS = dict(zip(QUANTITIES, ["NLL (nats)", "accuracy", "Brier score", "ECE"]))


# %%
def plot_kinds(network: str, quantity: str, severity: int):
    """Mean and 95 % interval of each kind; severity 0 is clean test images."""
    rows = pd.concat([clean, shift])
    rows = rows[(rows["network"] == network) & (rows["severity"] == severity)]
    title = (
        f"{quantity}: six kinds of ensembles of three ({network}, severity {severity})"
    )
    return plots.intervals(
        results.by_label(rows, quantity), title, UNITS[quantity], "values"
    )


# %%
plot_kinds("mlp", "nll", 0)

# %%
plot_kinds("lenet", "nll", 0)

# %% tags=["nbval-check-output"]
shown = ["parameters", "nll", "accuracy", "ece", "member_nll", "member_accuracy"]
shown += ["digits_auroc", "digits_fpr95"]
in_units = study.assign(parameters=study["parameters"] / study["one_network"])
print(
    in_units.groupby(["network", "label"], sort=False)[shown]
    .mean()
    .round(3)
    .to_string()
)

# %% [markdown]
# Means over seeds; parameters in units of one network. (`digits_auroc` asks how well the
# largest probability tells clothes from pictures of digits, which the networks never saw: 0.5
# is chance, 1 is perfect. `digits_fpr95` is the share of digits that pass for clothes when 95 %
# of the clothes pass; lower is better.)
#
# The bands of two kinds may overlap although each seed has the same order. So we compare
# *within seeds*: the mean of the differences, and its 95 % interval. *Shown*: the whole interval is
# on the claimed side of the threshold (0 unless told). *Contradicted*: all of it is on the other
# side. *Not shown*: it holds the threshold. Of *equal* the most we can say is *in accord*: the
# interval holds 0.


# %%
def compare(frame, ours, theirs, quantity, sign):
    """Verdict on `ours - theirs` for each network; the claim is that it has `sign`."""
    found = {}
    for network, rows in frame.groupby("network", sort=False):
        wide = rows.pivot(index="seed", columns="label", values=quantity)
        gap = results.paired(wide[ours], wide[theirs]).difference
        interval = f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
        found[network] = f"{results.verdict(gap, sign)}: {interval}"
    return found


# %% tags=["nbval-check-output"]
HYPER = "hyper-batch, tau 0.0001"
order = ["hyper-deep", "deep", HYPER, "batch", "single"]  # claimed, the best first
rows = {
    f"{ours} < {theirs}": compare(study, ours, theirs, "nll", -1)
    for ours, theirs in [
        *itertools.pairwise(order),
        ("deep", "batch"),
        (HYPER, "single"),
    ]
}
rows |= {"batch < its members": {}, "hyper-batch < its members": {}}
for network, part in study.groupby("network", sort=False):
    for label, name in (("batch", "batch"), (HYPER, "hyper-batch")):
        gap = part[part["label"] == label].eval("nll - member_nll")
        rows[f"{name} < its members"][network] = str(results.interval(gap))
print("NLL, difference of two kinds")
print(pd.DataFrame(rows).T.to_string())

# %% tags=["nbval-check-output"]
signs = {"nll": -1, "accuracy": 1, "brier": -1, "ece": -1}
rows = {q: compare(study, HYPER, "batch", q, sign) for q, sign in signs.items()}
rows |= {
    f"{q}, tau 0": compare(study, HYPER, "hyper-batch, tau 0", q, signs[q])
    for q in ("nll",)
}
print("hyper-batch less batch; in the last row less hyper-batch with tau = 0")
print(pd.DataFrame(rows).T.to_string())

# %% tags=["nbval-check-output"]
worst = shift[shift["severity"] == 5]
pairs = ((HYPER, "batch"), ("hyper-deep", "deep"))
rows = {}
for ours, theirs in pairs:
    for q in ("worst_accuracy", "accuracy", "nll"):
        rows[f"{q}: {ours.split(',')[0]} less {theirs}"] = compare(
            worst, ours, theirs, q, -1 if q == "nll" else 1
        )
    rows[f"digits AUROC: {ours.split(',')[0]} less {theirs}"] = compare(
        study, ours, theirs, "digits_auroc", -1
    )
print("severity 5, mean over 15 corruptions, or the worst of them; and digits")
print(pd.DataFrame(rows).T.to_string())

# %% [markdown]
# (Of digits the claim is that the hyper kinds are *worse*, so *shown* would mean a lower AUROC.)
#
# And the ranges after training, averaged over hyperparameters: their width, in decades (powers
# of ten), and as a share of the width at first; the log10 of their middles; how far those of
# the three members lie apart, from the lowest to the highest; and the share of a range that
# another member's range covers.


# %%
def overlap(low, high):
    """Mean share of a range that another one covers; ranges of width 0 are left out."""
    common = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
    share = common.clamp(min=0) / (high - low)[:, None]
    return float(share[~torch.eye(len(low), dtype=torch.bool)].nanmean())


def range_row(part):
    """Width, its share, distance of the middles, overlap: one seed, one name."""
    low, high = (torch.tensor(part[end].to_numpy()) for end in ("low", "high"))
    start = 0.6 * (part["most"] - part["least"]).iloc[0]
    width, middle = float((high - low).mean()), (low + high) / 2
    apart = float(middle.max() - middle.min())
    values = (width, width / start, float(middle.mean()), apart, overlap(low, high))
    columns = ["width", "share of first", "middle", "apart", "overlap"]
    return pd.Series(values, columns)


# %%
def ranges_by_seed(frame):
    """Means over the hyperparameters; one row a network, tau and seed."""
    keys, ends = ["network", "tau", "seed", "name"], ["low", "high", "least", "most"]
    rows = frame.groupby(keys, sort=False)[ends].apply(range_row)
    return rows.groupby(keys[:3], sort=False).mean()


def over_seeds(rows):
    """Mean and 95 % interval of all columns, for each network and tau."""
    by_tau = rows.groupby(["network", "tau"], sort=False)
    return by_tau.agg(lambda values: str(results.interval(values))).to_string()


# %% tags=["nbval-check-output"]
slow = ranges_by_seed(learned)
print(over_seeds(slow))

# %% [markdown]
# These ranges hardly move. So, after the first two seeds were known, another study was added:
# MLPs with fresh seeds and a tuner that is ten times as fast.

# %% tags=["nbval-check-output"]
fast_runs = results.committed("results/hyper_tau")
fast = ranges_by_seed(fast_runs)
print(over_seeds(fast))

# %% tags=["nbval-check-output"]
keys = ["network", "tau", "seed"]
print(over_seeds(fast_runs.groupby(keys, sort=False)[["nll", "accuracy"]].first()))

# %% [markdown]
# Now the ranges move, and far apart. But the test NLL is much worse than with the slow tuner.
# A likely reason: a tuning step sees only how the *present* network answers to $\lambda$, and
# these answers are poor. Who follows them fast is led astray.

# %% tags=["nbval-check-output"]
rows = {}
for tuner, means in (("slow", slow), ("fast", fast)):
    labelled = means.reset_index()
    labelled["label"] = "tau " + labelled["tau"].map("{:g}".format)
    rows[f"{tuner} tuner"] = compare(
        labelled, "tau 0.0001", "tau 0", "share of first", 1
    )
print("width as a share of the first: tau 0.0001 less tau 0")
print(pd.DataFrame(rows).T.to_string())

# %% [markdown]
# ## The paper's claims, one by one
#
# The paper's claims became questions with thresholds (`notebooks/results/claims_wenzel.py`; the
# thresholds are ours) before any of these tables existed. Those on the fast tuner came later, and so did the comparisons in accuracy and ECE, with a single network, and of the NLL at $\tau = 0$. All batch ensembles were trained again, once, after a fault in their first factors was found. No
# interval is adjusted for the number of questions. *In accord* is the most that can be said of
# "equal". First the ranges, with distances and widths as shares:

# %%
claims = results.committed("results/claims_wenzel")
claims["statement"] = claims["quantity"] + " " + claims["expected"]
claims["found"] = [
    f"{row.verdict}: {row.estimate:.3g} [{row.low:.3g}, {row.high:.3g}]"
    for row in claims.itertuples()
]
answers = claims.set_index(["claim", "statement", "data"])["found"].unstack(sort=False)

# %% tags=["nbval-check-output"]
print(answers.loc[[6, 7]].fillna("").droplevel("claim").to_string())

# %% tags=["nbval-check-output"]
print("hyper-batch and batch, hyper-deep and deep, elsewhere")
print(answers.loc[8].to_string())

# %% [markdown]
# ## Explore
#
# **Cost.** Which network gains most from sharing, and at which width does it stop mattering?

# %%
import ipywidgets

from sbtutor import widgets

cost = dict(
    network=ipywidgets.Dropdown(options=list(USUAL)),
    times=ipywidgets.SelectionSlider(options=[0.25, 0.5, 1.0, 2.0, 4.0], value=1.0),
)
widgets.explore(plot_cost, **cost)

# %% tags=["nbval-check-output"]
before = plot_cost("mlp", 1.0).data[1].y[-1]  # batch, ten members
cost["times"].value = 2.0
figure = plot_cost(**{name: control.value for name, control in cost.items()})
assert figure.data[1].y[-1] < before  # wider layers, cheaper factors
print(figure.layout.title.text)

# %% [markdown]
# **Ranges.** Which hyperparameters do the members see differently? Which ranges moved most?

# %%
ranges = dict(
    tau=ipywidgets.Dropdown(options=[SMALL, LARGE]),
    name=ipywidgets.Dropdown(options=list(names), description="hyperparameter"),
)
widgets.explore(plot_ranges, **ranges)

# %%
ranges["name"].value = names[-1]
figure = plot_ranges(**{name: control.value for name, control in ranges.items()})
assert "label_smoothing" in figure.layout.title.text
assert len(figure.data[-1].x) == len(tuned[SMALL].ranges)

# %% [markdown]
# **Knobs.** One trained network, no more training. The sliders set the hyperparameters, in powers
# of ten, for all members; the star is that ensemble. *moved* is the one along the axis. Can you find a place that is
# better than the members' own means (the flat line)? If so, it was found on validation images,
# and the test images may say otherwise.

# %%
at_mean = nll_at(ensemble.mean().detach())[0]


def plot_knobs(moved: str, **sliders: float):
    """Validation NLL of the ensemble and of its average member along one knob."""
    least, most = (permitted.limits(names) / LN10)[:, names.index(moved)].tolist()
    points = [round(x, 2) for x in torch.linspace(least, most, 9).tolist()]
    *rows, here = turn(moved, [*points, sliders[moved]], **sliders)
    series = dict(zip(["ensemble", "average member"], zip(*rows)))
    series = {name: [round(y, 4) for y in ys] for name, ys in series.items()}
    series["ensemble at the members' means"] = [round(at_mean, 4)] * len(points)
    title = f"One hyper-batch network, {moved} turned"
    x, y = f"log10 {moved}", "validation NLL (nats)"
    figure = plots.lines(points, series, title, x, y)
    star = dict(size=14, symbol="star", color="black")
    return figure.add_scatter(
        x=[sliders[moved]], y=[here[0]], mode="markers", marker=star, name="sliders"
    )


# %%
knobs = {"moved": ipywidgets.Dropdown(options=list(names))}
middle = (ensemble.mean().detach().mean(0) / LN10).tolist()
for name, value, ends in zip(names, middle, permitted.limits(names).T / LN10):
    low, high = ends.tolist()
    knobs[name] = ipywidgets.FloatSlider(
        value, min=low, max=high, step=0.1, continuous_update=False
    )
still = {name: [knobs[name].value] for name in names}  # in the book, without a kernel
widgets.explore(plot_knobs, twin=still, **knobs)

# %%
before = plot_knobs(**{name: control.value for name, control in knobs.items()})
knobs[names[0]].value, knobs["moved"].value = middle[0] - 1, names[-1]
after = plot_knobs(**{name: control.value for name, control in knobs.items()})
assert after.layout.title.text != before.layout.title.text
assert after.data[2].y == before.data[2].y  # the flat line stays

# %% [markdown]
# **Many seeds.** Is the order of the kinds the same for accuracy and for ECE, for LeNet, and
# under shift? (Severity 0 is the clean test images.)

# %%
seeds = dict(
    network=ipywidgets.Dropdown(options=list(study["network"].unique())),
    quantity=ipywidgets.Dropdown(options=QUANTITIES, value="ece"),
    severity=ipywidgets.Dropdown(options=[0, 1, 3, 5]),
)
widgets.explore(plot_kinds, **seeds)

# %% tags=["nbval-check-output"]
seeds["severity"].value, seeds["quantity"].value = 5, "accuracy"
figure = plot_kinds(**{name: control.value for name, control in seeds.items()})
print(figure.layout.title.text)
assert figure.layout.title.text.startswith("accuracy")

# %% [markdown]
# ## Exercises
#
# **1. The layer** (medium, 10 minutes). Write the forward pass of a batch-linear layer without
# looking back. The examples are member-major.

# %% tags=["exercise"]
from sbtutor import check


def my_batch_linear(x, weight, r, s, bias):
    """x (M B, I), weight (O, I), r (M, I), s (M, O), bias (M, O) to (M B, O)."""
    # solution
    B = len(x) // len(r)
    r, s, bias = (rows.repeat_interleave(B, 0) for rows in (r, s, bias))
    return (x * r) @ weight.T * s + bias
    # end


right = check.batch_linear(my_batch_linear)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>How many examples has each member?
# <code>len(x) // len(r)</code>.</details>
# <details><summary>Hint 2: an outline</summary>Make a row of r, s and bias for each example. Then
# scale the inputs, use the shared weight, scale the outputs, add the bias.</details>
# <details><summary>Hint 3: almost there</summary><code>r.repeat_interleave(B, 0)</code> repeats each
# row B times, row after row; <code>r.repeat(B, 1)</code> does it in another order. The weight has
# outputs in rows, so it is <code>@ weight.T</code>.</details>
#
# <!-- solution -->
#
# **2. The mean of a range** (medium, 10 minutes). A hyperparameter is log-uniform on $[a, b]$:
# its density is $1 / (\lambda \log(b / a))$. What is its mean? Derive it, then write it.


# %% tags=["exercise"]
def my_mean(a, b):
    """Bounds a < b, tensors of one shape, to the mean."""
    # solution
    return (b - a) / (b / a).log()
    # end


right = check.log_uniform_mean(my_mean)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>The mean is the integral of lambda times the
# density.</details>
# <details><summary>Hint 2: an outline</summary>Write down the product. What is left of lambda?
# Integrate what is left from a to b.</details>
# <details><summary>Hint 3: almost there</summary>The product is the constant 1 / log(b / a); an
# integral of a constant is the constant times the length.</details>
#
# <!-- solution -->
#
# <details><summary>Why</summary>For [0.1, 100] the mean is 14.46; the median is 3.16 and the
# midpoint 50.05. A hyper-batch member predicts at the mean.</details>
#
# **3. The loss of the mean** (easy, 5 minutes). Write the loss that tunes the ranges, without
# the entropy.


# %% tags=["exercise"]
def my_ensemble_nll(logits, labels):
    """Logits (M, N, C) and labels (N,) to the NLL of the mean probabilities."""
    # solution
    probs = logits.softmax(-1).mean(0)
    return -probs[range(len(labels)), labels].log().mean()
    # end


right = check.ensemble_nll(my_ensemble_nll)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>What is averaged over the members, and
# when?</details>
# <details><summary>Hint 2: an outline</summary>First probabilities, then their mean over members,
# then the log of the truth's, then a mean over images, with a minus.</details>
# <details><summary>Hint 3: almost there</summary>With the mean <code>probs</code> of shape (N, C),
# <code>probs[range(len(labels)), labels]</code> picks the probability of the truth for each
# image.</details>
#
# <!-- solution -->
#
# **4. Count** (easy, 5 minutes). How many numbers has a batch-linear layer of $M$ members, with
# $I$ inputs and $O$ outputs, and a bias for each member?


# %% tags=["exercise"]
def my_count(inputs, outputs, members):
    """A whole number."""
    # solution
    return inputs * outputs + members * (inputs + 2 * outputs)
    # end


right = check.batch_parameters(my_count)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>What is shared, and what has each member of its
# own?</details>
# <details><summary>Hint 2: an outline</summary>W once. Then the three vectors of a member, M
# times.</details>
# <details><summary>Hint 3: almost there</summary>W has I times O numbers. r has I, s has O, and the
# bias has O.</details>
#
# <!-- solution -->
#
# **5. How factors learn** (hard, 10 minutes). A batch-linear layer without bias is a whole network:
# its outputs are the logits. All members see the same $B$ images. The loss is the
# cross-entropy, averaged over members and images. Which gradient has it in the factors $r$?

# %% tags=["exercise"]
from torch.nn.functional import cross_entropy


def my_factor_gradient(images, labels, weight, r, s):
    """images (B, I), labels (B,), weight (O, I), r (M, I), s (M, O) to (M, I)."""
    # solution
    r = r.clone().requires_grad_()
    logits = (images * r[:, None]) @ weight.T * s[:, None]  # (M, B, O)
    loss = cross_entropy(logits.flatten(0, 1), labels.repeat(len(r)))
    return torch.autograd.grad(loss, r)[0]
    # end


right = check.factor_gradient(my_factor_gradient)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>PyTorch finds the gradient. You need the loss, and a
# tensor r that asks for one: <code>r.clone().requires_grad_()</code>.</details>
# <details><summary>Hint 2: an outline</summary>Outputs of all members, (M, B, O); one row for each
# example, (M B, O), member-major; <code>cross_entropy</code> with the labels M times;
# <code>torch.autograd.grad(loss, r)[0]</code>.</details>
# <details><summary>Hint 3: almost there</summary>The outputs are <code>(images * r[:, None]) @
# weight.T * s[:, None]</code>. For the rows take <code>.flatten(0, 1)</code>, for the labels
# <code>labels.repeat(len(r))</code>.</details>
#
# <!-- solution -->
#
# Now set all factors of three members to 1, and look at the gradient's rows, one a member:

# %%
draw = torch.Generator().manual_seed(seed)
x, shared_W = torch.randn(20, 5, generator=draw), torch.randn(4, 5, generator=draw)
twenty, ones = torch.arange(20) % 4, (torch.ones(3, 5), torch.ones(3, 4))
print(my_factor_gradient(x, twenty, shared_W, *ones))

# %% [markdown]
# **6. Why random factors?** (easy, 4 minutes). Three members of a batch ensemble start with all
# factors at 1 and all biases at 0. There is no dropout. How many *different* networks does training
# make of them?

# %% tags=["exercise"]
my_networks = 1  # solution
right = check.twins(my_networks)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>Look at the rows that exercise 5 printed.</details>
# <details><summary>Hint 2: an outline</summary>At first the members are one and the same network.
# They see the same images. What is the same, then, in the first step? And in the
# second?</details>
# <details><summary>Hint 3: almost there</summary>Equal factors with equal gradients stay
# equal.</details>
#
# <!-- solution -->
#
# <details><summary>Why</summary>Their gradients are equal (up to rounding), and they stay one
# network for ever. In a deep ensemble the first weights and the order of the images tell members
# apart. Here only the factors do (and dropout, which draws anew for each example).</details>
#
# ## What we saw
#
# Numbers are means over seeds; differences are within seeds.
#
# | claim of the paper | here (fashion-mini; MLP: eight seeds, LeNet: four; three members) |
# |---|---|
# | NLL: hyper-deep < deep < hyper-batch < batch < single (WRN-28-10, CIFAR-100, four members: .652, .661, .678, .690, .811) | MLP: .425, .430, .421, .435, .439. Hyper-deep below deep and hyper-batch below batch: shown. Deep below hyper-batch: contradicted. Batch below single: not shown. LeNet: .400, .412, .426, .446, .439; of the four steps none is shown. Further apart, hyper-deep below batch is shown for both; hyper-deep below hyper-batch is shown for LeNet (-.026) and contradicted for the MLP (+.004) |
# | a hyper-batch ensemble has a lower NLL than a batch ensemble, at about twice the parameters; accuracy and ECE are not always better | MLP: shown, by .014, with 2.19 times one network's parameters for 1.06 times. Accuracy is higher by 0.4 points (shown, but barely), a lower ECE is not shown. LeNet: 2.25 times for 1.07; a lower NLL, higher accuracy or lower ECE is not shown (the NLL is lower by .020, the interval holds 0) |
# | members learn different ranges, and the ensemble is far better than its average member | the middles of the three ranges lie .26 decades apart (LeNet: .19), but each is 2.8 decades wide, and another covers 93 % of it (95 %). So that they differ (by a twentieth of what is permitted) is not shown (contradicted). With a fast tuner they are 0.8 to 1.3 decades apart, but noise alone gives about 0.7 there (with the slow one 0.07), and the ensemble is bad. Accuracy is 0.4 points above the average member's (shown; LeNet 0.6, not shown). NLL is .017 (.026) below; it must be below (lesson 01) |
# | $\tau > 0$ keeps ranges from collapsing; with $\tau = 0$ they become small | with the slow tuner they end at 1.05 times their first width for $\tau = 10^{-4}$ and at .98 times for $\tau = 0$ (LeNet: 1.00, .98). So the difference is shown, and the collapse is contradicted. With a fast tuner (MLP) both are shown: .20 times for $\tau = 0$, and .29 more for $\tau = 10^{-4}$. But even then the ranges halve (.49 times), and $\tau = 10^{-5}$ does not keep them: .25 times, no difference from $\tau = 0$ shown |
# | under corruption hyper-batch is better than batch in the worst case, and close on average; hyper kinds are worse at telling other data | accuracy in the worst of 15 corruptions: not shown for the MLP; for LeNet contradicted at severity 3 (16.5 points worse), not shown at 1 and 5. On average no difference shows at 1 and 5 (for LeNet the intervals reach -1.8 and -6.8 points, so they need not be close); at 3 hyper-batch is 0.9 points better for the MLP, 4.6 points worse for LeNet. Digits: for the MLP contradicted, the AUROC of hyper-batch is higher, .762 for .731; for LeNet not shown (.842 for .794). Hyper-deep against deep: not shown |
#
# And the question of the title? In NLL and for the MLP, partly: with 2.19 times
# the parameters of one network, and three members trained twice as long, the hyper-batch ensemble's
# NLL is .018 lower than that of the best single network of a search, which is shown. Its accuracy
# is not shown to be higher. The batch ensemble costs really little more, 1.06 times, but for it no
# gain is shown; for LeNet, for neither.
#
# Why is the order of the paper not found here? The networks are small, and training is short.
# Members that share a small $W$ may hinder each other. The MLP's hyper-batch ensemble was trained
# twice as long, at settings that change from example to example, and it saw the validation
# images all along, through its ranges. With $\tau = 0$ its ranges end lower (and a little
# narrower), and its NLL is .013 higher (LeNet: not shown). Perhaps *where* the ranges lie matters,
# and $\tau$ holds them up by asking for large $\lambda$. These are possible reasons, not tested.
#
# ## Common mistakes
#
# - **Mixing up the order of the batch.** Member-major: `images.repeat(M, ...)` for the images,
#   `repeat_interleave` for the members' rows. The wrong pair gives no error, only nonsense.
# - **Starting all factors at 1.** Without random factors the members never part (exercise 6).
# - **Expecting less arithmetic.** Memory is shared, multiplications are not.
# - **Tuning ranges on training images.** There the smallest L2 looks best.
# - **Taking the median for the mean** of a log-uniform range. For wide ranges the mean is
#   several times as large, and prediction happens there.
# - **Comparing with too little training.** Members that share weights learn more slowly. The
#   study lets validation choose the length for the batch ensemble.
#
# ## References
#
# - Wen, Tran, Ba (2020). *BatchEnsemble: an alternative approach to efficient ensemble and
#   lifelong learning.* ICLR. arXiv 2002.06715.
# - Wenzel, Snoek, Tran, Jenatton (2020). *Hyperparameter ensembles for robustness and
#   uncertainty quantification.* NeurIPS. arXiv 2006.13570.
# - MacKay, Vicol, Lorraine, Duvenaud, Grosse (2019). *Self-tuning networks: bilevel optimization
#   of hyperparameters using structured best-response functions.* ICLR. arXiv 1903.03088.
# - Hendrycks, Dietterich (2019). *Benchmarking neural network robustness to common
#   corruptions and perturbations.* ICLR. arXiv 1903.12261. (Our strengths differ.)
