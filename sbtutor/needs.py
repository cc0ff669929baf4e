"""What an experiment needs, looked at before it starts: images, a device, a network."""

import functools
from pathlib import Path
from typing import NamedTuple

from sbtutor import cache, cost, data
from sbtutor.config import DataConfig, Experiment
from sbtutor.state import device_of


class Images(NamedTuple):
    """What a data set's images are."""

    in_shape: tuple[int, int, int]  # C, H, W
    classes: tuple[str, ...]


def images(config: DataConfig) -> Images:
    """What `data.load` gives; the set is loaded once in a process.

    Raises:
        ValueError: as `data.load`.
    """
    return _images(config, cache.root(config.root))


@functools.cache
def _images(config: DataConfig, root: Path) -> Images:
    test = data.load(config).test
    return Images(tuple(test.images.shape[1:]), test.classes)


def check(experiment: Experiment) -> Images:
    """See that the images load, fit the network, and the device is there.

    Raises:
        ValueError: as `data.load`, `models.build` and `state.device_of`.
    """
    device_of(experiment.train)
    found = images(experiment.data)
    # Builds the network, once for the runs of a sweep, and for their costs.
    cost.model_flops(experiment.model, found.in_shape, len(found.classes))
    return found
