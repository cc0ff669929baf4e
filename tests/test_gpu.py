"""The GPU's path, as far as it can be tried without one."""

import contextlib
import re

import pytest
import torch
from torch import nn

from sbtutor import data, epochs, gpu, results
from sbtutor.batches import Batches
from sbtutor.config import Experiment, ModelConfig, TrainConfig, preset
from sbtutor.state import fresh

CPU, CUDA, META = (torch.device(name) for name in ("cpu", "cuda", "meta"))
METHODS = ("sgd", "sam", "sharpbalance")


def split(samples=60):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 1, 8, 8), generator=generator)
    labels = torch.randint(3, (samples,), generator=generator)
    return data.Split(images.to(torch.uint8), labels, tuple("abc"))


def start(method="sgd", device=CPU, name="small_cnn", **settings):
    """A state, its batches and config; SharpBalance has its split already."""
    settings = {"members": 3, "batch_size": 10, "lr": 0.01, "epochs": 9} | settings
    config = TrainConfig(method=method, device=str(device), warmup_epochs=0, **settings)
    model = ModelConfig(name=name, width=4)
    about = {"in_shape": [1, 8, 8], "classes": 3}
    state = fresh(Experiment(model=model, train=config), about)
    if method == "sharpbalance":
        generator = torch.Generator().manual_seed(1)
        state.sam_masks = torch.rand(3, 60, generator=generator) < 0.6
    return state, Batches(split(), config, device), config


def trained(method):
    state, batches, config = start(method)
    epochs.train_epoch(state, batches, config)
    return state


def test_runs_keep_their_folders():
    """As before members could be side by side: what was trained is found again."""
    names = [results.run_folder("", preset(p)).name for p in ("class", "paper")]
    assert names == ["sgd-seed0-d90226aca3", "sgd-seed0-c0b27ca3d3"]


@pytest.mark.parametrize("method", METHODS)
def test_side_by_side_changes_nothing_on_a_cpu(method, monkeypatch):
    one = trained(method)
    monkeypatch.setenv(gpu.SIDE_BY_SIDE, "on")
    other = trained(method)
    assert one.history == other.history
    for name, tensor in one.params.items():
        assert torch.equal(tensor, other.params[name])


def test_side_by_side_is_on_or_off(monkeypatch):
    assert not gpu.side_by_side()
    monkeypatch.setenv(gpu.SIDE_BY_SIDE, "yes")
    message = "$SBTUTOR_SIDE_BY_SIDE must be on or off, got 'yes'"
    with pytest.raises(ValueError, match=re.escape(message)):
        gpu.side_by_side()


class Stream:
    """Writes down who waits for whom, and who works."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def streams(monkeypatch):
    """The log of a main stream and two others that stand in for CUDA's."""
    log = []
    main, *others = (Stream(name, log) for name in ("main", "0", "1"))

    @contextlib.contextmanager
    def entered(stream):
        log.append(f"{stream.name} begins")
        yield

    monkeypatch.setenv(gpu.SIDE_BY_SIDE, "on")
    monkeypatch.setattr(gpu, "_streams", lambda members, device: others[:members])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    return log


BEFORE = ["0 waits for main", "1 waits for main"]
AFTER = ["main waits for 0", "main waits for 1"]


def test_streams_begin_after_the_main_one_and_are_waited_for(streams):
    with gpu.lanes(2, CUDA) as lanes:
        for lane in lanes:
            with lane:
                streams.append("work")
    work = ["0 begins", "work", "1 begins", "work"]
    assert streams == [*BEFORE, *work, *AFTER]


def test_streams_are_waited_for_after_an_error_too(streams):
    with pytest.raises(KeyError), gpu.lanes(2, CUDA):
        raise KeyError
    assert streams == [*BEFORE, *AFTER]


@pytest.mark.parametrize(("members", "device"), [(1, CUDA), (2, CPU)])
def test_one_member_or_a_cpu_needs_no_streams(streams, members, device):
    with gpu.lanes(members, device) as lanes:
        assert len(lanes) == members
    assert streams == []


def test_a_step_of_each_member_is_in_its_lane_and_the_update_after_all(
    streams, monkeypatch
):
    """The order is the real step's; only the device is told to be another."""
    state, batches, config = start(members=2)
    real, step = gpu.lanes, state.optimizer.step
    monkeypatch.setattr(gpu, "lanes", lambda members, device: real(members, CUDA))
    monkeypatch.setattr(
        state.optimizer, "step", lambda: (streams.append("update"), step())
    )
    masks = torch.zeros(2, 60).bool()
    epochs.train_step(state, next(batches.epoch(0)), masks, config, 0)
    assert streams == [*BEFORE, "0 begins", "1 begins", *AFTER, "update"]


def test_switches_of_a_gpu_are_put_back():
    def now():
        cudnn = torch.backends.cudnn
        return torch.get_float32_matmul_precision(), cudnn.benchmark

    before = now()
    for one_size in (True, False):
        with gpu.settings(CUDA, one_size):
            assert now() == ("high", one_size)
        assert now() == before
    with gpu.settings(CPU, one_size=True):
        assert now() == before


@pytest.mark.parametrize("method", METHODS)
def test_only_sub_batches_have_many_sizes(method, monkeypatch):
    asked = []

    def settings(device, one_size):
        asked.append(one_size)
        return contextlib.nullcontext()

    monkeypatch.setattr(gpu, "settings", settings)
    trained(method)
    assert asked == [method != "sharpbalance"]


@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_gpu(method, monkeypatch):
    """On the device "meta" tensors have no values: to ask for one is an error."""
    nothing = contextlib.nullcontext()  # autocast does not know this device
    monkeypatch.setattr(torch, "autocast", lambda *given: nothing)
    state, batches, config = start(method, META, crop=1, flip=True)
    masks = state.sam_masks
    if masks is None:
        masks = torch.full((3, 60), method == "sam")
    for step, batch in enumerate(batches.epoch(0)):
        losses = epochs.train_step(state, batch, masks, config, step)
    assert losses.device == META
    with pytest.raises(RuntimeError, match="meta"):
        losses[0].item()


def test_the_losses_are_looked_at_now_and_then_and_the_first_bad_one_named(monkeypatch):
    state, batches, config = start(batch_size=5)
    steps = []

    def step(state, batch, masks, config, step):
        steps.append(step)
        return torch.tensor([1.0, torch.nan if step >= 4 else 1.0, torch.inf * step])

    monkeypatch.setattr(epochs, "train_step", step)
    monkeypatch.setattr(epochs, "LOOK_EVERY", 3)
    message = "loss of member 2 is nan at epoch 0, step 0"  # inf * 0
    with pytest.raises(FloatingPointError, match=message):
        epochs.train_epoch(state, batches, config)
    assert steps == [0, 1, 2]


@pytest.fixture
def variants(monkeypatch):
    """The graphs that compiled members were traced to, one a variant."""
    graphs, compiled = [], nn.Module.compile

    def backend(graph, given):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(nn.Module, "compile", lambda m: compiled(m, backend=backend))
    yield graphs
    torch.compiler.reset()


def test_sharpbalance_compiles_no_more_after_its_first_epoch(variants):
    """Its sub-batches have many sizes; PyTorch keeps 8 variants at most."""
    state, batches, config = start("sharpbalance", compile=True)
    epochs.train_epoch(state, batches, config)
    first = len(variants)
    for _ in range(2):
        epochs.train_epoch(state, batches, config)
    assert 2 <= first <= torch._dynamo.config.recompile_limit
    assert len(variants) == first


def test_a_second_run_in_a_process_is_compiled_as_the_first(variants):
    """PyTorch's store of variants is one for all; a full one means no compilation."""
    found = []
    for _ in range(3):
        state, batches, config = start("sharpbalance", compile=True)
        epochs.train_epoch(state, batches, config)
        found.append(len(variants))
    assert found == [found[0], 2 * found[0], 3 * found[0]]
    assert found[2] > torch._dynamo.config.recompile_limit


def test_compiled_members_are_the_same_members(variants):
    """The gradient of a graph that runs as it was traced is the uncompiled one."""
    one = trained("sharpbalance")
    state, batches, config = start("sharpbalance", compile=True)
    epochs.train_epoch(state, batches, config)
    assert variants
    for name, tensor in one.params.items():
        torch.testing.assert_close(tensor, state.params[name], rtol=1e-4, atol=1e-5)
