"""Small networks, losses and data that the tests of the training loop share."""

import dataclasses

import torch
from torch import nn
from torch.utils.data import TensorDataset

from scattergen.training import loop as training
from scattergen.training.settings import TrainingSettings


class Recorded(TensorDataset):
    """Data that remember the indices they were asked for."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.indices = []

    def __getitem__(self, index):
        self.indices.append(index.tolist())
        return super().__getitem__(index)


def data(n=35):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(5))
    return Recorded(x, x @ torch.tensor([[1.0], [-2.0], [0.5]]))


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = nn.Linear(3, 4, bias=False)  # batch normalisation would make its gradient 0
        return nn.Sequential(first, nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def squared_error(modules, batch, generator):
    x, y = batch
    noise = 0.1 * torch.randn(x.shape, generator=generator)
    return (modules["net"](x + noise) - y).square().mean()


def generator_loss(modules, batch, generator):
    noise = torch.randn(len(batch[0]), 3, generator=generator)
    return -modules["critic"](modules["generator"](noise)).mean()


def critic_loss(modules, batch, generator):
    noise = torch.randn(len(batch[0]), 3, generator=generator)
    fake = modules["generator"](noise).detach()
    value = modules["critic"](torch.cat([batch[1], fake])).chunk(2)
    decay = sum(w.square().sum() for w in modules["critic"].parameters())
    return (value[1] - value[0]).mean() + decay


def one_module(seed=0):
    return {"net": network(seed)}, {"net": squared_error}


def two_modules(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        critic = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    modules = {"critic": critic, "generator": network(seed)}
    return modules, {"critic": critic_loss, "generator": generator_loss}


def train(modules, losses, examples, **keywords):
    """The training loop, with its settings among the keywords."""
    names = {field.name for field in dataclasses.fields(TrainingSettings)} & keywords.keys()
    settings = TrainingSettings(**{name: keywords.pop(name) for name in names})
    return training.train(modules, losses, examples, settings, **keywords)


def parameters(modules):
    return {
        f"{name}.{key}": tensor.clone()
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
