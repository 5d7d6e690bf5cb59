"""Training within a number of seconds, on a clock that the losses move."""

import contextlib
from types import SimpleNamespace

import pytest

from scattergen.display.progress import Progress
from scattergen.errors import InputError, RunFolderError
from scattergen.files.tensors import read_tensors
from scattergen.training import loop as training
from scattergen.training.settings import one_cycle
from small_trainings import assert_same_bits, data, one_module, parameters, train

SETTINGS = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05}  # 4 steps per epoch of 35 examples


@pytest.fixture
def clock(monkeypatch):
    """One second per call of a loss that `timed` made; `clock.now` may be moved by hand."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def timed(losses, clock, stop_at=None):
    def wrap(loss):
        def wrapped(*arguments):
            if clock.now == stop_at:
                raise KeyboardInterrupt
            clock.now += 1
            return loss(*arguments)

        return wrapped

    return {name: wrap(loss) for name, loss in losses.items()}


def run(clock, *, seed=0, stop_at=None, **keywords):
    modules, losses = one_module(seed)
    examples = data()
    history = train(modules, timed(losses, clock, stop_at), examples, **(SETTINGS | keywords))
    return modules, history, examples


def test_it_stops_at_the_first_step_after_that_time(clock):
    epochs = []
    modules, history, examples = run(clock, max_seconds=6.5, on_epoch=lambda h: epochs.append(h[:]))
    assert len(examples.indices) == 7
    assert [row["epoch"] for row in history] == [1, 2]
    assert [row["seconds"] for row in history] == [4, 7]
    assert [len(h) for h in epochs] == [1, 2]
    assert not modules["net"].training
    # 6.5 s are less than the 12 steps of the epochs, so the seconds drive the schedule.
    rates = [row["learning_rate"] for row in history]
    assert rates == [0.05 * one_cycle(3 / 6.5), 0.05 * one_cycle(6 / 6.5)]


@pytest.mark.parametrize("max_seconds", [4, 8.0])
def test_it_may_stop_where_an_epoch_ends(clock, max_seconds):
    _, history, examples = run(clock, max_seconds=max_seconds)
    assert len(examples.indices) == max_seconds
    assert [row["seconds"] for row in history] == [4.0, 8.0][: len(history)]
    assert len(history) == max_seconds / 4


def test_at_least_one_step_is_done(clock):
    _, history, examples = run(clock, max_seconds=1e-9)
    assert len(examples.indices) == len(history) == 1


def test_seconds_enough_change_nothing(clock):
    modules, history, _ = run(clock)
    again, found, _ = run(clock, max_seconds=1e6)
    assert_same_bits(parameters(again), parameters(modules))
    assert found == history


def test_the_best_parameters_are_restored_from_a_training_cut_short(clock):
    losses = iter([2.0, 1.0, 3.0])
    seen = []
    modules, built = one_module()

    def validate():
        seen.append(parameters(modules))
        return {"loss": next(losses)}

    history = train(modules, timed(built, clock), data(), max_seconds=10, validate=validate, patience=2, **SETTINGS)
    assert [row["validation/loss"] for row in history] == [2.0, 1.0, 3.0]
    assert_same_bits(parameters(modules), seen[1])


@pytest.mark.parametrize("checkpoint_seconds", [-1, 1e9], ids=["every step", "every epoch"])
@pytest.mark.parametrize("step", [0, 1, 3, 4, 6])
def test_an_interrupted_one_ends_with_the_same_bits(tmp_path, clock, checkpoint_seconds, step):
    keywords = {"max_seconds": 6.5, "seed": 7}
    modules, history, _ = run(clock, **keywords)
    keywords |= {"checkpoint": tmp_path / "checkpoint", "checkpoint_seconds": checkpoint_seconds}
    with pytest.raises(KeyboardInterrupt):
        run(clock, stop_at=clock.now + step, **keywords)
    clock.now += 5000  # the interruption is not counted
    for _ in range(2):  # continued, and then found finished
        resumed, found, _ = run(clock, **keywords)
        assert_same_bits(parameters(resumed), parameters(modules))
        assert found == history


def test_a_finished_one_is_not_repeated(tmp_path, clock):
    keywords = {"max_seconds": 6.5, "checkpoint": tmp_path / "checkpoint"}
    modules, _, _ = run(clock, **keywords)
    again, _, examples = run(clock, seed=1, **keywords)
    assert examples.indices == []
    assert_same_bits(parameters(again), parameters(modules))


def test_a_checkpoint_belongs_to_its_seconds(tmp_path, clock):
    path = tmp_path / "checkpoint"
    run(clock, checkpoint=path)
    # Checkpoints without the limit are what they were before there was one.
    assert "max_seconds" not in read_tensors(path)[1]["settings"]
    with pytest.raises(RunFolderError, match="other settings"):
        run(clock, checkpoint=path, max_seconds=6.5)


def test_what_is_called_after_a_step_takes_no_time(clock):
    seen = []

    def on_step(seconds):
        seen.append(seconds)
        clock.now += 100

    _, history, _ = run(clock, max_seconds=6.5, on_step=on_step)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert history[-1]["seconds"] == 7


@pytest.mark.parametrize("max_seconds", [0, -1.0, float("nan"), float("inf")])
def test_unusable_seconds(max_seconds):
    modules, losses = one_module()
    with pytest.raises(InputError, match=r"max_seconds=.*: give a number above 0"):
        train(modules, losses, data(), max_seconds=max_seconds, **SETTINGS)


def test_progress_counts_seconds(clock):
    tasks = []

    class Recording(Progress):
        @contextlib.contextmanager
        def task(self, description, total):
            with super().task(description, total) as task:
                tasks.append(task)
                yield task

    run(clock, max_seconds=6.5, progress=Recording(show=False))
    assert [(task.completed, task.total) for task in tasks] == [(7, 7)]
