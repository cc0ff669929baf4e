# %% [markdown]
# # Does SAM buy flatness with diversity?
#
# **Minutes:** read 15, do 15, compute 3

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
# with learning rate $\eta$. (Here $\hat\epsilon$ is *normalised*: it has length
# $\rho$, however steep the slope. The theory of lesson 08 uses SAM without this.)
#
# That costs two gradients a step. Written out on a real batch:

# %%
import torch

from sbtutor import data, models

# %%
splits = data.load(lesson.base.data)
shape, classes = tuple(splits.train.images.shape[1:]), len(splits.train.classes)
network = models.build(lesson.base.model, shape, classes, seed).eval()
images, labels = data.to_float(splits.train.images[:100]), splits.train.labels[:100]

# %%
from sbtutor import sharpness

loss_fn = sharpness.loss_of(network, images, labels)  # parameters -> loss
params, rho = sharpness.parameters_of(network), 0.1

slope = torch.func.grad(loss_fn)(params)  # g
length = torch.cat([g.flatten() for g in slope.values()]).norm()  # ||g||
above = {name: w + rho * slope[name] / length for name, w in params.items()}

sam_gradient = torch.func.grad(loss_fn)(above)  # what SAM descends along

# %% [markdown]
# The package's `train.balanced_gradient` gives the same. It takes a mask that says which
# samples are trained with SAM. With `True` everywhere it is SAM, with `False` everywhere
# SGD. (Lesson 09 uses the values in between.)

# %%
from sbtutor import train

everywhere = torch.ones(len(labels), dtype=torch.bool)
package = train.balanced_gradient(network, images, labels, everywhere, rho)
assert all(torch.allclose(sam_gradient[k], package[k], atol=1e-6) for k in package)
print("the same gradient, for", len(package), "tensors of weights")

# %% [markdown]
# ## Three ways to be sharp
#
# | measure | formula | what it sees |
# |---|---|---|
# | SAM rise | $L(w + \hat\epsilon) - L(w)$ with $\|\hat\epsilon\| = 0.1$ | how far the loss rises along the steepest slope |
# | Hessian trace | $\operatorname{tr} H = \sum_i \lambda_i$, with $H = \nabla^2 L(w)$ | the sum of all curvatures $\lambda_i$ |
# | empirical Fisher trace | $\frac1N \sum_n \|\nabla \ell_n(w)\|^2$ | how strongly single samples $n$ still pull on the weights |
#
# $\ell_n$ is the loss of sample $n$. We take all three on 1,000 training images without
# augmentation, in eval mode, at the weights at which training ends, and average over the
# members. The paper's figures use a fourth measure, the *adaptive worst case*, which
# lesson 06 will add. So our figures are like the paper's in idea, not in numbers.
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
# | KL | mean over ordered pairs $i \ne j$ and over images of $\sum_c p_i(c) \log \frac{p_i(c)}{p_j(c)}$ | different probabilities, the small ones too |
#
# $\hat y_i$ is the answer of member $i$, $y$ the truth, and $P$ the share of test images.
# Variance and KL change when all logits of a member are multiplied by a number. DER does
# not, since the answers stay the same. And DER is tied to the gain: Theisen et al. (2023)
# bound the share of error that a majority vote removes by DER. (The paper computes the
# variance on logits; we use probabilities.)
#
# ## Predict first
#
# Let $\rho$ grow from 0 (a deep ensemble) to 0.2. Which of these fall? Keep them in the
# set.

# %%
QUANTITIES = {
    "sharpness": "hessian_trace",
    "DER": "test_der",
    "variance": "test_prob_variance",
    "ensemble accuracy": "test_accuracy",
    "member accuracy under shift": "shift_member_accuracy",
}
my_guess = set(QUANTITIES)

# %% [markdown]
# ## One live run
#
# One ensemble for each radius, with your seed.

# %%
import pandas as pd

runs = {0.0: lesson.fit(method="sgd")}
for radius in radii:
    runs[radius] = lesson.fit(method="sam", rho=radius)
live = pd.DataFrame({radius: run.metrics for radius, run in runs.items()}).T
live = live.rename_axis("rho")
live[["hessian_trace", "sam_rise", "fisher_trace"]].round(3)

# %%
live[list(QUANTITIES.values())[1:]].round(4)

# %%
smaller = live.iloc[-1] < live.iloc[0]
fell = {name for name, column in QUANTITIES.items() if smaller[column]}
print("fell in this run:", ", ".join(sorted(fell)))
print("your guess was", "the same" if my_guess == fell else "different")

# %% [markdown]
# ## Eight ensembles for each radius
#
# One run cannot tell an effect from luck. These are eight ensembles for each radius.
# Their seeds were not used before, and nothing was tuned on them
# (`python notebooks/results/recompute.py fashion`).

# %%
from sbtutor import plots, results

ORDER = ["DE", "SAM 0.05", "SAM 0.1", "SAM 0.2"]
many = results.committed("results/fashion")
sweep = many[many["label"].isin(ORDER)]
plots.scatter(
    sweep,
    x="hessian_trace",
    y="test_der",
    group="label",
    title="The trade-off: SAM lowers both (fashion-mini, eight ensembles each)",
    x_title="Hessian trace (sharper to the right)",
    y_title="DER (more diverse upwards)",
    connect=ORDER,
)

# %% [markdown]
# Read it from right to left. With larger $\rho$ the ensembles move to flatter minima,
# and lose diversity on the way.
#
# The eight ensembles differ in first weights and data order only; the images are the
# same. So the intervals say what another seed would give, not what other images would give.
#
# Do the other measures agree? Each row of the next table compares two radii *seed by
# seed*: run 1 with run 1, and so on. The difference is given with its 95 % interval.
#
# An interval without 0 speaks for an effect beyond the noise of seeds. But we ask many
# questions. If nothing had changed at all, one in twenty such intervals would still miss
# 0 by chance. Trust what is far from 0, and what several measures say together.
#
# `test_eir` is the ensemble improvement rate, the share of the members' error that the
# ensemble removes (lesson 01).

# %% tags=["nbval-check-output"]
ASKED = [
    *("hessian_trace", "sam_rise", "fisher_trace"),
    *("test_der", "test_prob_variance", "test_kl", "test_eir"),
    *("test_member_accuracy", "test_accuracy", "test_nll"),
    *("shift_member_accuracy", "shift_accuracy"),
]
change = results.against(sweep, "SAM 0.1", "DE", ASKED)
change[["difference", "low", "high", "n"]].round(4)

# %% [markdown]
# And step by step, from each radius to the next:

# %% tags=["nbval-check-output"]
from itertools import pairwise

FEW = ["hessian_trace", "sam_rise", "fisher_trace", *list(QUANTITIES.values())[1:]]
steps = {f"{b} - {a}": results.against(sweep, b, a, FEW) for a, b in pairwise(ORDER)}
pd.concat(steps)[["difference", "low", "high", "n"]].round(4)

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
    return plots.scatter(
        sweep, sharp, diverse, "label", title, sharp, diverse, connect=ORDER
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
table[ORDER].round(4)

# %% [markdown]
# Read the rows from left to right. On clean images, from DE to $\rho = 0.1$, members lose a
# little (0.35 points) and the ensemble loses more (0.48 points): it also loses diversity.
# Under shift members gain (0.70 points, with an interval from 0.28 to 1.11). The
# ensemble's gain there (0.41 points) is within the noise.
#
# ## Exercises
#
# **1. SAM's step** (easy, 5 minutes). Write the perturbed weights for one vector.

# %%
from sbtutor import check


def my_sam_step(weights, gradient, rho):
    """The weights a distance rho uphill."""
    ...


right = check.sam_step(my_sam_step)

# %% [markdown]
# <details><summary>Hint 1</summary>The direction is the gradient's, the length is rho.</details>
# <details><summary>Hint 2</summary>Divide by <code>gradient.norm()</code>. Do not use <code>+=</code>.</details>
# <details><summary>Solution</summary><pre>return weights + rho * gradient / gradient.norm()</pre></details>
#
# **2. A measure that can be fooled** (medium, 10 minutes). In presets `smoke` and `class`:
# in a copy of `params`, multiply `norm3.weight` and `norm3.bias` by 10 and divide
# `head.weight` by 10. Show that `loss_fn` gives the same number. What does the Hessian
# trace do?
#
# <details><summary>Answer</summary>ReLU and the mean over pixels pass a factor on, and the
# head takes it away: the same function, probabilities and all. Yet the trace changes many
# times over. Sharpness depends on how the weights are written; lesson 06 looks at
# <em>adaptive</em> measures.</details>
# <details><summary>Solution</summary><pre>fooled = dict(params)
# for name in ("norm3.weight", "norm3.bias"):
#     fooled[name] = 10 * params[name]
# fooled["head.weight"] = params["head.weight"] / 10
# print(loss_fn(params), loss_fn(fooled))</pre></details>
#
# ## What we saw
#
# | claim of the paper | here (fashion-mini, eight ensembles) |
# |---|---|
# | larger $\rho$ lowers sharpness | shown, by all three measures, at each step |
# | larger $\rho$ lowers diversity | shown, by DER, variance and KL, at each step |
# | larger $\rho$ improves members under shift | shown from DE to 0.1; single steps are within the noise |
# | larger $\rho$ lowers the ensemble's relative gain (EIR) | shown from 0.1 to 0.2 only |
# | SAM ensembles beat deep ensembles on clean images | contradicted: 0.5 points worse at 0.1, 1.0 points at 0.2 |
#
# Why not the last? On CIFAR-10 the paper reports 95.58 % for the deep ensemble and
# 96.06 % for SAM. A ResNet-18 fits all its training data, so it can afford flatness. Our
# network has 6,274 weights. A likely reason is that it does not fit its training data, and
# SAM makes fitting harder. We have not tested this.
#
# ## Common mistakes
#
# - **Forgetting to go back.** The gradient is taken at $w + \hat\epsilon$, but the step
#   starts from $w$.
# - **Updating BatchNorm twice.** The pass at $w + \hat\epsilon$ must not touch the
#   running statistics.
# - **Reading sharpness without confidence.** Multiply all logits by a number: the answers
#   stay, but all three measures change. So a change of sharpness can be partly a change of
#   confidence. Look at NLL and ECE beside it.
# - **Choosing settings on the test set.** Ours, epochs and crops, were chosen on validation
#   images (`notebooks/results/settings.csv`). The radii were fixed beforehand.
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
#   Laplacian smoothing splines.* Communications in Statistics: Simulation and
#   Computation 19(2).
# - Dinh, Pascanu, Bengio, Bengio (2017). *Sharp minima can generalize for deep nets.* ICML.
#   arXiv 1703.04933.
# - Hendrycks, Dietterich (2019). *Benchmarking neural network robustness to common
#   corruptions and perturbations.* ICLR. arXiv 1903.12261. (Our strengths differ.)
