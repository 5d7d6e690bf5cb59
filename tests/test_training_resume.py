"""Interruptions of the training loop: a resumed training ends like one that never stopped."""

import warnings

import pytest
import torch
from torch import nn

from scattergen.display.progress import Progress
from scattergen.errors import RunFolderError
from scattergen.files.tensors import read_tensors, write_tensors
from small_trainings import assert_same_bits, data, network, one_module, parameters, train, two_modules

SETTINGS = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05}  # 4 steps per epoch of 35 examples


def without_seconds(history):
    return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in history]


def stop_after(losses, calls):
    """The same losses, of which one is interrupted after so many calls of all."""
    remaining = iter(range(calls))

    def wrap(loss):
        def wrapped(*arguments):
            if next(remaining, None) is None:
                raise KeyboardInterrupt
            return loss(*arguments)

        return wrapped

    return {name: wrap(loss) for name, loss in losses.items()}


def early_stopping(modules, losses, validation, seen, **keywords):
    remaining = iter(validation)

    def validate():
        seen.append(parameters(modules))
        return {"loss": next(remaining)}

    settings = SETTINGS | {"epochs": 6, "patience": 2}
    return train(modules, losses, data(), validate=validate, **(settings | keywords))


@pytest.mark.parametrize("build", [one_module, two_modules])
@pytest.mark.parametrize("checkpoint_seconds", [-1, 1e9], ids=["every step", "every epoch"])
@pytest.mark.parametrize("stops", [[0], [1], [3], [4], [5], [11], [2, 3], [4, 4]])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path, build, checkpoint_seconds, stops):
    modules, losses = build()
    examples = data()
    history = train(modules, losses, examples, clip_norm=1.0, seed=7, **SETTINGS)
    keywords = SETTINGS | {
        "clip_norm": 1.0, "seed": 7, "checkpoint": tmp_path / "folder" / "checkpoint",
        "checkpoint_seconds": checkpoint_seconds,
    }  # fmt: skip

    done = 0
    for stop in stops:
        done += stop
        if checkpoint_seconds > 0:
            done -= done % 4
        # With two modules, odd numbers of calls stop between their updates.
        interrupted, losses = build()
        calls = stop * len(losses) + (len(losses) - 1)
        with pytest.raises(KeyboardInterrupt):
            train(interrupted, stop_after(losses, calls), data(), **keywords)

    # Other initial parameters: the first run's must come from the checkpoint, if there is one.
    resumed, losses = build(seed=1 if done else 0)
    rest = data()
    found = train(resumed, losses, rest, **keywords)
    assert_same_bits(parameters(resumed), parameters(modules))
    assert without_seconds(found) == without_seconds(history)
    assert rest.indices == examples.indices[done:]


def test_a_finished_training_is_not_repeated(tmp_path):
    path, reported = tmp_path / "checkpoint", []
    modules, losses = one_module()
    history = train(modules, losses, data(), checkpoint=path, **SETTINGS)
    again, _ = one_module(seed=1)
    found = train(again, stop_after(losses, 0), data(), checkpoint=path, on_epoch=reported.append, **SETTINGS)
    assert found == history
    assert_same_bits(parameters(again), parameters(modules))
    assert reported == []
    assert not again["net"].training


def test_seconds_are_those_of_training_without_the_interruption(tmp_path):
    path = tmp_path / "checkpoint"
    modules, losses = one_module()
    with pytest.raises(KeyboardInterrupt):
        train(modules, stop_after(losses, 8), data(), checkpoint=path, **SETTINGS)
    stored = read_tensors(path)[1]["progress"]
    history = train(modules, losses, data(), checkpoint=path, **SETTINGS)
    assert history[1]["seconds"] == stored["seconds"]
    assert stored["seconds"] < history[2]["seconds"] < stored["seconds"] + 60


def test_progress_continues_where_the_training_was(tmp_path):
    advances = []

    class Counting(Progress):
        def task(self, description, total):
            stage = super().task(description, total)
            advances.append((description, total))
            return stage

    path = tmp_path / "checkpoint"
    modules, losses = one_module()
    with pytest.raises(KeyboardInterrupt):
        train(modules, stop_after(losses, 8), data(), checkpoint=path, **SETTINGS)
    train(modules, losses, data(), checkpoint=path, progress=Counting(show=False), description="decoder", **SETTINGS)
    assert advances == [("decoder", 12)]


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 4}, {"batch_size": 7}, {"learning_rate": 0.06}, {"schedule": "constant"},
        {"betas": (0.8, 0.999)}, {"clip_norm": 1.0}, {"patience": 3}, {"seed": 1},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_a_checkpoint_of_other_settings(tmp_path, other):
    path = tmp_path / "checkpoint"
    modules, losses = one_module()
    train(modules, losses, data(), checkpoint=path, **SETTINGS)
    content, before = path.read_bytes(), parameters(modules)
    if "patience" in other:
        other = {**other, "validate": lambda: {"loss": 1.0}}
    with pytest.raises(RunFolderError, match="other settings") as error:
        train(modules, losses, data(), checkpoint=path, **(SETTINGS | other))
    assert str(path) in str(error.value)
    assert "delete it" in str(error.value)
    assert path.read_bytes() == content
    assert_same_bits(parameters(modules), before)


def test_what_a_checkpoint_says_of_its_settings(tmp_path):
    """As versions before wrote it, whose checkpoints are continued."""
    train(*one_module(), data(), checkpoint=tmp_path / "c", prefetch=True, **SETTINGS)
    written = read_tensors(tmp_path / "c")[1]["settings"]
    assert written.pop("shapes")["modules/net/0.weight"] == [4, 3]
    assert written == {
        "epochs": 3, "batch_size": 8, "learning_rate": 0.05, "schedule": "one_cycle",
        "betas": [0.9, 0.999], "clip_norm": None, "patience": None, "seed": 0, "n": 35,
        "parts": ["net"],
    }  # fmt: skip


def test_a_checkpoint_of_other_data_another_network_or_nothing_of_ours(tmp_path):
    path = tmp_path / "checkpoint"
    modules, losses = one_module()
    train(modules, losses, data(), checkpoint=path, **SETTINGS)
    with pytest.raises(RunFolderError, match="other settings or another network"):
        train(modules, losses, data(36), checkpoint=path, **SETTINGS)
    for net in (nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 5), *network()[1:3], nn.Linear(5, 1))):
        with pytest.raises(RunFolderError, match="other settings or another network"):
            train({"net": net}, losses, data(), checkpoint=path, **SETTINGS)
    write_tensors(path, {"a": torch.zeros(3)}, ["metadata"])
    with pytest.raises(RunFolderError, match="other settings or another network"):
        train(modules, losses, data(), checkpoint=path, **SETTINGS)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_damaged_checkpoint_is_made_anew(tmp_path, kept):
    path = tmp_path / "checkpoint"
    modules, losses = one_module()
    history = train(modules, losses, data(), checkpoint=path, **SETTINGS)
    path.write_bytes(path.read_bytes()[:kept])
    modules, losses = one_module()
    with pytest.warns(UserWarning, match="checkpoint is damaged: this training starts anew"):
        again = train(modules, losses, data(), checkpoint=path, **SETTINGS)
    assert without_seconds(again) == without_seconds(history)


@pytest.mark.parametrize("damage", ["a bit", "half of it"])
def test_a_damaged_checkpoint_never_ends_in_another_model(tmp_path, damage):
    """Whatever was damaged, the training ends as one that was never stopped."""
    path = tmp_path / "checkpoint"
    modules, losses = one_module()
    train(modules, losses, data(), checkpoint=None, **SETTINGS)
    expected = parameters(modules)
    with pytest.raises(KeyboardInterrupt):
        train(one_module()[0], stop_after(losses, 5), data(), checkpoint=path, **SETTINGS)
    whole = path.read_bytes()
    half = [whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)]
    flipped = (whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :] for i in range(9, len(whole), 97))
    for content in half if damage == "half of it" else flipped:
        path.write_bytes(content)
        modules, losses = one_module()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            train(modules, losses, data(), checkpoint=path, **SETTINGS)
        assert_same_bits(parameters(modules), expected)
        assert [str(one.message) for one in found] in ([], [f"{path} is damaged: this training starts anew."])
        assert found or damage == "a bit"


@pytest.mark.parametrize(
    "name", ["generator", "modules/net/0.weight", "optimizers/net/0/step", "optimizers/net/0/exp_avg"]
)
@pytest.mark.parametrize("size", [0, 3])
def test_a_checkpoint_with_a_tensor_of_another_size_is_refused(tmp_path, name, size):
    path = tmp_path / "checkpoint"
    modules, losses = one_module()
    with pytest.raises(KeyboardInterrupt):
        train(modules, stop_after(losses, 5), data(), checkpoint=path, **SETTINGS)
    tensors, metadata = read_tensors(path)
    tensors[name] = torch.zeros(size, dtype=tensors[name].dtype)
    write_tensors(path, tensors, metadata)
    with pytest.raises(RunFolderError, match="is not a whole checkpoint"):
        train(*one_module(), data(), checkpoint=path, **SETTINGS)


@pytest.mark.parametrize("name", ["generator", "modules/net/0.weight", "optimizers/net/0/step"])
def test_a_checkpoint_without_a_tensor_is_refused(tmp_path, name):
    path = tmp_path / "checkpoint"
    modules, losses = one_module()
    train(modules, losses, data(), checkpoint=path, **SETTINGS)
    tensors, metadata = read_tensors(path)
    write_tensors(path, {key: t for key, t in tensors.items() if key != name}, metadata)
    with pytest.raises(RunFolderError, match="is not a whole checkpoint"):
        train(modules, losses, data(), checkpoint=path, **SETTINGS)


@pytest.mark.parametrize("step", [9, 12, 14])
def test_interrupted_early_stopping_restores_the_best(tmp_path, step):
    validation, seen = [3.0, 2.0, 4.0, 5.0], []
    modules, losses = one_module()
    history = early_stopping(modules, losses, validation, seen)
    keywords = {"checkpoint": tmp_path / "checkpoint", "checkpoint_seconds": -1}
    first, losses = one_module(seed=1)
    first["net"].load_state_dict(one_module()[0]["net"].state_dict())
    with pytest.raises(KeyboardInterrupt):
        early_stopping(first, stop_after(losses, step), validation, [], **keywords)
    for _ in range(2):  # continued, and then found finished
        resumed, losses = one_module(seed=1)
        found = early_stopping(resumed, losses, validation[step // 4 :], [], **keywords)
        assert without_seconds(found) == without_seconds(history)
        assert_same_bits(parameters(resumed), seen[1])
