"""How far sets of images are from real ones: the measure that fits the paper's data set."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from scattergen.evaluation import DigitFeatures, FeatureExtractor, ScatteringFeatures, frechet_distance, kernel_distance
from scattergen.report import paper


@dataclass(frozen=True)
class Distance:
    """A distance between two sets of images by their features; lower is better."""

    title: str
    words: str  # what it is, continuing a sentence
    extract: FeatureExtractor
    to_decoded: bool  # whether decoded codes are compared with decoded test codes, not test images
    between: Callable[[Tensor, Tensor], float]  # of features of real images, and of others


def distance_for(results: paper.Results, image_shape: tuple[int, int, int]) -> Distance:
    """The measure for one of the paper's data sets, of images (C, H, W).

    Digits have a classifier whose features are made for them, and 10,000 test images for a Fréchet distance. Faces have
    neither: their features are scattering coefficients, which see above all how soft decoded images are, and the kernel
    distance is not biased by few images.
    """
    if results is paper.MNIST:
        return Distance(
            "Fréchet distance",
            "in 128 features of a classifier of digits that is shipped; lower is better. It is not an “FID”, which is "
            "one of Inception features.",
            DigitFeatures(),
            False,
            frechet_distance,
        )
    features = ScatteringFeatures(image_shape)
    return Distance(
        "kernel distance",
        f"in {features.dimension:,} features, the logarithms of scattering coefficients averaged over the image; lower "
        "is better, and 0 is the expectation for equal distributions. It is unbiased, multiplied by 1,000, and no "
        "“KID”, which is one of Inception features. These features see colours and textures, and not whether a face is "
        "right: no classifier of faces is shipped. Above all they see how soft decoded images are, so decoded codes "
        "are compared with decoded test codes, and images with test images.",
        features,
        True,
        lambda real, samples: 1000 * kernel_distance(real, samples).value,
    )
