"""What every lesson does first: where it runs, at which size, with which seed."""

import dataclasses
import os
from pathlib import Path

import torch

from sbtutor import config, journal, lab, results, train
from sbtutor.config import Experiment


@dataclasses.dataclass(frozen=True)
class Session:
    """A lesson's base experiment, and the folder in which its runs are kept."""

    base: Experiment
    runs: Path
    lesson: str = ""

    def vary(self, **settings: object) -> Experiment:
        """The base experiment with other training settings."""
        changed = dataclasses.replace(self.base.train, **settings)
        return dataclasses.replace(self.base, train=changed)

    def fit(self, **settings: object) -> train.Run:
        """Train such an ensemble, or load it if an earlier session has trained it.

        SAM and SharpBalance runs share their first T_d epochs.
        """
        experiment = self.vary(**settings)
        folder = results.run_folder(self.runs, experiment)
        return train.fit(experiment, folder, trunks=self.runs / "trunks")

    def guess(self, question: str, value: object) -> None:
        """Keep what the learner expects, before it is measured."""
        journal.guess(self.lesson, question, value)

    def compare(self, question: str, measured: object) -> None:
        """Print the guess beside what was measured, and keep both."""
        guessed = journal.compare(self.lesson, question, measured)
        before = "no guess" if guessed in (None, "") else f"your guess: {guessed}"
        print(f"{question}: {before}; measured: {measured}")


def start(lesson: str, preset: str, seed: int) -> Session:
    """Choose the preset, keep runs under `$SBTUTOR_RUNS` (default ../runs).

    Safe to run twice. Prints device, preset and seed in one line.

    Args:
        lesson: the lesson's number, for its folder.
        preset: smoke, class or paper.
        seed: seed of the first member.

    Raises:
        ValueError: unknown preset.
    """
    base = config.preset(preset)
    base = dataclasses.replace(base, train=dataclasses.replace(base.train, seed=seed))
    runs = Path(os.environ.get("SBTUTOR_RUNS", "../runs")) / "lessons" / preset / lesson
    lab.set_up()
    device = "GPU" if torch.cuda.is_available() else "CPU"
    print(
        f"lesson {lesson} on {device}: preset {preset} ({base.data.name}, "
        f"{base.model.name}, {base.train.epochs} epochs), seed {seed}"
    )
    return Session(base, runs, lesson)
