# %% [markdown]
# # What is sharpness, and do its measures agree?
#
# **Minutes:** read 30, do 39, compute 2

# %% [markdown]
# ## Objectives
#
# After this lesson you can
#
# - draw the loss around a trained network, along directions that you choose;
# - compute seven measures of sharpness, and check each by hand in a valley with two weights;
# - say what a maximum *over a ball* means, and how it is searched;
# - change four measures several times over without changing the network's function;
# - say when seven measures rank trained ensembles alike, and when they only seem to.
#
# You need: lessons 00 and 01.

# %% [markdown] tags=["teacher"]
# **For the teacher.** Talking points:
#
# - "Sharp" needs four answers: along which direction, how far, over which images, in which unit.
# - A number that stands still need not have converged (the trace's rule, the power iteration).
# - Rewriting: which property of adaptive measures makes them invariant, and to what?
# - Measures agree between methods and hardly within one. What follows for papers with one measure?
#
# Time: 30 minutes to read; with little of it take exercises 1, 3 and 5.
#
# Typical misunderstandings: a small slice along a random direction is taken for "flat"; the worst
# case that a search found is taken for the maximum; 0.1 in one norm is compared with 0.1 in
# another; rewriting is taken for a change of the function.

# %% tags=["parameters"]
import os

preset: str = os.environ.get("SBTUTOR_PRESET", "class")  # smoke | class | paper
seed: int = 0  # seed of the first member

# %%
from sbtutor import session

lesson = session.start("06", preset, seed)

# %% [markdown]
# ## A valley with two weights
#
# A minimum is called *sharp* if the loss rises fast around it. "Fast" and "around" can be
# meant in many ways, and each way is a measure. We start where all of them can be computed
# by hand:
#
# $$L(w) = \tfrac12 (h_1 w_1^2 + h_2 w_2^2), \qquad h = (10, 1), \quad w = (0.1, 0.5).$$
#
# $h_1$ and $h_2$ are the *curvatures* along the two axes. The gradient is
# $g = \nabla L = (h_1 w_1, h_2 w_2) = (1, 0.5)$. The Hessian $H$, the matrix of second
# derivatives, is diagonal with $h_1$ and $h_2$.

# %%
import torch

# %%
h, w = torch.tensor([10.0, 1.0]), torch.tensor([0.1, 0.5])


def valley(params):
    """The loss at params["w"]."""
    return (h * params["w"] ** 2).sum() / 2


slope = h * w
print(f"loss {valley({'w': w}):.3f}, gradient {slope.tolist()}")

# %% [markdown]
# "Around" is a *ball* of radius $\rho$. There are two kinds:
#
# - the plain ball: all $w + \epsilon$ with $\|\epsilon\|_2 \le \rho$;
# - the *adaptive* ball: each weight may move in proportion to its own size. With
#   $T = \operatorname{diag}(\lvert w_1 \rvert, \lvert w_2 \rvert)$ it holds all
#   $w + T u$ with $\|u\|_2 \le \rho$. Here $\rho$ has no unit: 0.2 means "20 %".

# %%
import math

import numpy as np

from sbtutor import plots

# %%
across, up = np.linspace(-0.3, 0.5, 21), np.linspace(0.1, 0.9, 21)
height = (10 * across[None, :] ** 2 + up[:, None] ** 2) / 2
title = "A valley, a plain ball and an adaptive ball (both of radius 0.2)"
figure = plots.surface(across, up, height, title, "w1", "w2", "loss")
angle = np.linspace(0, 2 * math.pi, 41).round(4)
for name, (a, b) in {"plain": (1, 1), "adaptive": w.tolist()}.items():
    x, y = 0.1 + 0.2 * a * np.cos(angle), 0.5 + 0.2 * b * np.sin(angle)
    dash = "dot" if name == "adaptive" else "solid"
    line = dict(color="white", width=3, dash=dash)
    figure.add_scatter(x=x, y=y, mode="lines", name=name, line=line)
told = " Solid: the plain ball, a circle. Dotted: the adaptive one, a slim ellipse."
figure.update_layout(meta={"alt": figure.layout.meta["alt"] + told}, showlegend=False)
figure.update_yaxes(scaleanchor="x", constrain="domain").update_xaxes(
    constrain="domain"
)

# %% [markdown]
# The solid circle is the plain ball. The dotted ellipse is the adaptive one, slim where the
# weight is small.
#
# Now the measures. (Each gets its own section below.) In the valley the loss at $w + Tu$ is
# $\tfrac12\sum_i h_i w_i^2 (1 + u_i)^2$ (both weights are positive here). So adaptive measures see only
# $c_i = h_i w_i^2$, the curvature *times the square of the weight*.
#
# | measure | by hand, in the valley |
# |---|---|
# | SAM rise | $\rho\,\lVert g\rVert + \tfrac12 \rho^2 \, g^\top H g / \lVert g\rVert^2$ |
# | worst case, adaptive, $\ell_\infty$ | $(\rho + \tfrac12 \rho^2)(c_1 + c_2)$: each weight grows by the share $\rho$ |
# | worst case, adaptive, $\ell_2$ | the maximum of $\sum_i c_i (u_i + \tfrac12 u_i^2)$ on a circle: try all angles |
# | average case, adaptive | $\tfrac12 \rho^2 (c_1 + c_2)$ |
# | Hessian trace | $h_1 + h_2$ |
# | top eigenvalue | $h_1$ |

# %%
from sbtutor import sharpness

# %%
rho, c = 0.1, h * w**2
fine = torch.linspace(0, 2 * math.pi, 100_001)
u = rho * torch.stack([fine.cos(), fine.sin()])
by_hand = {
    "SAM rise": rho * slope.norm()
    + rho**2 / 2 * (h * slope**2).sum() / slope.norm() ** 2,
    "worst case linf": (rho + rho**2 / 2) * c.sum(),
    "worst case l2": (c[:, None] * (u + u**2 / 2)).sum(0).max(),
    "average case": rho**2 / 2 * c.sum(),
    "Hessian trace": h.sum(),
    "top eigenvalue": h.max(),
}

# %%
import pandas as pd

# %%
at, draw = {"w": w}, torch.Generator().manual_seed(0)
package = {
    "SAM rise": sharpness.sam_sharpness(valley, at, rho),
    "worst case linf": sharpness.worst_case_sharpness(valley, at, rho, "linf"),
    "worst case l2": sharpness.worst_case_sharpness(valley, at, rho, "l2"),
    "average case": sharpness.average_sharpness(valley, at, rho, 5000, draw),
    "Hessian trace": sharpness.hessian_trace(valley, at, 2, draw)[0],
    "top eigenvalue": sharpness.hessian_top_eigenvalue(valley, at),
}

# %%
both = pd.DataFrame({"by hand": by_hand, "package": package}).astype(float)
exact = both.drop("average case")
assert np.allclose(exact["by hand"], exact["package"], rtol=1e-3)
both.round(5)

# %% [markdown]
# The average case is a mean over 5,000 random places, so it agrees only up to chance. All
# else agrees.
#
# The seventh measure, the *Fisher trace*, needs samples: it is the mean over samples of the
# squared gradient length. Let our valley be the mean of two samples with losses
# $\ell_1 = h_1 w_1^2$ and $\ell_2 = h_2 w_2^2$. Their gradients at $w$ are $(2, 0)$ and
# $(0, 1)$, so the Fisher trace is $\tfrac12 (4 + 1) = 2.5$.
#
# Now go to the bottom, $w = 0$. The adaptive ball shrinks to a point, and the samples'
# gradients vanish. So four measures are 0. (SAM rise is 0/0 there; the package takes it as
# 0.) The Hessian trace still says 11 and the top eigenvalue 10. The measures answer
# different questions.
#
# ## A real network
#
# We train a deep ensemble (DE) and an ensemble trained by SAM with radius 0.1 (lesson 07
# explains SAM; here it is a way to get flatter networks). Two members each are enough. Numbers
# in the text below are those of preset `class` and seed 0.

# %%
deep = lesson.fit(method="sgd", members=2)
flat = lesson.fit(method="sam", rho=0.1, members=2)
nets = {
    f"{name} {i}": net.eval()
    for name, run in {"DE": deep, "SAM": flat}.items()
    for i, net in enumerate(run.members)
}

# %% [markdown]
# The loss is the mean cross-entropy of 300 training images, without augmentation. The
# networks are in *eval mode*: BatchNorm uses its stored means, so the loss is a function of
# the weights alone.

# %%
from sbtutor import data

# %%
device = next(nets["DE 0"].parameters()).device
few = data.subset(data.load(lesson.base.data).train, 300, seed=0)
images, labels = data.to_float(few.images.to(device)), few.labels.to(device)

# %%
net = nets["DE 0"]
loss_fn = sharpness.loss_of(net, images, labels)  # parameters -> loss
params = sharpness.parameters_of(net)
count = sum(p.numel() for p in params.values())
print(f"{count} weights in {len(params)} tensors; loss {loss_fn(params):.4f}")

# %% [markdown]
# ## Slices
#
# We cannot draw a function of so many weights. But we can walk along one direction $d$
# of length 1 and plot $L(w + r d)$ against the distance $r$. Three directions:
#
# - the gradient $g / \|g\|$;
# - the *top eigenvector* of the Hessian, the direction of largest curvature;
# - a random direction.
#
# All weights are taken as one vector (`vector.flatten`; `unflatten` goes back).

# %%
from sbtutor import vector


# %%
def directions(net):
    """Directions by name, each one vector of length 1."""
    loss_fn, w = sharpness.loss_of(net, images, labels), sharpness.parameters_of(net)
    start, draw = vector.flatten(w), torch.Generator().manual_seed(0)
    top = sharpness.hessian_top_eigenpair(loss_fn, w, tolerance=1e-2)
    found = {
        "gradient": vector.loss_and_gradient(loss_fn, start, w)[1],
        "top eigenvector": vector.flatten(top.vector),
        "random": torch.randn(len(start), generator=draw).to(start),
        "random 2": torch.randn(len(start), generator=draw).to(start),
    }
    return {name: d / d.norm() for name, d in found.items()}


# %%
def walk(net, steps):
    """The loss at w + step, for each step."""
    loss_fn, w = sharpness.loss_of(net, images, labels), sharpness.parameters_of(net)
    start = vector.flatten(w)
    with torch.no_grad():
        return [float(loss_fn(vector.unflatten(start + s, w))) for s in steps]


# %%
DIRECTIONS = {name: directions(net) for name, net in nets.items()}

# %%
r = np.linspace(-0.2, 0.2, 21).round(3)
slices = {
    f"{member}, {name}": walk(nets[member], [float(x) * d for x in r])
    for member in ("DE 0", "SAM 0")
    for name, d in DIRECTIONS[member].items()
    if name != "random 2"
}
title = f"The loss along three directions ({lesson.base.data.name})"
plots.lines(r, slices, title, "distance r from the trained weights", "loss")

# %% [markdown]
# The random direction is flat, for both networks: the loss hardly changes over the whole
# figure. A network is sharp in *few* directions, and a random one hardly meets them. So "how sharp?" depends on where one
# looks: at the worst direction, or at the average one.
#
# In two directions at once, the picture is a map. Here is the plane of the top eigenvector
# and a random direction:

# %%
PLANES = {
    "top eigenvector, random": ("top eigenvector", "random"),
    "gradient, random": ("gradient", "random"),
    "gradient, top eigenvector": ("gradient", "top eigenvector"),
    "two random directions": ("random", "random 2"),
}


# %%
import functools


@functools.cache  # 121 losses take a while; a place that was seen comes at once
def plane(member, directions, reach):
    """The loss on 11 x 11 places of a plane through the trained weights."""
    a, b = (DIRECTIONS[member][name] for name in PLANES[directions])
    b = b - (a @ b) * a  # at a right angle to a
    b, ticks = b / b.norm(), np.linspace(-reach, reach, 11).round(4)
    places = [float(x) * a + float(y) * b for y in ticks for x in ticks]
    height = np.array(walk(nets[member], places)).reshape(11, 11)
    title = f"The loss around {member} ({directions})"
    names = [f"distance along {name}" for name in PLANES[directions]]
    return plots.surface(ticks, ticks, height, title, *names, "loss")


# %%
plane("DE 0", "top eigenvector, random", 0.2)

# %% [markdown]
# A trough: steep from left to right, almost level along it.
#
# ## Measure 1: SAM rise
#
# $$L(w + \rho\, g / \|g\|_2) - L(w)$$
#
# One step uphill along the gradient, in the unit of the loss. This is the rise
# that SAM sees in training.

# %%
gradient = vector.loss_and_gradient(loss_fn, vector.flatten(params), params)[1]
start = loss_fn(params)


# %%
def rise_at(step):
    """L(w + step) - L(w)."""
    return loss_fn(vector.unflatten(vector.flatten(params) + step, params)) - start


# %%
mine = rise_at(0.1 * gradient / gradient.norm())
assert torch.isclose(mine, sharpness.sam_sharpness(loss_fn, params, 0.1), rtol=1e-3)
print(f"SAM rise {mine:.4f}")

# %% [markdown]
# It depends on how many images share one gradient. With small batches, each batch
# has its own steepest direction. Batches of 5, 50 and 300 images:


# %%
def mean_rise(size):
    """The SAM rise of each batch of `size` images, averaged."""
    batches = zip(images.split(size), labels.split(size))
    losses = [sharpness.loss_of(net, x, y) for x, y in batches]
    return sum(sharpness.sam_sharpness(f, params, 0.1) for f in losses) / len(losses)


# %%
print({size: round(float(mean_rise(size)), 4) for size in (5, 50, 300)})

# %% [markdown]
# ## Measures 2 and 3: the worst case
#
# $$\max_{\|u\|_p \le \rho} L(w + T u) - L(w), \qquad T = \operatorname{diag}(\lvert w \rvert)$$
#
# The highest loss anywhere in the ball, not only along the gradient. $p = 2$
# limits the length of $u$ as a whole. $p = \infty$ limits each entry of $u$ on its own. $T$
# makes the ball adaptive. The paper of Lu et al. plots this measure, averaged over batches.
# (For which $p$ and $\rho$, we did not find.)
#
# Nobody can try every place in the ball. One step of gradient ascent is a start.
# By the chain rule the gradient with respect to $u$ is $T g$:

# %%
T = vector.flatten(params).abs()
uphill = {"l2": T * gradient / (T * gradient).norm(), "linf": gradient.sign()}

# %%
for norm, radius in {"l2": 0.25, "linf": 0.01}.items():
    mine = rise_at(T * radius * uphill[norm])
    one = sharpness.worst_case_sharpness(loss_fn, params, radius, norm, steps=1)
    many = sharpness.worst_case_sharpness(loss_fn, params, radius, norm)
    assert torch.isclose(mine, one, rtol=1e-3)
    print(f"{norm}: one step {one:.4f}, twenty steps {many:.4f}")

# %% [markdown]
# (The one step for $p = 2$ is that of *adaptive SAM*, ASAM.) The loss is not a straight
# line, so more steps find more: for $p = 2$ more than twice as much. The package searches by *Auto-PGD*, projected
# ascent that sets its own step size:
#
# 1. **Step:** go uphill. The first steps are $2\rho$ long, right across the ball.
# 2. **Projection:** if that leaves the ball, go to the nearest place inside.
# 3. **Momentum:** keep a quarter of the last movement: $u \leftarrow u + 0.75\,(z - u) +
#    0.25\,(u - u_{\text{before}})$, where $z$ is the projected step.
# 4. **Halving:** at fixed checkpoints, if fewer than three quarters of the steps went
#    uphill, or nothing new was found, halve the step and go back to the best place so far.
#
# The highest loss on the way is the answer. So it is a *lower bound* of the maximum: a
# worse search gives a smaller number. That matters, since the published code of Lu et al.
# searches by another rule (`rule="code"` in the package):
#
# | | textbook | the published code |
# |---|---|---|
# | direction, $p = 2$ (in $u$) | $T g$ | $g$: multiplied by $\lvert w \rvert$ once, not twice |
# | projection, $p = 2$ | nearest place measured in $u$ | nearest place measured in the weights |
# | momentum | adds a quarter of the last movement, projects again | 0.75 of the new place and 0.25 of the last but one (both are inside the ball, so no projection is needed) |
# | a step counts as a success | if it went uphill | if it set a new record |
# | halving | weights and $u$ go back to the best place | the weights go back, $u$ does not |


# %%
def worst(net, norm="l2", radius=0.25, **how):
    """The adaptive worst case of a network."""
    loss_fn = sharpness.loss_of(net, images, labels)
    w = sharpness.parameters_of(net)
    return float(sharpness.worst_case_sharpness(loss_fn, w, radius, norm, **how))


# %%
SEARCHES = {
    "textbook, 1 step": dict(steps=1),
    "textbook, 20": dict(),
    "textbook, 60": dict(steps=60),
    "code, 20": dict(rule="code"),
}
pd.DataFrame(
    {
        how: {m: worst(net, **SEARCHES[how]) for m, net in nets.items()}
        for how in SEARCHES
    }
).round(4)

# %%
box = {"norm": "linf", "radius": 0.01}
rules = {"textbook, 20": "textbook", "code, 20": "code"}
pd.DataFrame(
    {
        name: {m: worst(net, **box, rule=rule) for m, net in nets.items()}
        for name, rule in rules.items()
    }
).round(4)

# %% [markdown]
# What we see for $p = 2$:
#
# - For `DE 0` and `SAM 0`, forty more textbook steps add next to nothing to the first twenty. For
#   `DE 1` and `SAM 1` they add 20 % and 16 %. The number is a lower bound, and not an equally
#   good one for each network.
# - The published code's rule finds less, for each network, and not equally less. By the
#   textbook rule `DE 0` is far sharper than `SAM 0` (0.334 and 0.235). By the code's rule
#   they are the same (0.204 and 0.203). A weak search can hide a difference.
#
# For $p = \infty$ both rules agree to within 0.3 %: direction and projection are the same there.
# (The published code also takes batches of 5 images by default, and averages. We saw
# above what that does to the SAM rise.)
#
# ## Measure 4: the average case
#
# $$\mathbb{E}_z \, L(w + \rho\, T z) - L(w), \qquad z \sim \mathcal{N}(0, I)$$
#
# Each weight is shaken at random, here by 10 % of its size. $\mathbb{E}_z$ is the mean over
# all such $z$, estimated by 20 draws. (Lu et al.'s code takes 100.) For small $\rho$ it is
# $\tfrac12\rho^2 \operatorname{tr}(T H T)$: an adaptive Hessian trace.

# %%
draw = torch.Generator().manual_seed(0)
shakes = [torch.randn(count, generator=draw).to(T) for _ in range(20)]
mine = torch.stack([rise_at(0.1 * T * z) for z in shakes])
draw = torch.Generator().manual_seed(0)
same = sharpness.average_sharpness(loss_fn, params, 0.1, 20, draw)
assert torch.isclose(mine.mean(), same, rtol=1e-3)
print(f"average rise {same:.4f} ± {mine.std() / 20**0.5:.4f} (standard error)")

# %% [markdown]
# Twenty draws leave a standard error of one sixth. Networks are compared with the *same*
# draws, which takes part of this noise out of the comparison.

# %% [markdown]
# ## Measure 5: the Fisher trace
#
# $$\frac1N \sum_{n=1}^N \|\nabla \ell_n(w)\|_2^2$$
#
# $\ell_n$ is the loss of sample $n$ alone. Why "trace"? The *empirical Fisher matrix* is
# $F = \frac1N \sum_n \nabla\ell_n \nabla\ell_n^\top$. Its diagonal holds, for each weight,
# the mean squared slope. Summed over the weights this is the mean squared length.


# %%
def own_slope(n):
    """The gradient of sample n's loss, as one vector."""
    own = sharpness.loss_of(net, images[n : n + 1], labels[n : n + 1])
    return vector.loss_and_gradient(own, vector.flatten(params), params)[1]


# %%
slopes = torch.stack([own_slope(n) for n in range(20)])
diagonal = slopes.square().mean(0)  # of F: one number a weight
scores = sharpness.fisher_trace(net, images[:20], labels[:20])  # one a sample
assert torch.allclose(slopes.square().sum(1), scores, rtol=1e-2, atol=1e-5)
assert torch.isclose(diagonal.sum(), scores.mean(), rtol=1e-2)

# %%
scores = sharpness.fisher_trace(net, images, labels)
top = scores.argsort(descending=True)[:30]
wrong = (net(images).argmax(1) != labels)[top].sum()
print(f"Fisher trace {scores.mean():.1f}; median of the samples {scores.median():.3g}")
print(
    f"the 30 sharpest of 300 samples hold {scores[top].sum() / scores.sum():.0%} of it;"
)
print(f"the network gets {wrong} of these 30 wrong")

# %% [markdown]
# A few images hold most of it. Lesson 09 shows them, and the method that picks them out.
# The empirical Fisher matrix uses the true labels. It is neither the Fisher matrix of
# statistics, whose labels are drawn from the network, nor the Hessian.
#
# ## Measure 6: the Hessian trace
#
# $$\operatorname{tr} H = \sum_i \lambda_i$$
#
# The $\lambda_i$ are the eigenvalues of $H$, the curvatures along its own axes. $H$ has one
# row for each weight; it is never written down. A *product* $Hv$ costs about two
# gradients. Hutchinson: if the entries of $v$ are random signs, the mean of $v^\top H v$ is
# the trace. Each such $v$ is a *probe*.

# %%
product = vector.hessian_product(loss_fn, params)  # v -> H v
draw, probes = torch.Generator().manual_seed(0), []
for _ in range(60):
    bits = [torch.randint(0, 2, p.shape, generator=draw) for p in params.values()]
    v = torch.cat([2.0 * b.flatten() - 1 for b in bits]).to(T)
    probes.append(float(v @ product(v)))

# %%
probes = np.array(probes)
error = probes.std(ddof=1) / len(probes) ** 0.5
draw = torch.Generator().manual_seed(0)
same, same_error = sharpness.hessian_trace(loss_fn, params, 60, draw)
assert np.allclose([probes.mean(), error], [float(same), float(same_error)], rtol=1e-2)
print(f"{probes.mean():.1f} ± {error:.1f} from 60 probes; the first: {probes[0]:.1f}")

# %% [markdown]
# One probe is worth little. How many are needed? The *standard error*, the number after ±,
# tells. `relative_error=0.05` draws until it is 5 % of the estimate:

# %%
draw = torch.Generator().manual_seed(1)
trace, error = sharpness.hessian_trace(loss_fn, params, 300, draw, relative_error=0.05)
print(f"{trace:.1f} ± {error:.1f} ({error / trace:.1%})")

# %% [markdown]
# Another rule is common (PyHessian's default, for one): stop as soon as one more probe moves
# the running mean by less than 0.1 %. Is the answer then good to 0.1 %? We play the rule
# 2,000 times, with probes drawn from our 60.

# %%
rng = np.random.default_rng(0)
stops = []
for _ in range(2000):
    running = rng.choice(probes, 200).cumsum() / np.arange(1, 201)
    still = np.abs(np.diff(running) / running[:-1]) < 0.001
    stops.append((still.argmax() + 2, running[still.argmax() + 1]))

# %%
used, stopped = np.array(stops).T
print(f"stops after {np.median(used):.0f} probes (median)")
print(f"error {stopped.std() / probes.mean():.1%} (one standard deviation)")
print(f"shift {stopped.mean() / probes.mean() - 1:+.1%}")

# %% [markdown]
# The rule stops when one probe happens to fall near the running mean. That is luck, not
# accuracy: the error is about 10 %, a hundred times the 0.1 % of the rule. (The mean over many
# such stops is hardly shifted.) Report a standard error.

# %% [markdown]
# ## Measure 7: the top eigenvalue
#
# $$\lambda_{\max} = \max_{\|v\| = 1} v^\top H v$$
#
# The curvature along the sharpest direction. *Power iteration* applies $H$ again and again.
# The part of $v$ along the largest eigenvalue grows fastest, and in the end it is all
# that is left:

# %%
v = torch.randn(count, generator=torch.Generator().manual_seed(0)).to(T)
for step in range(40):
    v = product(v / v.norm())
    if step in (4, 9, 19, 39):
        unit = v / v.norm()
        bent = product(unit)
        value = unit @ bent
        residual = (bent - value * unit).norm()
        print(f"{step + 1} steps: {value:.4f}, residual {residual:.2g}")

# %% [markdown]
# The *residual* $\|Hv - \lambda v\|$ is 0 at an exact eigenvector, and some eigenvalue lies
# within one residual of $\lambda$. Look at 5 and 10 steps: 22.36, then 22.47. It seems
# to have converged. But it has come near a *smaller* eigenvalue, and later climbs to 28.9. A
# value that stands still is no proof, as with the trace above.
#
# The package uses Lanczos' method. It remembers its products, so it needs fewer of
# them. (Also, power iteration finds the eigenvalue farthest from 0, which could be
# negative. Lanczos' method is asked for the largest.)

# %%
pair = sharpness.hessian_top_eigenpair(loss_fn, params, tolerance=1e-3)
assert value <= pair.value * 1.001
print(f"Lanczos: {pair.value:.4f}, residual {pair.residual:.2g}")
print(f"share of the trace: {pair.value / trace:.0%}")
print(f"mean curvature of a random direction: {trace / count:.4f}")

# %% [markdown]
# One direction of 6,274 holds a fifth of the trace. A random direction has a
# thousandth of its curvature. That is why its slice was flat.
#
# ## All seven
#
# | measure | sees | unit |
# |---|---|---|
# | SAM rise | one step along the gradient | loss |
# | worst case, $\ell_2$, adaptive | the highest loss in a ball | loss |
# | worst case, $\ell_\infty$, adaptive | the highest loss in a box: all weights may move at once | loss |
# | average case, adaptive | random places around | loss |
# | Fisher trace | how strongly single samples still pull | loss² / weight² |
# | Hessian trace | the sum of all curvatures, at the point itself | loss / weight² |
# | top eigenvalue | the largest curvature, at the point itself | loss / weight² |
#
# The radii below are those of the committed tables. (Those use 1,000 images for the SAM rise
# and the two traces, 500 for the rest, and 10 probes.)

# %%
MEASURES = [
    *("sam_rise", "worst_case_linf", "worst_case_l2", "average_rise"),
    *("hessian_trace", "fisher_trace", "top_eigenvalue"),
]


# %%
def measures(net):
    """All seven, by the names of the committed tables."""
    f, w = sharpness.loss_of(net, images, labels), sharpness.parameters_of(net)
    draw, again = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    found = {
        "sam_rise": sharpness.sam_sharpness(f, w, 0.1),
        "worst_case_linf": sharpness.worst_case_sharpness(f, w, 0.01, "linf"),
        "worst_case_l2": sharpness.worst_case_sharpness(f, w, 0.25, "l2"),
        "average_rise": sharpness.average_sharpness(f, w, 0.1, 20, draw),
        "hessian_trace": sharpness.hessian_trace(f, w, 20, again)[0],
        "fisher_trace": sharpness.fisher_trace(net, images, labels).mean(),
        "top_eigenvalue": sharpness.hessian_top_eigenvalue(f, w, tolerance=1e-2),
    }
    return pd.Series({name: float(found[name]) for name in MEASURES})


# %%
seven = pd.DataFrame({name: measures(net) for name, net in nets.items()})
seven.round(3)

# %% [markdown]
# By five of the seven, both members trained by SAM are flatter than both of the deep
# ensemble. The adaptive worst case for $p = 2$ and the average case do not say so: `DE 1`
# is flatter than `SAM 0`, or as flat. For them the two members of one ensemble differ more
# than the methods do.
#
# ## The same function, written differently
#
# Take a layer whose output passes a ReLU and then a linear layer. Multiply the first by
# $\alpha > 0$, divide the second by $\alpha$. Since
# $\operatorname{relu}(\alpha x) = \alpha \operatorname{relu}(x)$, nothing changes: same
# answers, same probabilities, same loss, for every input. But it is another place in weight
# space. What do the measures say there, for $\alpha = 10$?

# %%
import copy

# %%
PAIR = {
    "small_cnn": ("norm3", "head"),
    "resnet18": ("stage4_block2.norm1", "stage4_block2.conv2"),
}[lesson.base.model.name]


# %%
def rescaled(net, alpha):
    """The same function with other weights."""
    twin = copy.deepcopy(net)
    first, second = (twin.get_submodule(name) for name in PAIR)
    with torch.no_grad():
        first.weight.mul_(alpha)
        first.bias.mul_(alpha)
        second.weight.div_(alpha)
    return twin


# %%
twin = rescaled(net, 10)
with torch.no_grad():
    apart = (net(images).softmax(1) - twin(images).softmax(1)).abs().max()
assert apart < 1e-4
print(f"largest difference of a probability: {apart:.1g}")

# %% [markdown]
# The same logits times 2 are something else: the answers stay, but the network is *surer*.

# %%
surer = copy.deepcopy(net)
with torch.no_grad():
    surer.head.weight.mul_(2)
    surer.head.bias.mul_(2)

# %%
table = pd.DataFrame({"as trained": seven["DE 0"], "rescaled": measures(twin)})
table["ratio"] = table["rescaled"] / table["as trained"]
table["logits x 2"] = measures(surer)
table["ratio x 2"] = table["logits x 2"] / table["as trained"]
table.round(3)

# %%
ADAPTIVE = ["worst_case_linf", "worst_case_l2", "average_rise"]
assert np.allclose(table.loc[ADAPTIVE, "ratio"], 1, rtol=0.02)
before, after = worst(net, rule="code"), worst(twin, rule="code")
print(f"the published code's search, l2: {before:.4f} before, {after:.4f} after")

# %% [markdown]
# **Rescaled.** The function is the same. Yet the SAM rise doubles, and the two traces and
# the top eigenvalue triple. They depend on how the function is written. The three adaptive
# measures stay. Why? We multiplied each weight by a positive number. As one vector, $w$ became
# $A w$, with a diagonal matrix $A$. For *any* weights, $w$ and $Aw$ are the same function.
# The ball's matrix became $AT$. So the place $Aw + ATu = A(w + Tu)$ is the same function as
# $w + Tu$: the two balls hold the same functions, at the same $u$. That proof needs
# a change that multiplies each weight. Other changes that leave the function alone,
# if a network has any, are not covered.
#
# The *measure* is invariant. The published code's search for it is not: its direction
# and its projection are not those of $u$, so it takes another path after the rescaling.
#
# **Logits times 2.** No measure is invariant here, and none should be: the probabilities
# have changed, and with them the loss. But the answers have not. So a measure of sharpness
# mixes *where the boundaries are* with *how sure the network is*.
#
# ## Predict first
#
# Now to trained ensembles. A measure *ranks* them from flat to sharp. Two measures agree if
# they give the same ranks. *Spearman's correlation* is the correlation of the ranks: 1 for
# the same order, 0 for no relation, −1 for the reverse.
#
# There are 56 ensembles of 7 methods, 8 seeds each. How well do the SAM rise and the Hessian
# trace agree over all 56? And *within* one method, where only the seed differs?

# %%
QUESTION = "rank correlation of SAM rise and Hessian trace, "
my_guess = {"over all 56": 0.5, "within a method": 0.5}
for name, guess in my_guess.items():
    lesson.guess(QUESTION + name, guess)

# %% [markdown]
# ## 56 ensembles
#
# 5,000 CIFAR-10 images (a JPEG copy) at 16x16 pixels, small networks, three members; each
# number is the mean over the members.

# %%
from sbtutor import results

# %% tags=["nbval-check-output"]
many = results.committed("results/ablation")
means = many.groupby("label", sort=False)[MEASURES].mean()
means.round(3)

# %% [markdown]
# All seven order the means as DE > SAM 0.1 > SAM 0.2. (SharpBalance and its controls
# `flattest`, `random` and `shared` are explained in lesson 09. They lie close to SAM 0.2.)


# %%
def show(correlations, title):
    """A table of rank correlations as a figure; colours from -1 to 1."""
    figure = plots.matrix(correlations, MEASURES, title, "Spearman")
    return figure.update_layout(width=640).update_traces(zmin=-1, zmax=1)


# %%
overall = many[MEASURES].corr(method="spearman")
show(overall, "Agreement over all 56 ensembles")

# %% [markdown]
# Now the same *within* a method: the correlation over its 8 seeds, averaged over the 7
# methods.


# %%
def fixed(frame, names):
    """Rank correlations at fixed `names`, averaged over their values."""
    each = frame.groupby(names)[MEASURES].corr(method="spearman")
    return each.groupby(level=-1).mean().loc[MEASURES, MEASURES]


inside = fixed(many, ["label"])
show(inside, "Agreement within a method, over seeds")

# %%
told = {"over all 56": overall, "within a method": inside}
for name, correlations in told.items():
    seen = correlations.loc["sam_rise", "hessian_trace"]
    lesson.compare(QUESTION + name, round(float(seen), 2))

# %% [markdown]
# How sure are these numbers, with 8 seeds? The *bootstrap*: draw 8 seeds out of the 8, with
# replacement, and compute again; 1,000 times. The middle 95 % of the results are an
# interval. A seed is drawn for all methods at once, since methods share seeds. (With 8
# seeds such an interval is rough, and rather too short than too long.)

# %%
from scipy.stats import rankdata


# %%
def cube(frame, names):
    """The measures as an array: fixed names, seeds, measures."""
    return frame.sort_values([*names, "seed"])[MEASURES].to_numpy().reshape(-1, 8, 7)


def agreement(values, a, b):
    """Spearman's correlation over axis 1, averaged over axis 0."""
    ranks = rankdata(values[..., [MEASURES.index(a), MEASURES.index(b)]], axis=1)
    x, y = np.moveaxis(ranks - ranks.mean(1, keepdims=True), -1, 0)
    return ((x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))).mean()


# %%
def resampled(values, groups, a, b):
    """The correlation within `groups` equal parts, with its interval over seeds."""
    picks = np.random.default_rng(0).integers(0, 8, (1000, 8))
    drawn = [agreement(values[:, p].reshape(groups, -1, 7), a, b) for p in picks]
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = agreement(values.reshape(groups, -1, 7), a, b)
    return {"measure": a, "other": b, "Spearman": value, "low": low, "high": high}


# %%
from itertools import combinations

PAIRS = [
    ("sam_rise", "worst_case_linf"),
    ("average_rise", "hessian_trace"),
    ("fisher_trace", "top_eigenvalue"),
    ("sam_rise", "hessian_trace"),
]


def firm(values, groups):
    """How many of the 21 pairs have their whole interval above 0, and above 0.5."""
    pairs = combinations(MEASURES, 2)
    low = np.array([resampled(values, groups, a, b)["low"] for a, b in pairs])
    return f"interval above 0: {(low > 0).sum()} of 21, above 0.5: {(low > 0.5).sum()}"


# %% tags=["nbval-check-output"]
methods = cube(many, ["label"])  # (7 methods, 8 seeds, 7 measures)
ONE = {"over all 56": 1, "within a method": 7}
rows = [
    {"ensembles": name, **resampled(methods, groups, a, b)}
    for a, b in PAIRS
    for name, groups in ONE.items()
]
pd.DataFrame(rows).round(2)

# %% tags=["nbval-check-output"]
print("within a method,", firm(methods, 7))

# %% [markdown]
# Over all 56 ensembles, every pair agrees: the smallest correlation is 0.76. Within a
# method most of that is gone: the correlations lie between 0.21 and 0.93. Two pairs stay
# clearly high, and a reason comes to mind for both:
#
# - SAM rise and worst case $\ell_\infty$ (0.93): one step uphill, and twenty;
# - Hessian trace and average case (0.91): both are a trace, of $H$ and of $THT$.
#
# For SAM rise and Hessian trace, 0.80 becomes 0.27, with an interval from −0.49 to 0.87.
# That does *not* show that they disagree. It says that eight seeds cannot tell. (The seven
# methods use the same eight seeds, and most of them the same first half of training. So
# they are far from seven separate experiments.)
#
# So what did the 0.80 show? That the *methods* differ: DE is sharp, the rest is flat, and
# every measure sees this. A high correlation over a mixture of methods says that
# each measure tells the methods apart. It does not say that they measure the same thing.
#
# ## Networks of three widths
#
# Now other data, and networks of different size: fashion-mini, widths 4, 8 and 16 (channels
# of the first layer), deep ensembles and SAM at three radii, 8 seeds each: 96 ensembles.

# %% tags=["nbval-check-output"]
sweep = results.committed("results/sweep")
sweep.groupby(["width", "label"], sort=False)[MEASURES].mean().round(3)

# %% [markdown]
# At each width all seven measures order the four means alike, from DE to SAM 0.2. Now
# look at DE from width to width. With more weights the worst case $\ell_\infty$ *grows*, from
# 0.154 to 0.353. The worst case $\ell_2$ *falls*, from 0.889 to 0.184.

# %% [markdown]
# Agreement at fixed width, over DE and SAM at three radii, averaged over the widths:

# %% tags=["nbval-check-output"]
fixed(sweep, ["width"]).round(2)

# %% [markdown]
# And over all 96, across widths:

# %%
show(sweep[MEASURES].corr(method="spearman"), "Agreement across widths")

# %% tags=["nbval-check-output"]
widths = cube(sweep, ["width", "label"])  # (12 width and method, 8 seeds, 7 measures)
LEVELS = {"across widths": 1, "fixed width": 3, "fixed width and method": 12}
rows = [
    {"ensembles": name, **resampled(widths, groups, a, b)}
    for a, b in [("worst_case_linf", "worst_case_l2"), *PAIRS]
    for name, groups in LEVELS.items()
]
pd.DataFrame(rows).round(2)

# %% tags=["nbval-check-output"]
print("fixed width and method,", firm(widths, 12))

# %% [markdown]
# - **Fixed width, several methods:** all agree, from 0.63 to 0.97.
# - **Across widths:** the two worst cases now rank the ensembles in *opposite* ways (−0.38).
#   The average case sides with $\ell_2$ (0.92), Hessian trace and top eigenvalue side with
#   $\ell_\infty$ (0.92 and 0.88). A likely reason: with more weights, a box of radius 0.01
#   reaches farther, since all weights may move at once. A ball of radius 0.25 has to be
#   shared out among more weights.
# - **Fixed width and method:** little is left. The two pairs that stayed high on CIFAR-10 do
#   not stay here: 0.93 became 0.42 (interval 0.20 to 0.60), and 0.91 became −0.09 (−0.44 to
#   0.30). The reasons that came to mind were not reason enough. With 12 groups instead of 7
#   more pairs are clearly above 0, but none is above 0.5.
#
# ## Does flat mean good?
#
# The rank correlation of each measure with the members' test accuracy. If flat minima were
# better, these numbers would be negative.

# %% tags=["nbval-check-output"]
GOOD = "test_member_accuracy"


def with_accuracy(frame, names):
    """Each measure's rank correlation with accuracy, at fixed `names`."""
    each = frame.groupby(names)[[*MEASURES, GOOD]].corr(method="spearman")[GOOD]
    return each.groupby(level=-1).mean().loc[MEASURES]


tables = {
    "CIFAR-10, all": with_accuracy(many, ["model"]),
    "CIFAR-10, within a method": with_accuracy(many, ["label"]),
    "fashion, across widths": with_accuracy(sweep, ["model"]),
    "fashion, fixed width": with_accuracy(sweep, ["width"]),
    "fashion, width 16": with_accuracy(sweep[sweep["width"] == 16], ["width"]),
}
pd.DataFrame(tables).round(2)

# %% [markdown]
# On CIFAR-10 they are positive: the *sharper* ensembles have the better members. At fixed
# width on fashion-mini too, though hardly at width 16. That need not mean that sharpness
# helps. A likely reason is that our small networks do not fit their training data, and that
# SAM makes fitting harder (lesson 07). We have not tested this.
#
# Across widths the answer depends on the measure. Wide networks are better. By the worst
# case $\ell_2$ and the average case they are flat, so "flat is good". By the worst case
# $\ell_\infty$ they are sharp, so "sharp is good". The same networks, and both are adaptive
# measures. Andriushchenko et al. (2023) found for larger networks that which way sharpness and
# test error go depends on the data and the training, for adaptive measures too.
#
# ## Explore
#
# Look around the networks yourself. In which plane does SAM's network look flatter, and in
# which not?

# %%
import ipywidgets

from sbtutor import widgets

# %%
member = ipywidgets.Dropdown(options=list(nets))
chosen = ipywidgets.Dropdown(options=list(PLANES), value="two random directions")
reach = ipywidgets.FloatSlider(
    value=0.2, min=0.05, max=1.0, step=0.05, continuous_update=False
)
few_planes = {"member": ["DE 0", "SAM 0"], "reach": [0.2]}  # in the book
widgets.explore(plane, twin=few_planes, member=member, directions=chosen, reach=reach)

# %%
member.value, chosen.value = "SAM 0", "gradient, top eigenvector"
figure = plane(member.value, chosen.value, reach.value)
assert figure.layout.xaxis.title.text == "distance along gradient"
print(figure.layout.title.text)

# %%
shown = nets[member.value]
trained = sharpness.loss_of(shown, images, labels)(sharpness.parameters_of(shown))
middle = figure.data[0].z[5][5]  # no step at all
assert math.isclose(middle, float(trained), abs_tol=1e-3)

# %% [markdown]
# ## Exercises
#
# **1. Box and ball** (easy, 5 minutes). The box $\|u\|_\infty \le \rho$ lets each of the `size`
# entries of $u$ go up to $\rho$. How long is its longest $u$, that is, how large can $\|u\|_2$ be?

# %% tags=["exercise"]
from sbtutor import check


def my_longest_step(rho, size):
    """The largest length of a vector with entries from -rho to rho."""
    # solution
    return rho * size**0.5
    # end


right = check.longest_step(my_longest_step)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>In two dimensions the box is a square. Where is it
# farthest from its centre?</details>
# <details><summary>Hint 2: an outline</summary>In a corner all entries are rho. The length is the
# root of the sum of their squares.</details>
# <details><summary>Hint 3: almost there</summary>The sum of squares is
# <code>size * rho**2</code>.</details>
#
# <!-- solution -->
#
# <details><summary>Why</summary>With 6,274 weights the box of radius 0.01 holds points of length
# 0.79, while our ball has radius 0.25. Yet the box's worst case is lower: there no weight moves
# more than 1 %. In the ball one weight may move 25 %, and the few that matter most are worth it.
# Radii of different norms cannot be compared, nor can l2 radii between networks of different size.
# And a radius of 1 in the box would let each weight be set to 0 or doubled: no neighbourhood any
# more.</details>
#
# **2. Blind spots** (easy, 3 minutes). Some weights the *adaptive* worst case can never move,
# however steep the loss. Which?
#
# - **a** the largest weights
# - **b** weights that are 0, such as the biases of norm layers before training
# - **c** weights whose gradient is 0 at the start of the search
# - **d** weights of the head

# %% tags=["exercise"]
my_blind_spots = "b"  # solution
right = check.unmoved_weights(my_blind_spots)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>The place is w + T u. What is T?</details>
# <details><summary>Hint 2: an outline</summary>Write down how far weight i moves, and when that is 0
# for every u.</details>
# <details><summary>Hint 3: almost there</summary>It moves by |w_i| u_i.</details>
#
# <!-- solution -->
#
# **3. Hutchinson's estimator** (medium, 10 minutes). Write it for any product $v \mapsto Hv$.
# `size` is the number of entries of $v$. For each of the `probes` draw new random signs, and
# return the mean of $v^\top H v$.


# %% tags=["exercise"]
def my_trace(product, size, probes):
    """An estimate of the trace of H from random signs."""
    # solution
    total = 0.0
    for _ in range(probes):
        v = 2.0 * torch.randint(0, 2, (size,)) - 1
        total += v @ product(v)
    return total / probes
    # end


right = check.hutchinson(my_trace)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>Look at the cell that draws <code>bits</code> above.
# What is made of them?</details>
# <details><summary>Hint 2: an outline</summary>Loop over the probes. In the loop: draw bits, make
# signs of them, multiply with H once, add up v' H v. At the end divide.</details>
# <details><summary>Hint 3: almost there</summary>
# <code>v = 2.0 * torch.randint(0, 2, (size,)) - 1</code>, and
# <code>v @ product(v)</code>.</details>
#
# <!-- solution -->
#
# **4. Power iteration** (medium, 10 minutes). Write it as a function of any product
# $v \mapsto Hv$. `size` is the number of entries of $v$, `steps` the number of products. Return
# the eigenvalue farthest from 0, with its sign.


# %% tags=["exercise"]
def my_top_eigenvalue(product, size, steps):
    """The eigenvalue farthest from 0, by power iteration."""
    # solution
    v = torch.randn(size)
    for _ in range(steps):
        v = product(v)
        v = v / v.norm()
    return v @ product(v)
    # end


right = check.top_eigenvalue(my_top_eigenvalue)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>Start from a random <code>v</code>. What happens to its
# length if nobody looks after it?</details>
# <details><summary>Hint 2: an outline</summary>In each step multiply by H and divide by the length.
# With v of length 1 at the end, take v' H v. A length would lose the sign.</details>
# <details><summary>Hint 3: almost there</summary><code>torch.randn(size)</code>,
# <code>v / v.norm()</code>, <code>v @ product(v)</code>.</details>
#
# <!-- solution -->
#
# **5. Flat by rewriting** (medium, 10 minutes). `net` is linear, ReLU, linear: `net[0]`, `net[1]`,
# `net[2]`. Return a new network: the same function, with the first layer `alpha` times as large.

# %% tags=["exercise"]
import copy


def my_rescaled(net, alpha):
    """Another place in weight space that computes the same."""
    # solution
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[0].weight.mul_(alpha)
        twin[0].bias.mul_(alpha)
        twin[2].weight.div_(alpha)
    return twin
    # end


right = check.rescaled(my_rescaled)

# %% [markdown]
# <details><summary>Hint 1: a nudge</summary>What must come out of the first layer, if its output is
# to be alpha times as large for <em>every</em> input?</details>
# <details><summary>Hint 2: an outline</summary>Copy the network. Multiply the first layer's weight
# and bias. Then undo it where its output is multiplied with something, and nowhere
# else.</details>
# <details><summary>Hint 3: almost there</summary><code>copy.deepcopy(net)</code>; under
# <code>torch.no_grad()</code>: <code>twin[0].weight.mul_(alpha)</code>, the same for its bias,
# <code>twin[2].weight.div_(alpha)</code>.</details>
#
# <!-- solution -->
#
# <details><summary>Try it on a real network</summary>How flat can you make <code>DE 0</code>?
# <pre>for alpha in (0.03, 0.1, 0.3, 0.5, 1, 2, 3, 10):
#     print(alpha, measures(rescaled(net, alpha))["hessian_trace"])</pre>As sharp as you like: at
# preset <code>class</code> 1,161 at 0.03, 435 at 10. But hardly flatter than training left it:
# 140.4 at 0.5, against 141.6 at 1, while <code>SAM 0</code> has 92.2. What SAM gained here cannot be
# had by this rewriting. Still, to compare Hessian traces one has to hope that all networks lie so
# near the flattest way of writing; adaptive measures do not need that hope.</details>
#
# ## What we saw
#
# "Here" is this lesson's run (fashion-mini), the 56 ensembles (CIFAR-10 JPEG, 16x16) or the
# 96 (fashion-mini).
#
# | claim | here |
# |---|---|
# | A minimum can be made sharp without changing the function (Dinh et al.) | shown: Hessian trace times 3.1, probabilities equal to within $10^{-6}$ |
# | Adaptive measures do not change then (Kwon et al.) | shown for the three, with the textbook search. The published code's search changes by 3 % |
# | Auto-PGD finds more than one step, without tuning (Croce & Hein) | shown: 0.334 against 0.129 for $\ell_2$. But 20 steps are not always enough |
# | The trade-off is seen with several measures (Lu et al.) | for the sharpness half: all seven order the means DE > SAM 0.1 > SAM 0.2, on both data sets, at each width |
# | The measures agree | yes over several methods at one width (0.76 and more on CIFAR-10, 0.63 and more on fashion-mini) |
# | They agree when only the seed differs | interval above 0.5 for two pairs of 21 on CIFAR-10, for none on fashion-mini. For most pairs eight seeds cannot tell |
# | They agree for networks of different size | no: $\ell_2$ and $\ell_\infty$ worst case −0.38 |
# | Flat is good | at no single width does a measure have that sign; at width 16 the correlations are near 0. Without intervals this is description only. Across widths the sign depends on the measure |
#
# ## Common mistakes
#
# - **Train mode.** With BatchNorm in train mode the loss depends on who else is in the batch,
#   and looking changes the network. Use eval mode.
# - **Different batch sizes.** The SAM rise of `DE 0` was 0.13 with 300 images and 0.69 with 5.
#   Compare numbers only if the batch size is the same.
# - **Radii without a unit.** A plain radius has the unit of the weights, an adaptive one has none.
#   "$\rho = 0.1$" alone says nothing.
# - **Comparing across widths.** A larger network has more weights to move and to sum over.
#   Two measures of "the worst case" rank our three widths in opposite orders.
# - **One probe.** One Hutchinson probe of ours said 113, sixty said 158 ± 8.
# - **Stopping when the number stands still.** The trace's rule was wrong by 10 %, the power
#   iteration paused at 22.4 on its way to 28.9. Report a standard error or a residual, and
#   restart from another vector.
# - **A lower bound as a maximum.** The worst case is what the search found. A better search
#   finds more, and not equally more for each network.
# - **Mixing methods.** A correlation over several methods may come from the methods alone.
#
# ## References
#
# - Lu, Liu, Zhou, et al. (2024). *Sharpness-diversity tradeoff: improving flat ensembles
#   with SharpBalance.* NeurIPS. arXiv 2407.12996.
# - Foret, Kleiner, Mobahi, Neyshabur (2021). *Sharpness-aware minimization for
#   efficiently improving generalization.* ICLR. arXiv 2010.01412.
# - Croce, Hein (2020). *Reliable evaluation of adversarial robustness with an ensemble of
#   diverse parameter-free attacks.* ICML. arXiv 2003.01690. (Auto-PGD, there for images.)
# - Andriushchenko, Croce, Müller, Hein, Flammarion (2023). *A modern look at the
#   relationship between sharpness and generalization.* ICML. arXiv 2302.07011.
# - Dinh, Pascanu, Bengio, Bengio (2017). *Sharp minima can generalize for deep nets.* ICML.
#   arXiv 1703.04933.
# - Kwon, Kim, Park, Choi (2021). *ASAM: adaptive sharpness-aware minimization for
#   scale-invariant learning of deep neural networks.* ICML. arXiv 2102.11600.
# - Hutchinson (1990). *A stochastic estimator of the trace of the influence matrix for
#   Laplacian smoothing splines.* Communications in Statistics: Simulation and
#   Computation 19(2).
# - Yao, Gholami, Keutzer, Mahoney (2020). *PyHessian: neural networks through the lens of
#   the Hessian.* IEEE BigData. arXiv 1912.07145.
