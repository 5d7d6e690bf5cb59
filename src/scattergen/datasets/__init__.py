"""Sources of images: the embedded MNIST, arrays and folders."""

from scattergen.datasets.arrays import ImageArray, as_images
from scattergen.datasets.folder import ImageFolder
from scattergen.datasets.mnist import mnist
from scattergen.datasets.opening import open_dataset
from scattergen.datasets.source import Dataset, ImageSource, Subset

__all__ = [
    "Dataset",
    "ImageArray",
    "ImageFolder",
    "ImageSource",
    "Subset",
    "as_images",
    "mnist",
    "open_dataset",
]
