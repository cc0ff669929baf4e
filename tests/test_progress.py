"""A bar for people, lines for logs, silence when asked."""

import pytest

from sbtutor import progress
from sbtutor.progress import Progress


def run(monkeypatch, mode, seconds=(), steps=3, done=0):
    """Steps at given times on a clock that stands still otherwise."""
    monkeypatch.setenv("SBTUTOR_PROGRESS", mode)
    clock = {"now": 100.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
    shown = Progress("training", steps, done)
    for now in seconds:
        clock["now"] = 100.0 + now
        shown.step(f"loss {now}")
    shown.close()


def test_plain_prints_a_line_every_ten_seconds_and_the_last(monkeypatch, capsys):
    run(monkeypatch, "plain", seconds=(1, 9, 11, 15, 22, 23), steps=6)
    assert capsys.readouterr().out.splitlines() == [
        "training: 3/6, loss 11, 11 s",
        "training: 5/6, loss 22, 22 s",
        "training: 6/6, loss 23, 23 s",
    ]


def test_plain_goes_on_counting_after_a_resume(monkeypatch, capsys):
    run(monkeypatch, "plain", seconds=(1, 2), steps=5, done=3)
    assert capsys.readouterr().out == "training: 5/5, loss 2, 2 s\n"


def test_off_prints_nothing(monkeypatch, capsys):
    run(monkeypatch, "off", seconds=(1, 60, 120))
    assert capsys.readouterr() == ("", "")


def test_bar_writes_to_stderr_only(monkeypatch, capsys):
    run(monkeypatch, "bar", seconds=(1, 60, 120))
    said = capsys.readouterr()
    assert said.out == ""
    assert "training" in said.err


def test_bar_in_a_notebook_counts_and_leaves_nothing(monkeypatch):
    """In IPython without a kernel its updates would be printed; here they are kept."""
    shown = []

    class Output:
        def update(self, data, raw):
            shown.append(data["text/html"])

    def display(data, raw, display_id):
        Output().update(data, raw)
        return Output()

    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    run(monkeypatch, "bar", seconds=(1, 1.05, 3))  # the second comes too soon
    assert [html.count('value="') for html in shown] == [1, 1, 1, 0]
    assert 'max="3" value="0"' in shown[0]
    assert 'value="1"></progress> training: 1/3 loss 1<' in shown[1]
    assert 'value="3"' in shown[2]
    assert shown[3] == ""


def test_a_kernel_is_told_from_other_processes(monkeypatch):
    import IPython

    assert not progress._in_notebook()
    shell = type("Shell", (), {"kernel": None})()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    assert progress._in_notebook()
    monkeypatch.delenv("SBTUTOR_PROGRESS", raising=False)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    assert progress._mode() == "bar"


def test_auto_is_plain_in_a_log(monkeypatch):
    monkeypatch.delenv("SBTUTOR_PROGRESS", raising=False)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    assert progress._mode() == "plain"
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    assert progress._mode() == "bar"


def test_an_unknown_mode_is_refused(monkeypatch):
    monkeypatch.setenv("SBTUTOR_PROGRESS", "loud")
    with pytest.raises(ValueError, match=r"SBTUTOR_PROGRESS='loud'.*bar, plain, off"):
        Progress("training", 3)
