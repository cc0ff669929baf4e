"""The live trainer: `fit`'s numbers, pauses that change nothing, ends that are ends."""

import dataclasses
import threading
import time

import pytest
import torch

from sbtutor import (
    config,
    data,
    diversity,
    explore,
    explore_live,
    live,
    live_figure,
    metrics,
    predict,
    sharpness,
    train,
    widgets,
)

LONG = 60  # seconds, after which something hangs


def small(**settings):
    """Two small members on 60 images, three epochs."""
    base = config.preset("smoke")
    given = dict(members=2, epochs=3, milestones=(2,), warmup_epochs=1, device="cpu")
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, limit=60),
        model=dataclasses.replace(base.model, width=4),
        train=dataclasses.replace(base.train, **given | settings),
    )


@pytest.fixture(scope="module")
def splits():
    found = data.load(small().data)
    return found._replace(val=data.subset(found.val, 50, seed=0))


@pytest.fixture
def started(splits):
    """Start a training; whatever happens, its thread ends with the test."""
    made = []

    def start(changed=lambda: None, **settings):
        made.append(live.Training(small(**settings), splits, changed))
        made[-1].start()
        return made[-1]

    yield start
    for training in made:
        training.stop()
        assert training.join(LONG)


@pytest.fixture
def trainer():
    """A trainer whose threads end with the test."""
    made = []

    def make(**settings):
        made.append(widgets.trainer(small(**settings)))
        return made[-1]

    yield make
    for box in made:
        if box.training is not None:
            box.training.stop()
            assert box.training.join(LONG)


def until(true):
    """Wait until something is so."""
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.01)


class Turnstile:
    """Lets a thread go on from one `changed` to the next only when told to."""

    def __init__(self):
        self.reached, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self):
        self.reached.release()
        assert self.open.acquire(timeout=LONG)


@pytest.mark.parametrize("method", ["sgd", "sam", "sharpbalance"])
def test_the_numbers_are_those_of_fit(method, started, splits, tmp_path, quiet):
    training = started(method=method)
    assert training.join(LONG)
    assert training.status == "finished"
    run = train.fit(small(method=method), tmp_path / "run")
    for epoch, rows in run.history.groupby("epoch"):
        assert training.history[epoch].loss == tuple(rows["loss"])
    ours, theirs = training._state.params, train.load_run(run.out).members
    for name, tensor in ours.items():
        for m, member in enumerate(theirs):
            assert torch.equal(tensor[m], member.get_parameter(name))


def test_an_epoch_is_measured_on_validation_images(started, splits):
    training = started(epochs=1, milestones=(), warmup_epochs=0)
    assert training.join(LONG)
    (epoch,) = training.history
    members = training._state.members
    seen = predict.predict(members, splits.val)
    der = diversity.disagreement_error_ratio(seen.logits, seen.labels)
    probs = seen.logits.softmax(-1)
    assert epoch.number == 1
    assert epoch.der == pytest.approx(float(der))
    assert epoch.accuracy == pytest.approx(
        float(metrics.accuracy(metrics.ensemble_probs(seen.logits), seen.labels))
    )
    assert epoch.member_accuracy == pytest.approx(
        [float(metrics.accuracy(p, seen.labels)) for p in probs]
    )
    images, labels = data.to_float(splits.train.images), splits.train.labels
    rises = sharpness.of_members(
        lambda loss, w: sharpness.sam_sharpness(loss, w, live.RHO),
        members,
        images,
        labels,
    )
    assert epoch.sam_rise == pytest.approx(float(rises.mean()), rel=1e-4)


def test_no_epoch_passes_while_paused_and_a_pause_changes_nothing(started):
    unbroken = started()
    assert unbroken.join(LONG)
    gate = Turnstile()
    training = started(gate)
    assert gate.reached.acquire(timeout=LONG)
    at_gate, passed = threading.Event(), threading.Event()
    real = training._go.wait

    def watched():
        at_gate.set()
        real()
        passed.set()

    training._go.wait = watched
    training.pause()
    gate.open.release()
    assert training.status == "paused"
    assert at_gate.wait(LONG)
    assert not passed.wait(0.5), "a batch passed"
    assert len(training.history) == 1
    training.resume()
    assert training.status == "running"
    for _ in range(2):
        assert gate.reached.acquire(timeout=LONG)
        gate.open.release()
    assert training.join(LONG)
    assert training.history == unbroken.history


def test_stop_ends_the_thread_in_the_middle_or_in_a_pause(started):
    for pause in (False, True):
        training = started(epochs=10_000)
        until(lambda training=training: training.history)
        if pause:
            training.pause()
        training.stop()
        assert training.join(LONG)
        assert training.status == "stopped"
        assert 0 < len(training.history) < 10_000


def test_an_error_is_kept_and_told(started, monkeypatch):
    def broken(*_):
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(live, "train_epoch", broken)
    told = []
    training = started(lambda: told.append(threading.current_thread()))
    assert training.join(LONG)
    assert training.status == "failed"
    assert "FloatingPointError: the loss is nan" in training.error
    assert told == [training._thread]


def test_it_starts_once(started):
    training = started()
    with pytest.raises(ValueError, match="cannot start twice; resume"):
        training.start()


def test_one_member_and_dropout_are_refused(splits):
    with pytest.raises(ValueError, match=r"DER compares members.*got members=1"):
        live.Training(small(members=1), splits)
    net = dataclasses.replace(small().model, dropout=0.1)
    with pytest.raises(ValueError, match="has dropout, which draws from the global"):
        live.Training(dataclasses.replace(small(), model=net), splits)


def test_the_thread_leaves_the_global_random_state_alone(started):
    """Cells that draw meanwhile get what they would have got."""
    torch.manual_seed(3)
    expected = torch.rand(2000)
    torch.manual_seed(3)
    training = started(method="sharpbalance", epochs=4)
    drawn = []
    while not training.join(0) and len(drawn) < 1000:
        drawn.append(torch.rand(2))
        time.sleep(0.002)
    assert training.join(LONG)
    assert len(drawn) > 5
    assert torch.equal(torch.cat(drawn), expected[: 2 * len(drawn)])


def test_the_main_thread_goes_on_meanwhile(started):
    gate = Turnstile()
    training = started(gate)  # held at its first epoch: start() has come back
    assert gate.reached.acquire(timeout=LONG)
    assert training.status == "running"
    assert training._thread.daemon
    for _ in range(3):
        gate.open.release()


def test_at_the_kernels_end_all_threads_are_stopped(started):
    training = started(epochs=10_000)
    live._stop_all()
    assert training.join(0)


def title(box):
    return box.output.outputs[0]["data"][explore.PLOTLY]["layout"]["title"]["text"]


def test_nothing_trains_before_start(trainer):
    threads = threading.active_count()
    box = trainer()
    assert box.training is None
    assert threading.active_count() == threads
    assert title(box).startswith("Press Start")
    assert box.buttons["pause"].disabled
    assert box.buttons["stop"].disabled


def test_the_figure_shows_the_history(trainer):
    box = trainer(method="sam")
    box.buttons["start"].click()
    assert box.training.join(LONG)
    history, figure = box.training.history, box.picture()
    assert title(box) == "SAM 0.1, 2 members, seed 0: finished, 3 of 3 epochs"
    first = [trace for trace in figure.data if trace.name == "member 1"]
    assert first[0].y == pytest.approx([e.loss[0] for e in history], abs=1e-4)
    assert first[1].y == pytest.approx([e.member_accuracy[0] for e in history])
    (way,) = (trace for trace in figure.data if trace.name == "now")
    assert way.x == pytest.approx([e.sam_rise for e in history], abs=1e-5)
    assert way.y == pytest.approx([e.der for e in history], abs=1e-4)
    assert f"DER {history[-1].der:.3g}" in figure.layout.meta["alt"]


def test_pause_resume_and_stop_by_their_buttons(trainer):
    box = trainer(epochs=10_000)
    start, pause, stop = box.buttons.values()
    start.click()
    until(lambda: box.training.history)
    pause.click()
    assert (pause.description, box.training.status) == ("Resume", "paused")
    assert "paused" in title(box)
    done = len(box.training.history)
    pause.click()
    assert pause.description == "Pause"
    until(lambda: len(box.training.history) > done)
    stop.click()
    assert box.training.join(0)
    assert "stopped" in title(box)
    assert pause.disabled
    assert stop.disabled


def test_a_figure_of_the_thread_that_is_late_does_not_stay(trainer, monkeypatch):
    box, put = trainer(epochs=10_000), explore.put
    late, drawn = threading.Event(), threading.Event()

    def slow(output, figure):
        if threading.current_thread() is threading.main_thread():
            put(output, figure)
            return
        late.set()
        until(lambda: box.training.status != "running")
        time.sleep(0.2)  # in which the main thread draws, if it may
        put(output, figure)
        drawn.set()

    monkeypatch.setattr(explore, "put", slow)
    box.buttons["start"].click()
    assert late.wait(LONG)
    box.buttons["pause"].click()
    assert drawn.wait(LONG)
    assert "paused" in title(box)


def test_start_after_stop_begins_anew_and_keeps_the_old_point(trainer):
    box = trainer(epochs=10_000)
    box.buttons["start"].click()
    until(lambda: box.training.history)
    box.buttons["stop"].click()
    old = box.training
    box.controls["method"].value, box.controls["seed"].value = "sam", 7
    box.buttons["start"].click()
    assert box.training is not old
    assert box.training.experiment.train.seed == 7
    last = old.history[-1]
    point = live_figure.Point("deep ensemble, 2 members", last.sam_rise, last.der)
    assert box.earlier == [point]
    (grey,) = (trace for trace in box.picture().data if trace.name == "earlier")
    assert (grey.x[0], grey.y[0]) == pytest.approx((point.sam_rise, point.der), 1e-3)


def test_start_while_it_runs_ends_the_one_before(trainer):
    box = trainer(epochs=10_000)
    box.buttons["start"].click()
    old = box.training
    box.buttons["start"].click()
    assert old.join(LONG)
    assert old.status == "stopped"
    assert box.training.status == "running"


def test_two_trainers_do_not_disturb_each_other(trainer):
    boxes = [trainer(), trainer(seed=5)]
    alone = trainer()
    alone.buttons["start"].click()
    assert alone.training.join(LONG)
    for box in boxes:
        box.buttons["start"].click()
    for box in boxes:
        assert box.training.join(LONG)
    assert boxes[0].training.history == alone.training.history
    assert boxes[1].training.history != alone.training.history


def test_an_error_is_shown_in_the_figures_place(trainer, monkeypatch):
    def broken(*_):
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(live, "train_epoch", broken)
    box = trainer()
    box.buttons["start"].click()
    assert box.training.join(LONG)
    assert "the loss is nan" in box.output.outputs[0]["text"]


def test_settings_that_cannot_be_are_told_in_the_figures_place(trainer):
    box = trainer(warmup_epochs=3)
    box.controls["method"].value = "sharpbalance"
    box.buttons["start"].click()
    assert "write 0 <= warmup_epochs < epochs" in box.output.outputs[0]["text"]
    assert box.training is None
    box.controls["method"].value = "sgd"
    box.buttons["start"].click()
    assert box.training.join(LONG)
    assert "finished" in title(box)


def test_rho_is_grey_where_it_has_no_effect(trainer):
    box = trainer(method="sgd")
    assert box.controls["rho"].disabled
    box.controls["method"].value = "sam"
    assert not box.controls["rho"].disabled


def test_drawings_are_some_way_apart(trainer, monkeypatch):
    """Of twenty epochs in a moment only the start and the end are drawn."""
    monkeypatch.setattr(explore_live, "APART", 1000.0)
    box, seen = trainer(epochs=20), []
    box.output.observe(lambda change: seen.append(change), "outputs")
    box.buttons["start"].click()
    assert box.training.join(LONG)
    assert len(box.training.history) == 20
    assert len(seen) == 2
    assert "finished, 20 of 20" in title(box)
