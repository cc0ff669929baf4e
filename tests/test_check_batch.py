"""Lesson 04's exercises: stubs fail, solutions pass, each mistake gets its message."""

import pytest
import torch
from torch import nn

from sbtutor import batch_ensemble, check, loguniform
from sbtutor.rank_one import each


def linear(x, weight, r, s, bias):
    r, s, bias = (rows.repeat_interleave(len(x) // len(r), 0) for rows in (r, s, bias))
    return (x * r) @ weight.T * s + bias


def linear_by_loop(x, weight, r, s, bias):
    examples = len(x) // len(r)
    rows = []
    for n, row in enumerate(x):
        k = n // examples
        rows.append((weight * torch.outer(s[k], r[k])) @ row + bias[k])
    return torch.stack(rows)


def linear_by_layer(x, weight, r, s, bias):
    layer = nn.Linear(*weight.T.shape).to(weight)
    whole = batch_ensemble.convert(layer, len(r))
    made = whole.network[0]
    made.own.weight.data, made.own.r.data, made.own.s.data = weight, r, s
    made.bias.data = bias
    return whole(x).detach()


def image_major(x, weight, r, s, bias):
    r, s, bias = (rows.repeat(len(x) // len(r), 1) for rows in (r, s, bias))
    return (x * r) @ weight.T * s + bias


def without_s(x, weight, r, s, bias):
    return (x * each(r, x)) @ weight.T + each(bias, x)


def without_r(x, weight, r, s, bias):
    return x @ weight.T * each(s, x) + each(bias, x)


def without_bias(x, weight, r, s, bias):
    return (x * each(r, x)) @ weight.T * each(s, x)


def scaled_bias(x, weight, r, s, bias):
    return ((x * each(r, x)) @ weight.T + each(bias, x)) * each(s, x)


def one_bias(x, weight, r, s, bias):
    return (x * each(r, x)) @ weight.T * each(s, x) + bias[0]


def swapped(x, weight, r, s, bias):
    return (x * each(s, x)) @ weight.T * each(r, x) + each(bias, x)


def untransposed(x, weight, r, s, bias):
    return (x * each(r, x)) @ weight * each(s, x) + each(bias, x)


def probabilities(logits, labels):
    """Of the truth: (M, N)."""
    return logits.softmax(-1)[:, range(len(labels)), labels]


def loss(logits, labels):
    return -probabilities(logits, labels).mean(0).log().mean()


def count(inputs, outputs, members):
    return inputs * outputs + members * (inputs + 2 * outputs)


SOLUTIONS = [
    (check.batch_linear, linear),
    (check.batch_linear, linear_by_loop),
    (check.batch_linear, linear_by_layer),
    (check.log_uniform_mean, lambda a, b: (b - a) / (b / a).log()),
    (check.log_uniform_mean, lambda a, b: loguniform.mean(a.log(), b.log())),
    (check.ensemble_nll, loss),
    (check.ensemble_nll, lambda z, y: float(loss(z, y))),
    (
        check.ensemble_nll,
        lambda z, y: nn.functional.nll_loss(z.softmax(-1).mean(0).log(), y),
    ),
    (check.batch_parameters, count),
]
EXERCISES = [
    check.batch_linear,
    check.log_uniform_mean,
    check.ensemble_nll,
    check.batch_parameters,
]
MISTAKES = [
    (check.batch_linear, image_major, "repeat_interleave"),
    (check.batch_linear, without_s, "s is missing"),
    (check.batch_linear, without_r, "r is missing"),
    (check.batch_linear, without_bias, "the bias is missing"),
    (check.batch_linear, scaled_bias, "s scales the bias too"),
    (check.batch_linear, one_bias, "member 0's bias"),
    (check.batch_linear, swapped, "r and s are swapped"),
    (check.batch_linear, untransposed, "transpose the weight"),
    (
        check.batch_linear,
        lambda *given: 2 * linear(*given),
        "s_ko sum_i W_oi r_ki x_i + b_ko",
    ),
    (
        check.batch_linear,
        lambda *given: linear(*given)[:3],
        "the shape should be (12, 4)",
    ),
    (check.batch_linear, lambda *given: linear(*given).tolist(), "this is a list"),
    (check.log_uniform_mean, lambda a, b: (a + b) / 2, "this is the midpoint"),
    (check.log_uniform_mean, lambda a, b: (a * b).sqrt(), "this is the median"),
    (
        check.log_uniform_mean,
        lambda a, b: (a.log() + b.log()) / 2,
        "the mean of log lambda",
    ),
    (check.log_uniform_mean, lambda a, b: (b - a) / (b / a).log10(), "not log10"),
    (
        check.log_uniform_mean,
        lambda a, b: ((b - a) / (b / a).log()).log(),
        "leave the last log out",
    ),
    (check.log_uniform_mean, lambda a, b: (b - a) / (a / b).log(), "the sign is wrong"),
    (check.log_uniform_mean, lambda a, b: b - a, "integrate lambda times its density"),
    (
        check.log_uniform_mean,
        lambda a, b: ((b - a) / (b / a).log()).mean(),
        "the shape should be (3,)",
    ),
    (check.log_uniform_mean, lambda a, b: 14.46, "this is a float"),
    (
        check.ensemble_nll,
        lambda z, y: -probabilities(z, y).log().mean(),
        "mean of the members' losses",
    ),
    (
        check.ensemble_nll,
        lambda z, y: nn.functional.cross_entropy(z.mean(0), y),
        "not logits",
    ),
    (check.ensemble_nll, lambda z, y: -loss(z, y), "needs a minus sign"),
    (check.ensemble_nll, lambda z, y: loss(z, y) * len(y), "the sum over images"),
    (
        check.ensemble_nll,
        lambda z, y: -probabilities(z, y).sum(0).log().mean(),
        "divide by M",
    ),
    (
        check.ensemble_nll,
        lambda z, y: -probabilities(z, y).mean().log(),
        "each image's probability",
    ),
    (
        check.ensemble_nll,
        lambda z, y: -probabilities(z, y).mean(),
        "the log is missing",
    ),
    (check.ensemble_nll, lambda z, y: 2 * loss(z, y), "it should be "),
    (
        check.ensemble_nll,
        lambda z, y: -probabilities(z, y).mean(0).log(),
        "this is a Tensor",
    ),
    (check.ensemble_nll, lambda z, y: str(float(loss(z, y))), "this is a str"),
    (
        check.batch_parameters,
        lambda i, o, m: i * o + m * (i + o),
        "the biases are missing",
    ),
    (
        check.batch_parameters,
        lambda i, o, m: i * o + m * (i + o) + o,
        "you counted one for all",
    ),
    (
        check.batch_parameters,
        lambda i, o, m: m * (i * o + o),
        "this is a deep ensemble",
    ),
    (check.batch_parameters, lambda i, o, m: i * o + m * o, "r and s are missing"),
    (
        check.batch_parameters,
        lambda i, o, m: i * o + i + o + m * o,
        "you counted one pair",
    ),
    (check.batch_parameters, lambda i, o, m: m * (i * o + i + 2 * o), "it is shared"),
    (
        check.batch_parameters,
        lambda i, o, m: i + o + m,
        "it should be 1724; this is 141",
    ),
    (check.batch_parameters, lambda i, o, m: "many", "this is a str"),
    (
        check.batch_parameters,
        lambda i, o, m: 1724,
        "for inputs = 4, outputs = 7, members = 5 it should be",
    ),
]


@pytest.mark.parametrize(("inputs", "outputs", "members"), [(128, 10, 3), (5, 4, 1)])
def test_the_count_that_is_asked_for_is_that_of_the_layer(inputs, outputs, members):
    whole = batch_ensemble.convert(nn.Linear(inputs, outputs), members)
    numbers = sum(p.numel() for p in whole.parameters())
    assert count(inputs, outputs, members) == numbers
