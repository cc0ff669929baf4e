# %% [markdown]
# # Does SAM buy flatness with diversity?
#
# **Minutes:** read 15, do 15, compute 2

# %% [markdown]
# ## Objectives
#
# After this lesson you can
#
# - write SAM's step in three lines;
# - measure the sharpness of a minimum in three ways, and say how they differ;
# - measure the diversity of an ensemble in three ways;
# - show, with intervals, what happens to both when SAM's radius grows;
# - say which part of the paper's claim holds at this size, and which does not.
#
# You need: lessons 00 and 01.

# %% tags=["parameters"]
import os

preset: str = os.environ.get("SBTUTOR_PRESET", "class")  # smoke | class | paper
seed: int = 0  # seed of the first member
radii: list = [0.05, 0.1, 0.2]  # SAM's radius rho, in the unit of the weights

# %%
from sbtutor import session

lesson = session.start("07", preset, seed)

# %% [markdown]
# ## SAM in three lines
#
# Let $w$ be all weights of a network as one vector, $L(w)$ its loss on a batch, and
# $g = \nabla L(w)$ the gradient. Plain gradient descent steps along $-g$.
#
# SAM asks for weights whose whole *neighbourhood* has a low loss:
#
# $$\min_w \; \max_{\|\epsilon\|_2 \le \rho} L(w + \epsilon).$$
#
# The radius $\rho$ is a distance in weight space. The inner maximum is hard to find. To
# first order the loss rises fastest along the gradient, so SAM takes
#
# $$\hat\epsilon = \rho \, \frac{g}{\|g\|_2}, \qquad w \leftarrow w - \eta \, \nabla L(w + \hat\epsilon),$$
#
# with learning rate $\eta$. (Here the gradient is *normalised*: the step has length
# $\rho$, however steep the slope. The theory of lesson 08 uses SAM without this.)
#
# That costs two gradients a step. Written out on a real batch:

# %%
import torch

from sbtutor import data, models

splits = data.load(lesson.base.data)
shape, classes = tuple(splits.train.images.shape[1:]), len(splits.train.classes)
network = models.build(lesson.base.model, shape, classes, seed).eval()
images, labels = data.to_float(splits.train.images[:100]), splits.train.labels[:100]

# %%
from sbtutor import sharpness

loss_fn = sharpness.loss_of(network, images, labels)  # parameters -> loss
params = sharpness.parameters_of(network)
slope = torch.func.grad(loss_fn)(params)  # g
length = torch.stack([g.square().sum() for g in slope.values()]).sum().sqrt()
above = {name: w + 0.1 * slope[name] / length for name, w in params.items()}
step = torch.func.grad(loss_fn)(above)  # the gradient that SAM descends along

# %% [markdown]
# The package's `train.balanced_gradient` gives the same. It takes a mask that says which
# samples are trained with SAM. With `True` everywhere it is SAM, with `False` everywhere
# SGD. (Lesson 09 uses the values in between.)

# %%
from sbtutor import train

everywhere = torch.ones(len(labels), dtype=torch.bool)
package = train.balanced_gradient(network, images, labels, everywhere, rho=0.1)
assert all(torch.allclose(step[k], package[k], atol=1e-6) for k in step)
print("the same gradient, for", len(step), "tensors of weights")

# %% [markdown]
# ## Three ways to be sharp
#
# | measure | formula | what it sees |
# |---|---|---|
# | SAM rise | $L(w + \hat\epsilon) - L(w)$ with $\|\hat\epsilon\| = 0.1$ | how far the loss rises along the steepest slope |
# | Hessian trace | $\operatorname{tr} H = \sum_i \lambda_i$, with $H = \nabla^2 L(w)$ | the sum of all curvatures $\lambda_i$ |
# | Fisher trace | $\frac1N \sum_n \|\nabla \ell_n(w)\|^2$ | how strongly single samples $n$ still pull on the weights |
#
# $\ell_n$ is the loss of sample $n$. We take all three on 1,000 training images without
# augmentation, in eval mode, and average over the members. The paper's figures use
# a fourth, the *adaptive worst case*; lesson 06 will add it.
#
# The Hessian is never written down. Hutchinson's trick needs only products $Hv$ with
# random signs $v$, since the mean of $v^\top H v$ is $\operatorname{tr} H$:

# %%
probe = torch.Generator().manual_seed(0)
trace, error = sharpness.hessian_trace(loss_fn, params, probes=20, generator=probe)
rise = sharpness.sam_sharpness(loss_fn, params, rho=0.1)
print(f"untrained: SAM rise {rise:.3f}, Hessian trace {trace:.1f} ± {error:.1f}")

# %% [markdown]
# ## Three ways to be diverse
#
# | measure | formula | what it sees |
# |---|---|---|
# | DER | $\dfrac{\text{mean over pairs } i \ne j \text{ of } P(\hat y_i \ne \hat y_j)}{\text{mean over members } i \text{ of } P(\hat y_i \ne y)}$ | different answers, per error |
# | variance | $\frac{1}{N} \sum_n \frac{1}{M-1} \sum_m \|p_m(x_n) - \bar p(x_n)\|^2$ | different probabilities |
# | KL | mean over pairs of $\sum_c p_i \log (p_i / p_j)$ | different probabilities, the small ones too |
#
# $\hat y_i$ is the answer of member $i$ and $y$ the truth. Variance and KL shrink by
# themselves when members are less sure. DER does not, which is why the paper prefers it.
#
# ## Predict first
#
# Let $\rho$ grow from 0 (a deep ensemble) to 0.2. Which of these fall? Keep them in the
# set.

# %%
my_guess = {"sharpness", "DER", "clean accuracy", "accuracy under shift"}

# %% [markdown]
# ## One live run
#
# One ensemble for each radius, with your seed.

# %%
import pandas as pd

runs = {0.0: lesson.fit(method="sgd")}
for rho in radii:
    runs[rho] = lesson.fit(method="sam", rho=rho)
live = pd.DataFrame({rho: run.metrics for rho, run in runs.items()}).T
SHOWN = ["hessian_trace", "sam_rise", "fisher_trace", "test_der", "test_prob_variance"]
live[[*SHOWN, "test_accuracy", "shift_member_accuracy"]].rename_axis("rho").round(3)

# %% [markdown]
# ## Eight ensembles for each radius
#
# One run cannot tell an effect from luck. These are eight ensembles for each radius.
# Their seeds were not used before, and nothing was tuned on them
# (`python notebooks/results/recompute.py fashion`).

# %%
from sbtutor import plots, results

many = results.committed("results/fashion")
sweep = many[many["label"].isin(["DE", "SAM 0.05", "SAM 0.1", "SAM 0.2"])]
plots.scatter(
    sweep,
    x="hessian_trace",
    y="test_der",
    group="label",
    title="The trade-off: SAM lowers both (fashion-mini, eight ensembles each)",
    x_title="Hessian trace (sharper to the right)",
    y_title="DER (more diverse upwards)",
    connect=["DE", "SAM 0.05", "SAM 0.1", "SAM 0.2"],
)

# %% [markdown]
# Read it from right to left. With larger $\rho$ the ensembles move to flatter minima,
# and lose diversity on the way.
#
# Do the other measures agree? Each row of the next table compares two radii *seed by
# seed*: run 1 with run 1, and so on. The difference is given with its 95 % interval. An
# interval without 0 means an effect beyond the noise of seeds.

# %% tags=["nbval-check-output"]
ASKED = [
    *("hessian_trace", "sam_rise", "fisher_trace"),
    *("test_der", "test_prob_variance", "test_kl"),
    *("test_accuracy", "test_eir", "shift_member_accuracy", "shift_accuracy"),
]
change = results.against(sweep, "SAM 0.1", "DE", ASKED)
change[["difference", "low", "high", "n"]].round(4)

# %% [markdown]
# ## Explore
#
# Choose the axes. Is there a pair of measures for which the trade-off vanishes?

# %%
import ipywidgets

from sbtutor import widgets

SHARP = ["hessian_trace", "sam_rise", "fisher_trace"]
DIVERSE = ["test_der", "test_prob_variance", "test_kl", "shift_der", "test_eir"]


def trade_off(sharp: str, diverse: str):
    """All runs of the sweep with chosen axes."""
    title = f"{diverse} against {sharp} (fashion-mini)"
    order = ["DE", "SAM 0.05", "SAM 0.1", "SAM 0.2"]
    return plots.scatter(
        sweep, sharp, diverse, "label", title, sharp, diverse, connect=order
    )


sharp = ipywidgets.Dropdown(options=SHARP)
diverse = ipywidgets.Dropdown(options=DIVERSE, value="test_kl")
widgets.explore(trade_off, sharp=sharp, diverse=diverse)

# %% tags=["nbval-check-output"]
sharp.value = "sam_rise"
figure = trade_off(sharp.value, diverse.value)
assert figure.layout.xaxis.title.text == "sam_rise"
print(figure.layout.title.text)

# %% [markdown]
# ## What does it do to accuracy?

# %%
accuracy = pd.concat(
    [
        results.by_label(sweep, column).assign(images=name)
        for column, name in {
            "test_member_accuracy": "member",
            "test_accuracy": "ensemble",
            "shift_member_accuracy": "member, shifted",
            "shift_accuracy": "ensemble, shifted",
        }.items()
    ]
)
table = accuracy.pivot(index="images", columns="method", values="mean")
table[["DE", "SAM 0.05", "SAM 0.1", "SAM 0.2"]].round(4)

# %% [markdown]
# Compare the rows. On clean images the ensemble loses what its members lose in
# diversity, and more. Under shift the members gain from flatness, until the radius is too
# large for so small a network.
#
# ## Exercises
#
# **1. SAM's step** (easy, 5 minutes). Write the perturbed weights for one vector.

# %%
from sbtutor import check


def my_sam_step(weights, gradient, rho):
    """The weights a distance rho uphill."""
    ...


check.sam_step(my_sam_step)

# %% [markdown]
# <details><summary>Hint 1</summary>The direction is the gradient's, the length is rho.</details>
# <details><summary>Hint 2</summary>Divide by <code>gradient.norm()</code>. Do not use <code>+=</code>.</details>
# <details><summary>Solution</summary><pre>return weights + rho * gradient / gradient.norm()</pre></details>
#
# **2. A measure that can be fooled** (medium, 10 minutes). Multiply all weights of the
# last layer by 10. The network gives the same answers. What happens to the Hessian
# trace? Try it: the parameters are `head.weight` and `head.bias` in `params`.
#
# <details><summary>Answer</summary>The answers stay, but the probabilities become extreme.
# Loss and curvature change a lot. Sharpness depends on the scale of the weights, which
# is why lesson 06 looks at <em>adaptive</em> measures.</details>
#
# ## What we saw
#
# | claim of the paper | here (fashion-mini, eight ensembles) |
# |---|---|
# | larger $\rho$ lowers sharpness | shown for all three measures |
# | larger $\rho$ lowers diversity | shown for DER, variance and KL |
# | larger $\rho$ improves members under shift | shown up to the largest radius, see the table |
# | larger $\rho$ lowers the ensemble's relative gain (EIR) | see `test_eir` above |
# | SAM ensembles beat deep ensembles on clean images | not shown: here they are worse |
#
# Why not the last? On CIFAR-10 the paper reports 95.58 % for the deep ensemble and
# 96.06 % for SAM. A ResNet-18 fits all its training data, so it can afford flatness. Our
# network has 6,000 weights and 20 epochs. It underfits, and SAM makes it underfit more.
#
# ## Common mistakes
#
# - **Forgetting to go back.** The gradient is taken at $w + \hat\epsilon$, but the step
#   starts from $w$.
# - **Updating BatchNorm twice.** The pass at $w + \hat\epsilon$ must not touch the
#   running statistics.
# - **Comparing sharpness between different losses.** A network that is less sure has
#   smaller gradients; that alone lowers all three measures.
# - **Choosing rho on the test set.** Ours was chosen on validation images
#   (`notebooks/results/settings.md`).
#
# ## References
#
# - Lu, Liu, Zhou, et al. (2024). *Sharpness-diversity tradeoff: improving flat ensembles
#   with SharpBalance.* NeurIPS. arXiv 2407.12996.
# - Foret, Kleiner, Mobahi, Neyshabur (2021). *Sharpness-aware minimization for
#   efficiently improving generalization.* ICLR. arXiv 2010.01412.
# - Theisen, Kim, Yang, Hodgkinson, Mahoney (2023). *When are ensembles really
#   effective?* NeurIPS. arXiv 2305.12313.
# - Hutchinson (1990). *A stochastic estimator of the trace of the influence matrix for
#   Laplacian smoothing splines.* Communications in Statistics.
