"""The training loop against a plain one, and everything that interruptions must not change."""

import math
import threading
from itertools import chain, pairwise

import pytest
import torch
from torch import nn

from scattergen.errors import InputError, ScattergenError
from scattergen.files.tensors import read_tensors
from scattergen.training import loop as training
from scattergen.training.settings import SCHEDULES, constant, one_cycle
from small_trainings import assert_same_bits, data, one_module, parameters, squared_error, train, two_modules

SETTINGS = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05}  # 4 steps per epoch of 35 examples


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.99)])
def test_equals_a_plain_loop(schedule, betas):
    modules, losses = one_module()
    examples = data()
    history = train(modules, losses, examples, schedule=schedule, betas=betas, seed=3, **SETTINGS)

    reference, _ = one_module()
    optimizer = torch.optim.Adam(reference["net"].parameters(), betas=betas)
    generator = torch.Generator().manual_seed(3)
    values = []
    for step, index in enumerate(examples.indices):
        rate = 0.05 * (one_cycle(step / 12) if schedule == "one_cycle" else 1)
        optimizer.param_groups[0]["lr"] = rate
        loss = squared_error(reference, examples[torch.tensor(index)], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
        if step % 4 == 3:
            epoch = history[step // 4]
            assert epoch["epoch"] == step // 4 + 1
            assert epoch["learning_rate"] == pytest.approx(rate, rel=1e-12)
            # The fused optimizer rounds its float32 arithmetic differently: 1e-7 per step.
            assert epoch["loss"] == pytest.approx(sum(values[-4:]) / 4, rel=1e-4)
        if step == 11:
            break
    assert len(history) == 3
    assert not modules["net"].training
    for name, tensor in parameters(reference).items():
        torch.testing.assert_close(parameters(modules)[name], tensor, rtol=1e-4, atol=1e-5)


def test_each_module_learns_from_its_own_loss_alone():
    modules, losses = two_modules()
    train(modules, {"critic": losses["critic"]}, data(), **SETTINGS)
    trained_alone = parameters(modules)
    before = parameters(two_modules()[0])
    assert not torch.equal(trained_alone["critic.0.weight"], before["critic.0.weight"])
    for name in before:  # the generator has no loss, and batch statistics too stay what they were
        if name.startswith("generator"):
            assert torch.equal(trained_alone[name], before[name])


def test_gradients_pass_through_modules_that_are_not_trained():
    modules, losses = two_modules()
    before = parameters(modules)
    train(modules, {"generator": losses["generator"]}, data(), **SETTINGS)
    after = parameters(modules)
    assert not torch.equal(after["generator.0.weight"], before["generator.0.weight"])
    assert torch.equal(after["critic.0.weight"], before["critic.0.weight"])


@pytest.mark.parametrize(("clip_norm", "expected"), [(None, 60), (1e9, 60), (2.5, 2.5)])
def test_clip_norm(tmp_path, clip_norm, expected):
    # The gradient of 3a + 4b times 12 has norm 60.
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self):
            return 12 * (self.weight * torch.tensor([3.0, 4.0])).sum()

    path = tmp_path / "checkpoint"
    train(
        {"line": Line()}, {"line": lambda modules, *_: modules["line"]()}, data(8),
        epochs=1, batch_size=8, learning_rate=0.1, clip_norm=clip_norm, checkpoint=path,
    )  # fmt: skip
    first_moment = read_tensors(path)[0]["optimizers/line/0/exp_avg"]
    # Adam starts its mean gradient with 1 - 0.9 of the first; clipping divides by norm + 1e-6.
    assert first_moment.norm().item() == pytest.approx(0.1 * expected, rel=1e-5)


def test_one_cycle():
    assert one_cycle(0) == 0.04
    assert one_cycle(0.1) == pytest.approx(0.52)
    assert one_cycle(0.2) == 1
    assert one_cycle(0.4) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert one_cycle(1) == 0
    assert one_cycle(0.25, warm_up=0.5) == pytest.approx(0.52)
    rates = [one_cycle(i / 100) for i in range(101)]
    assert all(a < b for a, b in pairwise(rates[:21]))
    assert all(a > b for a, b in pairwise(rates[20:]))
    assert constant(0) == constant(1) == 1


def test_every_epoch_is_another_permutation_without_the_incomplete_batch():
    examples = data(35)
    train(*one_module(), examples, **SETTINGS)
    assert [len(index) for index in examples.indices] == [8] * 12
    epochs = [list(chain(*examples.indices[i : i + 4])) for i in (0, 4, 8)]
    for epoch in epochs:
        assert len(set(epoch)) == 32
        assert set(epoch) <= set(range(35))
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({frozenset(epoch) for epoch in epochs}) > 1  # not always the same are left out


def test_reading_ahead_changes_nothing():
    trained = []
    for prefetch in (False, True):
        (modules, losses), examples = one_module(), data()
        train(modules, losses, examples, prefetch=prefetch, **SETTINGS)
        trained.append((examples.indices, parameters(modules)))
    assert trained[0][0] == trained[1][0]
    assert_same_bits(trained[1][1], trained[0][1])


def test_what_is_read_ahead_stops_with_an_interrupted_training():
    def interrupted(modules, batch, generator):
        raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        train(one_module()[0], {"net": interrupted}, data(), prefetch=True, **SETTINGS)
    assert threading.active_count() == threads


def test_the_order_depends_on_the_seed_alone():
    def order(seed, modules_and_losses, learning_rate):
        examples = data()
        settings = SETTINGS | {"learning_rate": learning_rate}
        train(*modules_and_losses, examples, seed=seed, **settings)
        return examples.indices

    first = order(0, one_module(), 0.1)
    torch.rand(1)  # the global generator plays no part
    assert order(0, two_modules(1), 0.001) == first
    assert order(1, one_module(), 0.1) != first


def test_a_batch_is_at_most_the_data():
    examples = data(5)
    history = train(*one_module(), examples, epochs=2, batch_size=64, learning_rate=0.1)
    assert [sorted(index) for index in examples.indices] == [list(range(5))] * 2
    assert len(history) == 2


def test_global_random_numbers_are_not_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    train(*one_module(), data(), **SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)


def test_modes_during_validation_and_after():
    modules, losses = one_module()
    modes = []

    def loss(*arguments):
        modes.append(modules["net"].training)
        return losses["net"](*arguments)

    def validate():
        assert not torch.is_grad_enabled()
        modes.append(modules["net"].training)
        return {"psnr": 20.0}

    reported = []

    def on_epoch(history):
        reported.append(list(history))

    history = train(modules, {"net": loss}, data(), validate=validate, on_epoch=on_epoch, **SETTINGS)
    assert modes == [True, True, True, True, False] * 3
    assert not modules["net"].training
    assert [epoch["validation/psnr"] for epoch in history] == [20.0] * 3
    assert reported == [history[:1], history[:2], history]
    assert list(history[0]) == ["epoch", "seconds", "loss", "learning_rate", "validation/psnr"]
    assert 0 < history[0]["seconds"] < history[1]["seconds"] < history[2]["seconds"] < 60


def test_parameters_that_the_last_step_spoiled_are_refused(tmp_path):
    modules, losses = one_module()
    settings = SETTINGS | {"epochs": 1, "learning_rate": 3e38}
    one_batch = data(settings["batch_size"])
    for _ in range(2):  # the second time from the checkpoint
        with pytest.raises(ScattergenError, match=r"parameters .* became infinite or NaN.*3e\+38"):
            train(modules, losses, one_batch, checkpoint=tmp_path / "c", schedule="constant", **settings)


def test_patience_without_validation_is_refused():
    modules, losses = one_module()
    with pytest.raises(InputError, match="patience=2 watches the validation loss"):
        train(modules, losses, data(), patience=2, **SETTINGS)


def test_losses_of_several_modules_are_reported_by_name():
    modules, _ = two_modules()
    value = iter(range(100))

    def count(name):
        return lambda modules, *_: 0 * next(modules[name].parameters()).sum() + next(value)

    losses = {"critic": count("critic"), "generator": count("generator")}
    history = train(modules, losses, data(), epochs=2, batch_size=16, learning_rate=0.1)
    # Two steps per epoch, two losses per step: 0 2, 1 3; 4 6, 5 7.
    found = [(epoch["loss/critic"], epoch["loss/generator"]) for epoch in history]
    assert found == [(1, 2), (5, 6)]
    assert "loss" not in history[0]


def early_stopping(modules, losses, validation, seen, **keywords):
    remaining = iter(validation)

    def validate():
        seen.append(parameters(modules))
        return {"loss": next(remaining)}

    settings = SETTINGS | {"epochs": 6, "patience": 2}
    return train(modules, losses, data(), validate=validate, **(settings | keywords))


@pytest.mark.parametrize(
    ("validation", "n_epochs", "kept"),
    [
        ([3.0, 2.0, 4.0, 5.0], 4, 2),
        ([3.0, 2.0, 2.5, 1.0, 1.0, 2.0], 6, 4),  # an equal loss is not a lower one
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 6, 6),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 7.0], 6, 5),  # the training ends before patience does
        ([math.nan, 3.0, math.nan, 4.0], 4, 2),
    ],
)
def test_early_stopping_restores_the_best(validation, n_epochs, kept):
    modules, losses = one_module()
    seen = []
    history = early_stopping(modules, losses, validation, seen)
    assert len(history) == n_epochs
    assert_same_bits(parameters(modules), seen[kept - 1])


def test_without_patience_the_last_parameters_stay():
    modules, losses = one_module()
    seen = []
    history = early_stopping(modules, losses, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], seen, patience=None)
    assert len(history) == 6
    assert_same_bits(parameters(modules), seen[-1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_loss_that_is_not_finite(value, clip_norm):
    modules, _ = one_module()
    after_each_step = []

    def loss(modules_, batch, generator):
        after_each_step.append(parameters(modules))
        factor = value if len(after_each_step) == 3 else 1.0
        return squared_error(modules_, batch, generator) * factor

    with pytest.raises(ScattergenError, match=r"the net became -?(nan|inf) in step 3\)") as error:
        train(modules, {"net": loss}, data(), clip_norm=clip_norm, **SETTINGS)
    assert "lower the learning rate (now 0.05)" in str(error.value)
    weights = [name for name, _ in modules["net"].named_parameters()]
    for name in weights:  # as the last good step left them
        assert torch.equal(modules["net"].state_dict()[name], after_each_step[2][f"net.{name}"])


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite(clip_norm):
    def loss(modules, batch, generator):
        return (0 * modules["net"](batch[0]).sum()).sqrt()  # is 0, with a derivative of 0/0

    with pytest.raises(ScattergenError, match=r"the net became nan in step 2\)"):
        train(one_module()[0], {"net": loss}, data(), clip_norm=clip_norm, **SETTINGS)


@pytest.mark.parametrize(
    ("keywords", "culprit"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"schedule": "cosine"}, 'schedule="cosine" is unknown: choose one of one_cycle, constant'),
        ({"precision": "float16"}, 'precision="float16": choose "float32", "bfloat16" or "auto"'),
    ],
)
def test_arguments_out_of_range(keywords, culprit):
    with pytest.raises(InputError) as error:
        train(*one_module(), data(), **(SETTINGS | keywords))
    assert culprit in str(error.value)


def test_no_data():
    with pytest.raises(InputError, match="at least one example"):
        train(*one_module(), data(0), **SETTINGS)


@pytest.mark.parametrize(
    ("precision", "fast", "dtype"),
    [
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_precision(monkeypatch, precision, fast, dtype):
    monkeypatch.setattr(training, "bfloat16_is_fast", lambda device: fast)
    modules, losses = one_module()
    seen = set()
    modules["net"][0].register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    history = train(modules, losses, data(), precision=precision, **SETTINGS)
    assert seen == {dtype}
    assert {p.dtype for p in modules["net"].parameters()} == {torch.float32}
    assert history[-1]["loss"] < history[0]["loss"]


def test_whether_bfloat16_is_fast_is_known():
    assert training.bfloat16_is_fast("cpu") in (True, False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_to_the_same_loss():
    def loss(modules, batch, generator):
        return (modules["net"](batch[0]) - batch[1]).square().mean()

    modules, _ = one_module()
    history = train(modules, {"net": loss}, data(), device="cuda", **SETTINGS)
    assert next(modules["net"].parameters()).is_cuda
    on_cpu, _ = one_module()
    expected = train(on_cpu, {"net": loss}, data(), **SETTINGS)
    # Other orders of float32 sums in 12 steps.
    assert history[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=1e-3)
