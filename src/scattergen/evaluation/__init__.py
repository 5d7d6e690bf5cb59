"""Measures of what a model produces: single images, and their distribution against real ones."""

from scattergen.evaluation.clusters import BinTest, different_bins, k_means
from scattergen.evaluation.default_features import default_features
from scattergen.evaluation.digit_classifier import DigitFeatures
from scattergen.evaluation.distances import frechet_distance, kernel_distance
from scattergen.evaluation.evaluate import FEWEST, Evaluation, Evaluator, evaluate
from scattergen.evaluation.features import FeatureExtractor
from scattergen.evaluation.inception import InceptionFeatures
from scattergen.evaluation.manifolds import Manifolds, manifold_metrics
from scattergen.evaluation.memorisation import Memorisation, image_cells, memorisation
from scattergen.evaluation.perceptual import PerceptualFeatures
from scattergen.evaluation.scattering_features import ScatteringFeatures
from scattergen.evaluation.tables import Estimate, jackknife, nearest
from scattergen.evaluation.two_sample import TwoSampleTest, classifier_two_sample_test
from scattergen.image_quality import psnr, sharpness, ssim

__all__ = [
    "FEWEST",
    "BinTest",
    "DigitFeatures",
    "Estimate",
    "Evaluation",
    "Evaluator",
    "FeatureExtractor",
    "InceptionFeatures",
    "Manifolds",
    "Memorisation",
    "PerceptualFeatures",
    "ScatteringFeatures",
    "TwoSampleTest",
    "classifier_two_sample_test",
    "default_features",
    "different_bins",
    "evaluate",
    "frechet_distance",
    "image_cells",
    "jackknife",
    "k_means",
    "kernel_distance",
    "manifold_metrics",
    "memorisation",
    "nearest",
    "psnr",
    "sharpness",
    "ssim",
]
