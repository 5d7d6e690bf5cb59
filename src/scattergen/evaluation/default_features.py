"""Which features images are judged by if nobody says."""

from scattergen.evaluation.digit_classifier import DigitFeatures
from scattergen.evaluation.features import FeatureExtractor
from scattergen.evaluation.perceptual import PerceptualFeatures
from scattergen.evaluation.scattering_features import ScatteringFeatures


def default_features(image_shape: tuple[int, int, int], *, digits: bool = False) -> FeatureExtractor:
    """The best features there are for images of a shape.

    Args:
        image_shape: (C, H, W).
        digits: Whether the images are the embedded MNIST.

    Returns:
        Features of digits for these, of photographs if their weights are installed, else scattering features.

    Example:
        >>> default_features((1, 28, 28), digits=True).name
        'mnist-classifier'
    """
    if digits and image_shape == (1, 28, 28):
        return DigitFeatures()
    if PerceptualFeatures.installed() and image_shape[0] in (1, 3):
        return PerceptualFeatures()
    return ScatteringFeatures(image_shape)
