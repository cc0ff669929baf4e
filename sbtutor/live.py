"""Train a small ensemble in a thread: to be watched, paused and stopped meanwhile."""

import atexit
import dataclasses
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator

from sbtutor import data, diversity, metrics, sharpness, train
from sbtutor.batches import Batch, Batches
from sbtutor.config import Experiment
from sbtutor.epochs import draws, train_epoch
from sbtutor.predict import predict
from sbtutor.state import device_of, fresh

RHO = 0.1  # radius of `sam_rise`, the same for all methods so that they compare
IMAGES = 200  # training images that it is measured on


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch came to; accuracies and DER are of the validation images."""

    number: int  # epochs done
    loss: tuple[float, ...]  # mean over the epoch's steps, of each member
    member_accuracy: tuple[float, ...]
    accuracy: float
    der: float
    sam_rise: float  # mean over the members, on IMAGES training images


class _Stopped(Exception):
    """Ends the thread from within."""


class _Gated(Batches):
    """Batches that wait while training is paused."""

    gate: Callable[[], None]

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for batch in super().epoch(epoch):
            self.gate()
            yield batch


class Training:
    """An ensemble in training, in a thread of its own; nothing is written to disk.

    The numbers are those of `train.fit`, and pauses do not change them. The global
    random state is neither used nor changed by the thread.

    Attributes:
        experiment: what is trained.
        history: an `Epoch` for each epoch done.
        error: the traceback of what ended the thread, or "".
    """

    def __init__(
        self,
        experiment: Experiment,
        splits: data.Splits,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Build the members; nothing is trained before `start`.

        Args:
            experiment: of two or more members, without dropout.
            splits: trained on `train`, measured on `val`.
            changed: called in the thread, after each epoch and at the end.

        Raises:
            ValueError: one member; a network with dropout.
        """
        config = dataclasses.replace(experiment.train, compile=False)
        if config.members < 2:
            raise ValueError(
                "DER compares members, so there must be two or more to watch, got "
                f"members={config.members}; write members=3"
            )
        self.experiment = dataclasses.replace(experiment, train=config)
        self.history: list[Epoch] = []
        self.error = ""
        shape, classes = splits.train.images.shape[1:], len(splits.train.classes)
        self._state = fresh(
            self.experiment, {"in_shape": list(shape), "classes": classes}
        )
        if draws(self._state.members[0]):
            raise ValueError(
                f"{experiment.model.name} has dropout, which draws from the global "
                "random state, and cells use it meanwhile; choose a network without"
            )
        statistics = data.channel_statistics(splits.train.images)
        for member in self._state.members:
            member.normalize.set(*statistics)
        self._splits, self.changed = splits, changed
        self._go, self._end = threading.Event(), threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def status(self) -> str:
        """One of ready, running, paused, finished, stopped, failed."""
        if self.error:
            return "failed"
        if self._done:
            whole = len(self.history) == self.experiment.train.epochs
            return "finished" if whole else "stopped"
        if self._thread.ident is None:
            return "ready"
        return "running" if self._go.is_set() else "paused"

    def start(self) -> None:
        """Begin, once.

        Raises:
            ValueError: it has been started before.
        """
        if self._thread.ident is not None:
            raise ValueError(
                f"this training is {self.status} and cannot start twice; resume() goes "
                "on after a pause, a new Training begins anew"
            )
        _ALIVE.add(self)
        self._go.set()
        self._thread.start()

    def pause(self) -> None:
        """Wait before the next batch."""
        self._go.clear()

    def resume(self) -> None:
        """Go on after a pause."""
        self._go.set()

    def stop(self) -> None:
        """End the thread before its next batch, for good."""
        self._end.set()
        self._go.set()

    def join(self, timeout: int | float | None = None) -> bool:
        """Wait for the thread's end, at most `timeout` seconds; whether it came."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _gate(self) -> None:
        self._go.wait()
        if self._end.is_set():
            raise _Stopped

    def _run(self) -> None:
        try:
            self._train()
        except _Stopped:
            pass
        except Exception:
            self.error = traceback.format_exc()
        self._done = True
        self.changed()

    def _train(self) -> None:
        config, state = self.experiment.train, self._state
        device = device_of(config)
        batches = _Gated(self._splits.train, config, device)
        batches.gate = self._gate
        while state.epoch < config.epochs:
            if state.epoch == config.warmup_epochs:
                train.branch(state, config, self._splits.train, device)
            train_epoch(state, batches, config)
            epoch = self._measure()
            self._gate()  # what was paused or stopped meanwhile shows no more epochs
            self.history.append(epoch)
            if state.epoch < config.epochs:  # the end is told by `_run`
                self.changed()

    def _measure(self) -> Epoch:
        state, splits = self._state, self._splits
        last = state.history[-len(state.members) :]
        seen = predict(state.members, splits.val)
        probs = seen.logits.softmax(-1)
        each = [float(metrics.accuracy(p, seen.labels)) for p in probs]
        few = data.subset(splits.train, min(IMAGES, len(splits.train.labels)), seed=0)
        rises = sharpness.of_members(
            lambda loss, w: sharpness.sam_sharpness(loss, w, RHO),
            state.members,
            data.to_float(few.images),
            few.labels,
        )
        return Epoch(
            number=state.epoch,
            loss=tuple(row["loss"] for row in last),
            member_accuracy=tuple(each),
            accuracy=float(metrics.accuracy(probs.mean(0), seen.labels)),
            der=float(diversity.disagreement_error_ratio(seen.logits, seen.labels)),
            sam_rise=float(rises.mean()),
        )


_ALIVE: "weakref.WeakSet[Training]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """A thread that is inside torch when Python ends would abort the process."""
    for training in list(_ALIVE):
        training.stop()
        training.join(10)
