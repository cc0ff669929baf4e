"""What a lesson starts with."""

import dataclasses

import pytest

from sbtutor import config, session


def test_start_names_device_preset_and_seed(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SBTUTOR_RUNS", str(tmp_path))
    for _ in range(2):  # safe to run twice
        lesson = session.start("07", "smoke", 3)
    assert (
        "preset smoke (digits, small_cnn, 4 epochs), seed 3" in capsys.readouterr().out
    )
    assert lesson.runs == tmp_path / "lessons" / "smoke" / "07"
    assert lesson.base.train.seed == 3


def test_vary_changes_training_only(tmp_path):
    lesson = session.Session(config.preset("class"), runs=tmp_path)
    varied = lesson.vary(method="sam", rho=0.3)
    assert varied.data == lesson.base.data
    assert varied.train == dataclasses.replace(lesson.base.train, method="sam", rho=0.3)


def test_fit_shares_the_trunk_and_keeps_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SBTUTOR_PROGRESS", "off")
    base = config.preset("smoke")
    small = dataclasses.replace(base.train, epochs=2, milestones=(), warmup_epochs=1)
    data = dataclasses.replace(base.data, limit=60)
    lesson = session.Session(
        dataclasses.replace(base, train=small, data=data), runs=tmp_path
    )
    sam = lesson.fit(method="sam")
    balanced = lesson.fit(method="sharpbalance")
    assert len(list((tmp_path / "trunks").glob("*.pt"))) == 1
    assert lesson.fit(method="sam").metrics == sam.metrics
    assert sam.out != balanced.out


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="unknown preset 'clas': did you mean 'class'"):
        session.start("00", "clas", 0)
