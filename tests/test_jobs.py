"""One run of a sweep: its name, its settings, its folder."""

import json
import math

import pytest
import sweeps

from sbtutor import files, jobs, studies


def job(**settings):
    return jobs.job("smoke", "ensemble", settings)


def test_settings_without_effect_do_not_make_another_run():
    """SGD looks at none of SAM's settings, SAM at none of the split's."""
    plain = job(method="sgd")
    same = job(method="sgd", rho=0.3, sam_fraction=0.1, split="random", warmup_epochs=1)
    assert plain == same
    assert plain.settings == {}
    assert plain.name == same.name
    sam = job(method="sam", rho=0.3, sam_fraction=0.1, split="random")
    assert sam.settings == {"method": "sam", "rho": 0.3}
    ours = job(method="sharpbalance", rho=0.3, sam_fraction=0.1, split="random")
    assert set(ours.settings) == {"method", "rho", "sam_fraction", "split"}


def test_each_setting_with_effect_makes_another_run():
    names = {
        job(**settings).name
        for settings in (
            {},
            {"seed": 1},
            {"data": "fashion-mini"},
            {"data_seed": 1},
            {"model": "mlp"},
            {"method": "sam"},
            {"method": "sam", "rho": 0.2},
            {"method": "sharpbalance"},
            {"method": "sharpbalance", "split": "random"},
            {"method": "sharpbalance", "sam_fraction": 0.25},
            {"reach": True},
        )
    }
    assert len(names) == 11


def test_the_order_and_the_type_of_numbers_do_not_matter(unchecked):
    one = job(seed=3, rho=1, method="sam", milestones=[1, 2])
    two = job(milestones=(1, 2), method="sam", rho=1.0, seed=3)
    assert one.name == two.name
    assert one.name.startswith("sam-seed3-")
    again = json.loads(json.dumps(one.to_dict()))
    assert jobs.job(**again) == one


def test_each_part_gets_its_settings():
    made = job(
        data="fashion-mini", data_seed=4, seed=5, model="mlp", width=7, reach=True
    )
    assert (made.experiment.data.name, made.experiment.data.seed) == ("fashion-mini", 4)
    assert (made.experiment.model.name, made.experiment.model.width) == ("mlp", 7)
    assert made.experiment.train.seed == 5
    assert made.options.reach


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rhoo": 1.0}, "unknown setting 'rhoo': did you mean 'rho'[?] study 'ensem"),
        ({"k": 0.5}, "unknown setting 'k': did you mean 'sam_fraction'"),
        ({"dataset": "digits"}, "unknown setting 'dataset': did you mean 'data'"),
        ({"kappa": 3}, "unknown setting 'kappa'"),  # another study's
        ({"rho": "0.1"}, "rho must be a finite number, got '0.1'"),
        ({"method": "sgd", "rho": "much"}, "rho must be a finite number"),  # idle, but
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"method": "smm"}, "unknown method 'smm': did you mean 'sam'"),
        ({"reach": 1}, "reach must be True or False"),
        ({"method": "sharpbalance", "warmup_epochs": 9}, "warmup_epochs=9"),
    ],
)
def test_wrong_settings_are_refused(unchecked, settings, match):
    with pytest.raises(ValueError, match=match):
        job(**settings)


def test_unknown_presets_and_studies_are_refused():
    with pytest.raises(ValueError, match="unknown preset 'papers': did you mean 'pap"):
        jobs.job("papers", "ensemble", {})
    with pytest.raises(ValueError, match="unknown study 'ensembles': did you mean 'en"):
        jobs.job("smoke", "ensembles", {})


def test_all_studies_are_there_and_no_other():
    assert list(studies.STUDIES) == ["ensemble", "landscape", "hyper", "star"]
    assert all(
        study.what and "\n" not in study.what for study in studies.STUDIES.values()
    )
    with pytest.raises(KeyError):
        studies.STUDIES["none"]


def test_a_run_is_done_once(tmp_path, quiet, monkeypatch):
    """The row is written last; a run that has it is loaded."""
    made, shared = job(**sweeps.TINY), tmp_path / "shared"
    row = jobs.run(made, tmp_path / "run", shared)
    assert row["run"] == made.name
    assert (row["preset"], row["data"], row["epochs"]) == ("smoke", "digits", 3)
    assert 0 <= row["test_accuracy"] <= 1
    monkeypatch.setattr("sbtutor.study_ensemble.run", None)
    again = jobs.run(made, tmp_path / "run", shared)
    assert repr(again) == repr(row)  # NaN equals nothing
    files.write_json(tmp_path / "run" / "row.json", {"a": 1.0, "b": None, "c": "x"})
    again = jobs.run(made, tmp_path / "run", shared)
    assert math.isnan(again.pop("b"))
    assert again == {"a": 1.0, "c": "x"}


def test_a_folder_of_another_run_is_refused(tmp_path):
    other = jobs.job("smoke", "ensemble", {"seed": 1})
    files.write_json(tmp_path / "job.json", other.to_dict())
    with pytest.raises(ValueError, match=r"holds another run .*choose another folder"):
        jobs.run(job(), tmp_path)


def test_two_processes_cannot_do_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 0.1)
    held = pytest.raises(files.LockedError, match="is being worked on by process")
    with files.locked(tmp_path / "lock"), held:
        jobs.run(job(), tmp_path)
    assert not (tmp_path / "job.json").exists()
