"""The one training loop, for everything that is trained by gradient descent."""

from scattergen.training.loop import Batch, Batches, History, Loss, Metrics, bfloat16_is_fast, check_shares, train
from scattergen.training.settings import TrainingSettings

__all__ = [
    "Batch", "Batches", "History", "Loss", "Metrics", "TrainingSettings", "bfloat16_is_fast", "check_shares", "train",
]  # fmt: skip
