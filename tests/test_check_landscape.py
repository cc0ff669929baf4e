"""Lesson 02's exercises: stubs fail, solutions pass, each mistake gets its message."""

import torch

from sbtutor import check, diversity


def by_broadcast(z):
    votes = z.argmax(-1)
    return (votes[:, None] != votes).float().mean(-1)


def by_loop(z):
    votes = z.argmax(-1)
    return torch.stack(
        [torch.stack([(a != b).double().mean() for b in votes]) for a in votes]
    )


def mask(like, p, g):
    return (torch.rand(like.shape, generator=g) >= p).to(like)


def drop(w, p, g):
    return w * mask(w, p, g) / (1 - p)


def by_bernoulli(w, p, g):
    return w * torch.bernoulli(torch.full_like(w, 1 - p), generator=g) / (1 - p)


def by_where(w, p, g):
    return torch.where(torch.rand(len(w), generator=g) < p, 0.0, w / (1 - p))


def in_place(w, p, g):
    w *= mask(w, p, g) / (1 - p)
    return w


def unused_generator(w, p, g):
    return drop(w, p, torch.default_generator)


def seeded_inside(w, p, g):
    return drop(w, p, torch.Generator().manual_seed(0))


def seeded_again(w, p, g):
    return drop(w, p, torch.Generator().manual_seed(g.initial_seed()))


SOLUTIONS = [
    (check.disagreement_matrix, by_broadcast),
    (check.disagreement_matrix, by_loop),
    (check.disagreement_matrix, diversity.pairwise_disagreement),
    (check.weight_dropout, drop),
    (check.weight_dropout, by_bernoulli),
    (check.weight_dropout, by_where),
]
EXERCISES = [check.disagreement_matrix, check.weight_dropout]
MISTAKES = [
    (check.disagreement_matrix, lambda z: by_broadcast(z) * z.shape[1], "divide by N"),
    (check.disagreement_matrix, lambda z: 1 - by_broadcast(z), "this is the agreement"),
    (
        check.disagreement_matrix,
        lambda z: (z[:, None] != z).any(-1).float().mean(-1),
        "compare votes",
    ),
    (check.disagreement_matrix, lambda z: by_broadcast(z).triu(), "only one triangle"),
    (check.disagreement_matrix, lambda z: by_broadcast(z).tril(), "only one triangle"),
    (
        check.disagreement_matrix,
        lambda z: by_broadcast(z) + torch.eye(len(z)),
        "the diagonal should be 0",
    ),
    (
        check.disagreement_matrix,
        lambda z: (z[:, None] != z).float().mean((-1, -2)),
        "compare votes",
    ),
    (check.disagreement_matrix, lambda z: by_broadcast(z.mT), "over the samples"),
    (
        check.disagreement_matrix,
        lambda z: by_broadcast(z).mean(),
        "the shape should be (4, 4)",
    ),
    (
        check.disagreement_matrix,
        lambda z: z.argmax(-1)[:, None] != z.argmax(-1),
        "this is (4, 4, 50)",
    ),
    (check.disagreement_matrix, lambda z: by_broadcast(z).tolist(), "this is a list"),
    (
        check.disagreement_matrix,
        lambda z: by_broadcast(z) / 2,
        "the share of samples on which",
    ),
    (
        check.disagreement_matrix,
        lambda z: by_broadcast(z) * z.shape[1] / 50,
        "for any number of",
    ),
    (
        check.weight_dropout,
        lambda w, p, g: w * mask(w, p, g),
        "divide the kept weights by 1 - p",
    ),
    (
        check.weight_dropout,
        lambda w, p, g: w * mask(w, p, g) * (1 - p),
        "you multiplied",
    ),
    (
        check.weight_dropout,
        lambda w, p, g: w * (1 - mask(w, p, g)) / (1 - p),
        "not to keep it",
    ),
    (check.weight_dropout, lambda w, p, g: drop(w, 1 - p, g), "not to keep it"),
    (check.weight_dropout, lambda w, p, g: w * mask(w, p, g) / p, "you divided by p"),
    (
        check.weight_dropout,
        lambda w, p, g: drop(w, 0.2, g),
        "with p = 0.6, a share of 0.2",
    ),
    (check.weight_dropout, lambda w, p, g: w / (1 - p), "all weights share one fate"),
    (
        check.weight_dropout,
        lambda w, p, g: drop(w, 1.0, g).nan_to_num(),
        "all weights share one fate",
    ),
    (
        check.weight_dropout,
        lambda w, p, g: w * mask(w[:1], p, g) / (1 - p),
        "all weights share one fate",
    ),
    (check.weight_dropout, lambda w, p, g: w.clone(), "no weight is 0"),
    (check.weight_dropout, lambda w, p, g: mask(w, p, g), "this is the mask"),
    (check.weight_dropout, lambda w, p, g: mask(w, p, g) / (1 - p), "this is the mask"),
    (
        check.weight_dropout,
        lambda w, p, g: w + torch.randn(len(w), generator=g),
        "have other values",
    ),
    (
        check.weight_dropout,
        lambda w, p, g: 3 * w * mask(w, p, g),
        "should be center / (1 - p)",
    ),
    (check.weight_dropout, in_place, "in place"),
    (check.weight_dropout, unused_generator, "hand generator"),
    (check.weight_dropout, seeded_inside, "gives the same weights"),
    (check.weight_dropout, seeded_again, "gives the same weights"),
    (
        check.weight_dropout,
        lambda w, p, g: drop(w, p, g)[:10],
        "the shape should be (5000,)",
    ),
    (check.weight_dropout, lambda w, p, g: 0.5, "this is a float"),
]
