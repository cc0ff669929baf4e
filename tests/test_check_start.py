"""Lesson 00's exercises: stubs fail, solutions pass, each mistake gets its message."""

import torch

from sbtutor import check, check_start


def differing(a, b):
    return sum(x != y for x, y in zip(a, b)) / len(a)


def differing_by_tensors(a, b):
    return (torch.tensor(a) != torch.tensor(b)).float().mean()


def gain(members, ensemble):
    return 100 * (ensemble - sum(members) / len(members))


RIGHT = [0.38, 0.5, 0.12]

# An answer that is a tuple holds several arguments.
SOLUTIONS = [
    (check.one_image, (RIGHT, "shirt")),
    (check.one_image, (RIGHT, "Shirt")),
    (check.one_image, (torch.tensor(check_start.MEMBERS).mean(0), "shirt")),
    (check.share_differing, differing),
    (check.share_differing, differing_by_tensors),
    (check.points_gained, gain),
    (check.one_more_run, "c"),
]
EXERCISES = [
    check.one_image,
    check.share_differing,
    check.points_gained,
    check.one_more_run,
]
MISTAKES = [
    (check.one_image, ([1.14, 1.5, 0.36], "shirt"), "divide by M = 3"),
    (check.one_image, ([0.67, 0.33, 0], "coat"), "shares of votes"),
    (check.one_image, ([0.333, 0.333, 0.333], "coat"), "the average over classes"),
    (check.one_image, ([0.09, 0.65, 0.26], "shirt"), "the mean of three numbers"),
    (check.one_image, ([0.38, 0.5], "shirt"), "the mean of three numbers"),
    (check.one_image, (0.5, "shirt"), "three numbers in brackets"),
    (check.one_image, (["coat"], "shirt"), "three numbers in brackets"),
    (check.one_image, (RIGHT, "coat"), "two members say coat"),
    (check.one_image, (RIGHT, "dress"), "the largest mean probability"),
    (check.one_image, (RIGHT, 1), "the largest mean probability"),
    (check.one_image, (RIGHT, ...), "replace the dots"),
    (check.share_differing, lambda a, b: len(a) * differing(a, b), "the number of"),
    (check.share_differing, lambda a, b: 1 - differing(a, b), "they agree"),
    (check.share_differing, lambda a, b: 100 * differing(a, b), "in percent"),
    (
        check.share_differing,
        lambda a, b: sum(abs(x - y) for x, y in zip(a, b)) / len(a),
        "classes are names",
    ),
    (
        check.share_differing,
        lambda a, b: sum(x != y for x, y in zip(a, b)) / 5,
        "it should be 0.25; this is 0.2",
    ),
    (check.share_differing, lambda a, b: [0.6], "this is a list"),
    (check.points_gained, lambda m, e: gain(m, e) / 100, "this is a share"),
    (check.points_gained, lambda m, e: -gain(m, e), "the sign is wrong"),
    (check.points_gained, lambda m, e: 100 * (e - max(m)), "the best member"),
    (check.points_gained, lambda m, e: gain(m, e) / sum(m) * len(m), "you divided by"),
    (check.points_gained, lambda m, e: 100 * (e - sum(m)), "the members' sum"),
    (check.points_gained, lambda m, e: 100 * (e - m[0]), "be 5; this is 8"),
    (check.points_gained, lambda m, e: "5 points", "this is a str"),
    (check.one_more_run, "a", "proves no mistake"),
    (check.one_more_run, "b", "weak evidence"),
    (check.one_more_run, "D", "any method win"),
    (check.one_more_run, 3, "choose one of a, b, c, d"),
]
