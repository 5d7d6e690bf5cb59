"""What the tests of several processes let each of them do; alone, it gives what to compare with.

    python distributed_work.py FOLDER     (started by the supervisor, in every process)

writes the results of each process to a file of its own.
"""

import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from scattergen.datasets import Dataset, ImageArray
from scattergen.display.progress import SILENT
from scattergen.encoder import ScatteringEncoder, principal_components
from scattergen.encoder import scattering_encoder as encoder_module
from scattergen.errors import InputError, ScattergenError
from scattergen.files.tensors import write_tensors
from scattergen.pipeline.fit import fit_run
from scattergen.processes import Layout, errors_reported, join
from scattergen.runs import Result, RunFolder, Stages
from small_trainings import data, one_module, parameters, train, two_modules

N_COMPONENTS, CHUNK = 6, 32


def textures(n):
    """Images (n, 1, 16, 16) whose leading principal components differ clearly in variance."""
    generator = torch.Generator().manual_seed(3)
    patterns = torch.randn(N_COMPONENTS + 2, 1, 16, 16, generator=generator)
    weights = torch.randn(n, len(patterns), generator=generator) * 0.6 ** torch.arange(len(patterns))
    return (0.5 + 0.06 * torch.einsum("nk,kchw->nchw", weights, patterns)).clamp(0, 1)


def encoders(processes, folder):
    """What each way to the principal components gives, from chunks of so many images.

    Two chunks for the Gram matrix, so that two of four processes have nothing to scatter.
    """
    with pytest.MonkeyPatch.context() as limits:  # put back, since the tests do this themselves too
        return _encoders(processes, folder, limits)


def _encoders(processes, folder, limits):
    limits.setattr(encoder_module, "_BATCH_FLOATS", CHUNK * 576)  # coefficients of one image
    found = {}
    for method, n, store in (
        ("gram", 40, "memory"),
        ("covariance", 700, "recompute"),
        ("subspace_iteration", 700, "disk"),
    ):
        if method == "subspace_iteration":
            for name in ("_MOST_FOR_GRAM", "_MOST_FOR_COVARIANCE"):
                limits.setattr(principal_components, name, 0)
        assert principal_components._method(n, 576).__name__.endswith(method)
        encoder = ScatteringEncoder((1, 16, 16), J=1, n_components=N_COMPONENTS, store=store, store_dtype="float32")
        assert encoder.n_features == 576
        assert encoder.batch_size == CHUNK
        features = encoder.open_features(textures(n), folder / "store", processes)
        encoder.fit(features)
        found |= {f"{method}/{name}": tensor for name, tensor in encoder.state_dict().items()}
        found[f"{method}/codes"] = encoder.transform(features)
    return found


def smooth_network():
    """In float64 and without batch normalisation, so that parts of a batch are independent."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def squared_error(modules, batch, generator):
    return (modules["net"](batch[0]) - batch[1]).square().mean()


def shared_gradients(processes, folder):
    """Parameters and losses after some steps, for batches that no number above 1 divides."""
    x = torch.randn(35, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    examples = TensorDataset(x, x[:, :1] - 2 * x[:, 1:2] * x[:, 2:])
    net = smooth_network()
    history = train(
        {"net": net},
        {"net": squared_error},
        examples,
        epochs=3,
        batch_size=7,
        learning_rate=0.05,
        clip_norm=1.0,
        processes=processes,
    )
    losses = torch.tensor([epoch["loss"] for epoch in history], dtype=torch.float64)
    return parameters({"net": net}) | {"losses": losses}


SETTINGS = {"epochs": 4, "batch_size": 8, "learning_rate": 0.05, "seed": 7}


def noisy_training(processes, folder):
    """With batch normalisation and noise: no equality with one process, but among the ranks."""
    modules, losses = one_module()
    train(modules, losses, data(), processes=processes, **SETTINGS)
    found = {f"whole/{name}": tensor for name, tensor in parameters(modules).items()}

    # The same, stopped in the second epoch and continued from the checkpoint of rank 0.
    keywords = SETTINGS | {"checkpoint": folder / "noisy", "checkpoint_seconds": -1}
    stop_in_second_epoch(processes, keywords)
    if processes.rank == 0:
        shutil.copy(folder / "noisy", folder / "unfinished")
    modules, losses = one_module(seed=1)  # the parameters must come from the checkpoint
    train(modules, losses, data(), processes=processes, **keywords)
    return found | {f"parts/{name}": tensor for name, tensor in parameters(modules).items()}


def stop_in_second_epoch(processes, keywords):
    modules, losses = one_module()
    loss, calls = losses["net"], iter(range(6))

    def stopping(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return loss(*arguments)

    try:
        train(modules, {"net": stopping}, data(), processes=processes, **keywords)
    except KeyboardInterrupt:
        processes.barrier()


def early_stopping(processes, folder):
    """Epochs until the validation loss, which rank 0 alone computes, has not fallen twice."""
    calls = []

    def validate():
        calls.append(processes.rank)
        return {"loss": [3.0, 1.0, 2.0, 2.0, 0.0][len(calls) - 1]}

    modules, losses = one_module()
    how = SETTINGS | {"epochs": 5, "patience": 2, "seed": 2**32 - 1}
    history = train(modules, losses, data(), validate=validate, processes=processes, **how)
    assert len(calls) == (len(history) if processes.rank == 0 else 0)
    return {"epochs": torch.tensor(len(history))}


def message_of(error, work, *arguments, **keywords):
    try:
        work(*arguments, **keywords)
    except error as found:
        return str(found)
    return "nothing was raised"


def refusals(processes, folder):
    """Messages of errors as bytes."""
    modules, losses = one_module()

    def infinite_in_the_last(modules, batch, generator):
        loss = losses["net"](modules, batch, generator)
        return loss * (torch.inf if processes.rank == processes.world_size - 1 else 1)

    broken = {"net": infinite_in_the_last}
    messages = {
        "infinite": message_of(ScattergenError, train, modules, broken, data(), processes=processes, **SETTINGS),
        "small batch": message_of(
            InputError, train, *one_module(), data(), processes=processes, **(SETTINGS | {"batch_size": 1})
        ),
        "other images": message_of(
            InputError,
            fit_run,
            Dataset("textures", ImageArray((textures(40) + processes.rank / 9).clamp(0, 1))),
            folder / "run",
            processes=processes,
        ),
        "two modules": message_of(InputError, train, *two_modules(), data(), processes=processes, **SETTINGS),
    }
    return {name: torch.tensor([*text.encode()]) for name, text in messages.items()}


def stages(processes, folder):
    """Results of a stage that is made, found, or damaged: how often it had been made by then."""
    rank = processes.rank
    run = RunFolder.start(folder / "stages", {}) if rank == 0 else None
    run, made, found = processes.broadcast(run), [], []

    def make(work):
        made.append(work)
        return Result({"calls": torch.tensor(len(made))}, {"pair": (1, 2)})

    def get(question):
        result = Stages(run, SILENT, processes).get("answer", {"question": question}, make)
        assert result.metadata == {"pair": [1, 2]}
        found.append(torch.stack([result.tensors["calls"], torch.tensor(result.found)]))
        processes.barrier()  # none reads any more

    for question in (6, 6, 7, 6):  # the last of a file that run.json does not name any more
        get(question)
    if rank == 0:
        file = run.file("answer")
        file.write_bytes(file.read_bytes()[:-1])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        get(6)
    assert [str(one.message)[-11:] for one in said] == ["made again."] * (rank == 0)
    get(6)
    return {"calls": torch.stack(found)}


def messages_between(processes, folder):
    """Sums and broadcasts of what other ranks do not know the form of."""
    rank = processes.rank
    return {
        "sum": processes.all_reduce(torch.arange(3.0, dtype=torch.float64) * (rank + 1)),
        "columns": processes.all_reduce(torch.ones(2, 3).T),  # not contiguous
        "tensor": processes.broadcast(torch.arange(6).view(2, 3) if rank == 0 else None),
        "number": torch.tensor(processes.broadcast({"seven": 7} if rank == 0 else "?")["seven"]),
    }


SAME_ALONE = (encoders, shared_gradients, early_stopping)
"""What one process alone does with the same results."""

PARTS = (*SAME_ALONE, noisy_training, refusals, stages, messages_between)


def results(parts, processes, folder):
    """All that is compared, as named tensors."""
    return {f"{part.__name__}: {name}": tensor for part in parts for name, tensor in part(processes, folder).items()}


if __name__ == "__main__":
    layout = Layout.of_environment()
    with errors_reported(layout, lambda error: None):
        folder = Path(sys.argv[1])
        processes = join(layout, "cpu")
        found = results(PARTS, processes, folder)
        write_tensors(folder / f"{processes.rank}.safetensors", found, None)
        processes.leave()
