"""Sources of images: the embedded MNIST, arrays, folders, CelebA, CIFAR and Hugging Face."""

from scattergen.datasets.arrays import ImageArray, WithMirrored, as_images, fingerprint_of
from scattergen.datasets.folder import ImageFolder
from scattergen.datasets.huggingface import HuggingFaceImages
from scattergen.datasets.opening import limit, open_dataset
from scattergen.datasets.published import celeba, cifar, mnist
from scattergen.datasets.reading import prefetched
from scattergen.datasets.source import ClassLabels, Dataset, ImageSource, Subset, class_labels

__all__ = [
    "ClassLabels", "Dataset", "HuggingFaceImages", "ImageArray", "ImageFolder", "ImageSource", "Subset", "WithMirrored",
    "as_images", "celeba", "cifar", "class_labels", "fingerprint_of", "limit", "mnist", "open_dataset", "prefetched",
]  # fmt: skip
