"""Cycles are plain training from a start, kept on disk, the same however they run."""

import copy
import dataclasses
import errno
import math
import os
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sbtutor import cycles, data, files, models
from sbtutor.batches import Batches
from sbtutor.config import DataConfig, ModelConfig, TrainConfig
from sbtutor.cycles import Task, train_cycle
from sbtutor.descent import train_epoch
from sbtutor.recipe import Recipe

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=2, batch_size=20, lr=0.05, weight_decay=0.01, schedule="cosine", device="cpu"
)


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def split():
    return data.load(DataConfig(name="digits", limit=60)).train


def network(name="mlp", norm="batch", seed=0, dropout=0.0):
    config = ModelConfig(name=name, width=3, norm=norm, dropout=dropout)
    return models.build(config, (1, 8, 8), 10, seed)


def vary(**settings):
    return dataclasses.replace(CONFIG, **settings)


def state(model):
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def alike(a, b):
    """Bit for bit."""
    a, b = (x if isinstance(x, dict) else x.state_dict() for x in (a, b))
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())


def all_alike(found, expected):
    return all(alike(a, b) for a, b in zip(found, expected, strict=True))


def cosine(config, epoch):
    return config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


def smoothed(logits, labels, s):
    """-1/B sum_b sum_c q log p, with q = 1 - s + s / C for the label, s / C else."""
    q = torch.full_like(logits, s / logits.shape[1])
    q[torch.arange(len(labels)), labels] += 1 - s
    return -(q * logits.log_softmax(1)).sum(1).mean()


def by_hand(model, split, config, count, smoothing=0.0, clip=math.inf, forget=True):
    """Cycles of SGD with momentum, written out; the losses of each batch too.

    v <- momentum v + g + decay w,   w <- w - lr v
    """
    params, losses, lengths = list(model.parameters()), [], []
    speed = [torch.zeros_like(p) for p in params]
    for c in range(count):
        batches = Batches(split, dataclasses.replace(config, seed=c, members=1), CPU)
        if forget:
            speed = [torch.zeros_like(p) for p in params]
        for epoch in range(config.epochs):
            for batch in batches.epoch(epoch):
                images, labels = batch.images[0].double(), batch.labels[0]
                loss = smoothed(model(images), labels, smoothing)
                slopes = torch.autograd.grad(loss, params)
                lengths.append(sum(g.square().sum() for g in slopes).sqrt())
                shorter = min(1, clip / lengths[-1])
                with torch.no_grad():
                    for i, p in enumerate(params):
                        step = shorter * slopes[i] + config.weight_decay * p
                        speed[i] = config.momentum * speed[i] + step
                        p -= cosine(config, epoch) * speed[i]
                losses.append(loss.detach())
    return torch.stack(losses), torch.stack(lengths)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_cycles_are_a_plain_loop_whose_momentum_starts_empty(split, norm):
    """In float64; the same loop with a momentum that lasts ends somewhere else."""
    start = network("small_cnn", norm).double()
    (found,) = cycles.train([Task(start, CONFIG, 2)], split)
    ours, lasting = (copy.deepcopy(start).train() for _ in range(2))
    losses, _ = by_hand(ours, split, CONFIG, 2)
    by_hand(lasting, split, CONFIG, 2, forget=False)
    for name, tensor in found.networks[1].state_dict().items():
        torch.testing.assert_close(
            tensor, ours.state_dict()[name], rtol=1e-9, atol=1e-12
        )
    gap = (found.networks[1].head.weight - lasting.head.weight).abs().max()
    assert gap > 1e-4
    means = losses.view(4, -1).mean(1)  # of each epoch's three batches
    assert found.history.loss.tolist() == pytest.approx(means.tolist(), rel=1e-9)


def test_smoothing_and_clipping_are_the_recipes(split):
    """Some gradients are longer than the clip, and some are not."""
    start, how = network().double(), Recipe(label_smoothing=0.2, clip_norm=0.28)
    config = vary(lr=0.3, epochs=4)
    ours = copy.deepcopy(start)
    _, lengths = by_hand(ours, split, config, 1, 0.2, 0.28)
    assert lengths.min() < 0.28 < lengths.max()
    found, _ = train_cycle(start, split, config, how)
    for a, b in zip(found.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # PyTorch adds 1e-6


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adams_memory_starts_empty_too(split, kind):
    start, config = network().double(), vary(optimizer=kind, lr=0.01, momentum=0.8)
    (found,) = cycles.train([Task(start, config, 2)], split)
    ours = copy.deepcopy(start)
    for c in range(2):
        stock = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
        step = stock(ours.parameters(), betas=(0.8, 0.999), weight_decay=0.01)
        batches = Batches(split, dataclasses.replace(config, seed=c, members=1), CPU)
        for epoch in range(2):
            step.param_groups[0]["lr"] = cosine(config, epoch)
            for batch in batches.epoch(epoch):
                step.zero_grad()
                F.cross_entropy(
                    ours(batch.images[0].double()), batch.labels[0]
                ).backward()
                step.step()
    for a, b in zip(found.networks[1].parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_an_epoch_shows_the_network_what_change_makes_of_images_and_labels(split):
    """Brighter images, and labels shared between two classes; no step is taken."""
    seen = []

    def change(images, labels):
        seen.append(labels)
        other = (labels + 1) % 10
        return images + 1, (F.one_hot(labels, 10) + 3 * F.one_hot(other, 10)) / 4

    model = network()
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = Batches(split, vary(members=1), CPU)
    found = train_epoch(model, still, batches, 3, change=change)
    losses = []
    for batch, labels in zip(batches.epoch(3), seen, strict=True):
        assert torch.equal(batch.labels[0], labels)
        log_p = model(batch.images[0] + 1).log_softmax(1)
        own = log_p.gather(1, labels[:, None]).mean()
        other = log_p.gather(1, (labels[:, None] + 1) % 10).mean()
        losses.append(-(own + 3 * other) / 4)
    torch.testing.assert_close(found, torch.stack(losses).mean().detach())


def test_a_network_without_a_scaling_layer_takes_images_in_its_own_precision(split):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    double, _ = train_cycle(copy.deepcopy(net).double(), split, CONFIG)
    single, _ = train_cycle(net, split, CONFIG)
    assert double[1].weight.dtype == torch.float64
    torch.testing.assert_close(double[1].weight.float(), single[1].weight)


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_each_cycle_starts_where_the_one_before_ended(split, trained, name):
    """Bit for bit, with the statistics of BatchNorm, and with seed + cycle."""
    start = network(name)
    (found,) = cycles.train([Task(start, vary(seed=5), 3)], split)
    starts, configs = zip(*trained)
    assert all_alike(starts, [start, *found.networks[:2]])
    assert [config.seed for config in configs] == [5, 6, 7]
    model = start
    for c, end in enumerate(found.networks):
        model, _ = train_cycle(model, split, vary(seed=5 + c))
        assert alike(end, model)
    assert not alike(found.networks[0], found.networks[1])


def test_statistics_and_scaling_come_along_with_the_start(split):
    start = network("small_cnn")
    start.normalize.set(torch.tensor([0.3]), torch.tensor([0.4]))
    start.norm1.num_batches_tracked += 7
    found, _ = train_cycle(start, split, CONFIG)
    assert torch.equal(found.normalize.mean, start.normalize.mean)
    assert torch.equal(found.normalize.std, start.normalize.std)
    assert found.norm1.num_batches_tracked == 7 + 2 * 3  # epochs of three batches
    shifted = copy.deepcopy(start)
    shifted.norm1.running_mean += 1
    other, _ = train_cycle(shifted, split, CONFIG)
    gap = other.norm1.running_mean - found.norm1.running_mean
    torch.testing.assert_close(gap, torch.full_like(gap, 0.9**6))  # momentum 0.1


@pytest.mark.parametrize("schedule", ["cosine", "multistep"])
def test_history_tells_the_learning_rate_of_every_epoch(split, schedule):
    config = vary(epochs=5, schedule=schedule, milestones=(2, 4), lr_decay=0.2)
    how = Recipe(warmup_epochs=2, warmup_lr=0.01)
    (found,) = cycles.train([Task(network(), config, 2, how)], split)
    late = {
        "cosine": [0.05, 0.05 * 0.75, 0.05 * 0.25],
        "multistep": [0.05 * 0.2, 0.05 * 0.2, 0.05 * 0.2**2],
    }
    expected = [0.01, 0.03, *late[schedule]] * 2  # from 0.01 to 0.05 in two epochs
    assert found.history.lr.tolist() == pytest.approx(expected)
    assert found.history.cycle.tolist() == [0] * 5 + [1] * 5
    assert found.history.epoch.tolist() == [0, 1, 2, 3, 4] * 2
    assert list(found.history.columns) == ["cycle", "epoch", "lr", "loss"]


def test_the_start_the_modes_and_global_randomness_are_left_alone(split):
    start = network("small_cnn", dropout=0.5).train()
    start.norm2.eval()
    before, modes = state(start), [m.training for m in start.modules()]
    torch.manual_seed(3)
    random = torch.random.get_rng_state()
    (found,) = cycles.train([Task(start, CONFIG)], split)
    single, _ = train_cycle(start, split, CONFIG)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert alike(start, before)
    assert [m.training for m in start.modules()] == modes
    assert all(p.grad is None for p in start.parameters())
    for net in (*found.networks, single):
        assert not any(m.training for m in net.modules())


def test_the_seed_decides_dropout_and_global_randomness_does_not(split, monkeypatch):
    """With the data in one order for all."""
    real = Batches.__init__

    def in_one_order(self, split, config, device):
        real(self, split, dataclasses.replace(config, seed=0), device)

    monkeypatch.setattr(Batches, "__init__", in_one_order)
    for rate, same in ((0.5, False), (0.0, True)):
        start, found = network(dropout=rate), []
        for seed in (1, 1, 2):
            torch.manual_seed(len(found))
            found.append(train_cycle(start, split, vary(seed=seed))[0])
        assert alike(found[0], found[1])
        assert alike(found[0], found[2]) == same


def test_a_cycle_in_this_process_has_one_thread_as_in_the_others(split, monkeypatch):
    seen, real = [], cycles.train_cycle

    def counted(*call):
        seen.append(torch.get_num_threads())
        return real(*call)

    monkeypatch.setattr(cycles, "train_cycle", counted)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        cycles.train([Task(network(), CONFIG)], split)
        with pytest.raises(FloatingPointError):
            cycles.train([Task(network(), vary(lr=1e30))], split)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert seen == [1, 1]


def test_processes_and_threads_change_nothing(split, tmp_path):
    """Bit for bit; the files have the same names, and need not be there at all."""
    tasks = [Task(network("small_cnn", seed=s), CONFIG, 2) for s in range(3)]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        one = cycles.train(tasks, split, tmp_path / "one", jobs=1)
    finally:
        torch.set_num_threads(threads)
    two = cycles.train(tasks, split, tmp_path / "two", jobs=2)
    none = cycles.train(tasks, split, jobs=1)
    for a, b, c in zip(one, two, none, strict=True):
        assert all_alike(a.networks, b.networks)
        assert all_alike(a.networks, c.networks)
        assert a.history.equals(b.history)
        assert a.history.equals(c.history)
    names = [{p.name for p in (tmp_path / d).iterdir()} for d in ("one", "two")]
    assert names[0] == names[1]
    assert len(names[0]) == 6


def test_a_second_call_trains_nothing(split, tmp_path, trained):
    task = Task(network("small_cnn"), CONFIG, 3)
    (first,) = cycles.train([task], split, tmp_path)
    assert len(trained) == 3
    (second,) = cycles.train([task], split, str(tmp_path))
    assert len(trained) == 3
    assert all_alike(first.networks, second.networks)
    assert first.history.equals(second.history)
    assert not any(m.training for net in second.networks for m in net.modules())


def test_more_cycles_begin_with_fewer(split, tmp_path, trained):
    start = network()
    (short,) = cycles.train([Task(start, CONFIG, 2)], split, tmp_path)
    (long,) = cycles.train([Task(start, CONFIG, 3)], split, tmp_path)
    assert len(trained) == 3
    assert all_alike(short.networks, long.networks[:2])


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_file_is_made_again_and_the_others_are_what_they_were(
    split, tmp_path, trained, lost
):
    """A cycle that is loaded must not write over the one trained before it."""
    task = Task(network("small_cnn"), CONFIG, 3)
    (whole,) = cycles.train([task], split, tmp_path)
    for path in tmp_path.iterdir():
        if alike(files.load_tensors(path, "")["weights"], whole.networks[lost]):
            path.unlink()
    assert len([*tmp_path.iterdir()]) == 2
    (again,) = cycles.train([task], split, tmp_path)
    assert len(trained) == 3 + 1
    assert all_alike(again.networks, whole.networks)


def test_a_truncated_file_is_named_with_what_to_do(split, tmp_path, trained):
    task = Task(network(), CONFIG, 2)
    (whole,) = cycles.train([task], split, tmp_path)
    path = sorted(tmp_path.iterdir())[0]
    path.write_bytes(path.read_bytes()[:-50])
    message = rf"{path.name} was cut short.*delete it.*only this one cycle is trained"
    with pytest.raises(files.BrokenFileError, match=message):
        cycles.train([task], split, tmp_path)
    path.unlink()
    (again,) = cycles.train([task], split, tmp_path)
    assert len(trained) == 3
    assert all_alike(again.networks, whole.networks)


@pytest.mark.parametrize("moment", [1, 3])
def test_a_killed_call_goes_on_where_it_stopped(
    split, tmp_path, trained, dying, moment
):
    """Killed before the first file, and before the third, is in place."""
    start = network("small_cnn")
    code = "from sbtutor import cycles\ncycles.train([task], split, out, jobs=1)"
    task = Task(start, CONFIG, 4)
    process = dying(code, moment, task=task, split=split, out=tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len([*tmp_path.glob("*.pt")]) == moment - 1
    (found,) = cycles.train([task], split, tmp_path)
    assert len(trained) == 4 - (moment - 1)
    (unbroken,) = cycles.train([task], split)
    assert all_alike(found.networks, unbroken.networks)


def test_a_full_disk_leaves_the_ends_before(split, tmp_path, trained, monkeypatch):
    """The third file does not fit. Then there is space."""
    written, real = [], os.fsync

    def full(file):
        written.append(file)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "no space left")
        real(file)

    task = Task(network(), CONFIG, 4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"disk full: .* saved before is kept"):
            cycles.train([task], split, tmp_path)
    assert len([*tmp_path.iterdir()]) == 2
    (found,) = cycles.train([task], split, tmp_path)
    assert len(trained) == 3 + 2
    (unbroken,) = cycles.train([task], split)
    assert all_alike(found.networks, unbroken.networks)


def inverted(split):
    return dataclasses.replace(split, images=255 - split.images)


def relabelled(split):
    return dataclasses.replace(split, labels=split.labels.flip(0))


def renamed(split):
    return dataclasses.replace(split, classes=tuple("abcdefghij"))


def frozen(start):
    start.hidden1.weight.requires_grad_(False)
    return start


def shifted(start):
    start.normalize.mean += 0.1
    return start


@pytest.mark.parametrize(
    ("settings", "how", "change", "images"),
    [
        ({"seed": 1}, {}, None, None),
        ({"lr": 0.06}, {}, None, None),
        ({"weight_decay": 0.0}, {}, None, None),
        ({"optimizer": "adamw"}, {}, None, None),
        ({}, {"label_smoothing": 0.1}, None, None),
        ({}, {"clip_norm": 0.1}, None, None),
        ({}, {"warmup_epochs": 1}, None, None),
        ({}, {}, lambda start: network(seed=1), None),
        ({}, {}, lambda start: network(dropout=0.1), None),
        ({}, {}, lambda start: start.double(), None),
        ({}, {}, frozen, None),
        ({}, {}, shifted, None),
        ({}, {}, None, inverted),
        ({}, {}, None, relabelled),
        ({}, {}, None, renamed),
    ],
    ids=[
        *("seed", "lr", "weight decay", "optimizer", "smoothing", "clip", "warm-up"),
        *("weights", "dropout rate", "precision", "frozen weights", "buffers"),
        *("images", "labels", "classes"),
    ],
)
def test_whatever_a_cycle_depends_on_gives_it_a_file_of_its_own(
    split, tmp_path, trained, settings, how, change, images
):
    start = network()
    cycles.train([Task(start, CONFIG)], split, tmp_path)
    other = Task(
        change(network()) if change else start, vary(**settings), 1, Recipe(**how)
    )
    other_split = images(split) if images else split
    (found,) = cycles.train([other], other_split, tmp_path)
    assert len(trained) == len([*tmp_path.iterdir()]) == 2
    direct, _ = train_cycle(other.start, other_split, other.config, other.recipe)
    assert alike(found.networks[0], direct)


def test_the_layout_in_memory_and_the_mode_make_no_other_file(split, tmp_path, trained):
    start = network("small_cnn")
    cycles.train([Task(start.train(), CONFIG)], split, tmp_path)
    other = copy.deepcopy(start).to(memory_format=torch.channels_last).eval()
    cycles.train([Task(other, CONFIG)], split, tmp_path)
    assert len(trained) == 1


def test_a_half_precision_network_has_a_digest():
    single = network()
    half, same = (copy.deepcopy(single).bfloat16() for _ in range(2))
    assert cycles.digest(half) == cycles.digest(same)
    assert cycles.digest(half) != cycles.digest(single)


IGNORED = {
    "method": "sgd",
    "members": 4,
    "rho": 3.0,
    "sam_fraction": 0.2,
    "warmup_epochs": 1,
    "split": "random",
    "snapshots": True,
    "device": "auto",
    "compile": True,
}


def test_each_setting_of_training_is_obeyed_or_ignored_on_purpose():
    """A new one must be put into `cycles.OBEYED`, or here."""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert fields == {*cycles.OBEYED, *IGNORED}
    assert not {*cycles.OBEYED} & {*IGNORED}


@pytest.mark.skipif(torch.cuda.is_available(), reason="device='auto' is another device")
def test_what_is_ignored_changes_neither_result_nor_file(split, tmp_path, trained):
    start = network()
    first, _ = train_cycle(start, split, CONFIG)
    assert alike(first, train_cycle(start, split, vary(**IGNORED))[0])
    for config in (CONFIG, vary(**IGNORED)):
        cycles.train([Task(start, config)], split, tmp_path)
    assert len(trained) == 1


@pytest.mark.parametrize(
    "change",
    [
        *({"epochs": 3}, {"batch_size": 30}, {"optimizer": "adam"}, {"lr": 0.2}),
        *({"momentum": 0.5}, {"weight_decay": 0.5}, {"schedule": "cosine"}),
        *({"milestones": (2,)}, {"lr_decay": 0.5}, {"crop": 1}, {"flip": True}),
        *({"bf16": True}, {"seed": 3}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_obeyed_changes_result_and_file(split, tmp_path, trained, change):
    assert set(change) <= set(cycles.OBEYED)
    steps = vary(schedule="multistep", milestones=(1,))
    found = [
        cycles.train([Task(network(), config)], split, tmp_path)[0].networks[0]
        for config in (steps, dataclasses.replace(steps, **change))
    ]
    assert not alike(*found)
    assert len(trained) == 2


@pytest.mark.parametrize(
    ("settings", "how", "message"),
    [
        ({"method": "sam"}, {}, r"takes plain steps, method='sgd', got 'sam'; write T"),
        (
            {"method": "sharpbalance", "members": 2, "warmup_epochs": 1},
            {},
            "method='sgd', got 'sharpbalance'",
        ),
        ({}, {"warmup_epochs": 2}, "of 2 epochs leaves nothing of a cycle of 2; write"),
        ({"device": "cuda:77"}, {}, "device 'cuda:77' cannot be used"),
    ],
)
def test_settings_that_are_no_cycles_are_refused(split, settings, how, message):
    with pytest.raises(ValueError, match=message):
        train_cycle(network(), split, vary(**settings), Recipe(**how))
    with pytest.raises(ValueError, match=message):
        cycles.train([Task(network(), vary(**settings), 1, Recipe(**how))], split)


def of_size(split, size):
    images = F.interpolate(split.images, size=size)
    return dataclasses.replace(split, images=images)


class Picky(nn.Module):
    """A layer with a check of its own, as in torchvision's transformers."""

    def __init__(self, error=AssertionError) -> None:
        super().__init__()
        self.weight, self.error = nn.Parameter(torch.ones(1)), error

    def forward(self, images):
        if images.shape[-1] != 224:
            raise self.error("Wrong image height!\nExpected 224")
        return images * self.weight


@pytest.mark.parametrize(
    ("start", "change", "message"),
    [
        (
            network(),
            lambda s: dataclasses.replace(s, images=s.images.expand(-1, 3, -1, -1)),
            "normalize.mean scales images of 1 channels, got images of 3; pre-train on",
        ),
        (
            nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 3)), nn.Flatten()),
            lambda s: s,
            r"0\.0 cannot read images of shape \(1, 8, 8\): .*3 channels.*; pre-train",
        ),
        (
            network(),
            lambda s: of_size(s, 6),
            r"hidden1 cannot read images of shape \(1, 6, 6\): .*; pre-train on images",
        ),
        (
            network("lenet"),
            lambda s: of_size(s, 16),
            r"hidden1 cannot read images of shape \(1, 16, 16\)",
        ),
        (
            nn.Sequential(Picky(), nn.Flatten(), nn.Linear(64, 10)),
            lambda s: s,
            r"0 cannot read images of shape \(1, 8, 8\): Wrong image height!; pre-",
        ),
        (
            nn.Sequential(nn.Flatten(), Picky(ValueError)),
            lambda s: s,
            r"1 cannot read images of shape",
        ),
        (
            network(),
            lambda s: data.only(s, ["3", "5", "8"]),
            "layer tells 10 classes apart, the images have 3; .*transfer.with_head",
        ),
        (
            network(),
            lambda s: data.Split(s.images[:0], s.labels[:0], s.classes),
            "there are no images to train on; give at least one",
        ),
        (nn.Flatten(), lambda s: s, "a Flatten has no weights to train; give another"),
    ],
    ids=[
        *("channels", "channels, no scaling", "size", "size of lenet", "assertion"),
        *("own error", "classes", "no images", "no weights"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_anything_is_trained(
    split, tmp_path, trained, start, change, message
):
    start.train()
    with pytest.raises(ValueError, match=message):
        train_cycle(start, change(split), CONFIG)
    good = Task(network(), CONFIG)
    with pytest.raises(ValueError, match=message):
        cycles.train([Task(start, CONFIG), good], change(split), tmp_path / "out")
    assert not trained
    assert not (tmp_path / "out").exists()
    assert start.training
    assert not any(layer._forward_pre_hooks for layer in start.modules())


def test_a_call_without_tasks_or_with_tasks_without_cycles_is_refused(split):
    with pytest.raises(ValueError, match="nothing to train: give at least one network"):
        cycles.train([], split)
    with pytest.raises(ValueError, match="a task has 1 cycle or more, got 0"):
        Task(network(), CONFIG, 0)
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        cycles.train([Task(network(), CONFIG)], split, jobs=0)


def test_a_file_in_the_place_of_the_folder_is_named_at_once(split, tmp_path, trained):
    path = tmp_path / "ends"
    path.write_text("")
    with pytest.raises(ValueError, match=r"ends is a file; cycles are kept in a folde"):
        cycles.train([Task(network(), CONFIG)], split, path)
    assert not trained


def test_a_network_that_diverges_names_its_learning_rate(split, tmp_path):
    """What was finished before it stays."""
    tasks = [Task(network(), CONFIG), Task(network(), vary(lr=1e30))]
    message = r"no longer finite after epoch 0 .*rate 1e\+30, loss .*; lower lr"
    with pytest.raises(FloatingPointError, match=message):
        cycles.train(tasks, split, tmp_path, jobs=1)
    assert len([*tmp_path.iterdir()]) == 1
    with pytest.raises(FloatingPointError, match=message):
        train_cycle(network(), split, vary(lr=1e30))
