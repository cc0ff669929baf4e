"""Sweeps as YAML: what they expand to, and what is refused."""

import itertools
import json
from pathlib import Path

import pytest
import sweeps

from sbtutor import sweep

SWEEPS = sorted((sweeps.ROOT / "notebooks" / "sweeps").glob("*.yaml"))


def parsed(grid, **more):
    return sweep.parse({"what": "a test", "preset": "smoke", "grid": grid} | more)


def test_every_combination_is_a_run_once():
    """Two of SGD's four combinations differ in rho alone, which it does not know."""
    grid = {"method": ["sgd", "sam"], "rho": [0.1, 0.2], "seed": [0, 10]}
    found = parsed(grid)
    assert found.combinations == 8
    told = [(j.experiment.train.method, j.experiment.train.rho) for j in found.jobs]
    assert told == [("sgd", 0.1)] * 2 + [("sam", 0.1)] * 2 + [("sam", 0.2)] * 2
    assert [job.experiment.train.seed for job in found.jobs] == [0, 10] * 3
    assert len({job.name for job in found.jobs}) == 6
    assert found.axes == grid


def test_several_grids_stand_one_after_the_other():
    grids = [{"seed": [0, 10]}, {"method": ["sam"], "seed": [10, 20]}, {"seed": [0]}]
    found = parsed(grids, settings={"epochs": 2})
    assert found.combinations == 5
    kinds = [(j.experiment.train.method, j.experiment.train.seed) for j in found.jobs]
    assert kinds == [("sgd", 0), ("sgd", 10), ("sam", 10), ("sam", 20)]
    assert {job.experiment.train.epochs for job in found.jobs} == {2}
    assert found.axes == {"seed": [0, 10, 20], "method": ["sam"]}


def test_numbers_in_yaml_are_numbers(unchecked, tmp_path):
    """YAML 1.1 takes 1e-3 for text."""
    text = (
        "what: x\npreset: smoke\ngrid:\n  method: [sam]\n  rho: [1e-3, 5.0e-2, 1, .2]"
    )
    (tmp_path / "s.yaml").write_text(text + "\n  seed: [7]\n")
    found = sweep.read(tmp_path / "s.yaml").jobs
    assert [job.experiment.train.rho for job in found] == [1e-3, 5e-2, 1.0, 0.2]
    assert found[0].experiment.train.seed == 7


def test_whole_numbers_in_yaml_are_decimal(unchecked, tmp_path):
    """YAML 1.1 takes 010 for 8, and 1:30 for 90."""
    text = "what: x\npreset: smoke\ngrid: {seed: [010, -0, 7]}\n"
    (tmp_path / "s.yaml").write_text(text)
    found = sweep.read(tmp_path / "s.yaml").jobs
    assert [job.experiment.train.seed for job in found] == [10, 0, 7]
    (tmp_path / "s.yaml").write_text(text.replace("010", "1:30"))
    with pytest.raises(ValueError, match="seed must be a whole number, got '1:30'"):
        sweep.read(tmp_path / "s.yaml")


def test_yaml_may_take_over_settings_and_write_over_them(tmp_path):
    """`<<` names what is not there; a name that is there twice is refused."""
    path = tmp_path / "s.yaml"
    path.write_text(
        "what: x\npreset: smoke\nsettings: {members: 2}\n"
        "grid: {<<: {seed: [0, 1]}, seed: [5]}\n"
    )
    [job] = sweep.read(path).jobs
    assert job.experiment.train.seed == 5
    path.write_text("what: x\ngrid: {seed: [0], seed: [5]}\n")
    with pytest.raises(ValueError, match="a name is there twice in one place"):
        sweep.read(path)


def test_what_is_too_large_is_told(monkeypatch):
    def large(*given):
        raise RuntimeError("can't allocate memory\nat a place")

    study = sweep.STUDIES["ensemble"]._replace(ready=large)
    monkeypatch.setattr(sweep, "STUDIES", {"ensemble": study})
    with pytest.raises(
        ValueError, match=r"\{'seed': 3\} is too large: can't alloc.*y$"
    ):
        sweep.ready(parsed({"seed": [3]}))


def test_a_sweep_survives_json():
    found = parsed({"milestones": [[2], [1, 3]], "seed": [0]}, settings={"epochs": 5})
    assert sweep.Sweep.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([], r"a sweep has the keys what, study, .*, got \[\]"),
        ({"grids": {}}, "unknown key 'grids': did you mean 'grid'[?] choose of what"),
        ({"what": 3}, "what must be text, got 3"),
        (
            {"what": "x", "settings": [1]},
            r"settings must be names with values, got \[1",
        ),
        ({"what": "x", "grid": {"seed": [0]}}, "a sweep needs .*; add preset"),
    ],
)
def test_wrong_keys_are_refused(content, match):
    with pytest.raises(ValueError, match=match):
        sweep.parse(content)


@pytest.mark.parametrize(
    ("grid", "match"),
    [
        ({}, r"names with lists of values, at least one, got \{\}; write grid: {seed"),
        ([], r"the grid is empty: write grid: \{seed: \[0\]\} for one run"),
        ([{"seed": [0]}, {}], r"names with lists of values, at least one, got \{\}"),
        ([3], "names with lists of values, at least one, got 3"),
        (
            {"seed": []},
            r"seed in the grid must be a list of one value or more, got \[\]",
        ),
        (
            {"seed": 3},
            r"seed in the grid must be a list .* write seed: \[...\], or put",
        ),
        ({"epochs": [1]}, "epochs is in the grid and in settings; leave one"),
        ({"rhos": [1]}, "unknown setting 'rhos': did you mean 'rho'"),
        ({"seed": ["a"]}, "seed must be a whole number, got 'a'"),
    ],
)
def test_wrong_grids_are_refused(unchecked, grid, match):
    with pytest.raises(ValueError, match=match):
        parsed(grid, settings={"epochs": 4})


def test_files_that_are_none_or_no_yaml_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is no file; a sweep is a YAML file, such as"):
        sweep.read(tmp_path)
    (tmp_path / "s.yaml").write_text("grid: {seed: [0")
    with pytest.raises(ValueError, match=r"s.yaml is no YAML: .*line 1"):
        sweep.read(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"s.yaml is no YAML"):
        sweep.read(tmp_path / "s.yaml")


def test_what_is_needed_is_looked_for_once(monkeypatch):
    """Not for each of a thousand seeds."""
    seen = []
    grid = {"data": ["digits", "fashion-mini"], "model": ["mlp", "lenet"]}
    found = parsed(grid | {"seed": [0, 1, 2]})
    study = sweep.STUDIES["ensemble"]
    look = lambda e, o: seen.append((e.data.name, e.model.name))  # noqa: E731
    study = study._replace(ready=look)
    monkeypatch.setattr(sweep, "STUDIES", {"ensemble": study})
    sweep.ready(found)
    assert seen == list(itertools.product(*grid.values()))


def test_there_is_a_small_twin_of_each_sweep():
    names = {path.stem for path in SWEEPS}
    large = {name for name in names if not name.endswith("-mini")}
    assert len(large) >= 9
    assert names == large | {f"{name}-mini" for name in large}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_committed_sweeps_expand(path: Path):
    """Ensembles of different seeds share no member: member m takes seed + m."""
    found = sweep.read(path)
    assert found.jobs
    mini = path.stem.endswith("-mini")
    assert (found.preset == "paper") != mini
    members = {job.experiment.train.members for job in found.jobs}
    seeds = sorted({job.experiment.train.seed for job in found.jobs})
    apart = min((b - a for a, b in itertools.pairwise(seeds)), default=max(members))
    assert apart >= max(members)
    assert path.read_text().startswith("# ")
