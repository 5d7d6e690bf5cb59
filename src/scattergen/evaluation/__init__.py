"""Measures of what a model produces: single images, and their distribution against real ones."""

import sys

from scattergen.calls.state import guard
from scattergen.evaluation.digit_classifier import DigitFeatures
from scattergen.evaluation.distances import Manifolds, frechet_distance, kernel_distance, manifold_metrics
from scattergen.evaluation.evaluate import Evaluation, Evaluator, evaluate
from scattergen.evaluation.features import FeatureExtractor, InceptionFeatures, ScatteringFeatures
from scattergen.evaluation.judgement import default_features
from scattergen.evaluation.memorisation import FEWEST, Memorisation, image_cells, memorisation
from scattergen.evaluation.perceptual import PerceptualFeatures
from scattergen.evaluation.tables import Estimate, jackknife, nearest
from scattergen.evaluation.two_sample import BinTest, TwoSampleTest, classifier_two_sample_test, different_bins, k_means
from scattergen.image_quality import psnr, sharpness, ssim

__all__ = ["DigitFeatures", "FeatureExtractor", "InceptionFeatures", "PerceptualFeatures", "ScatteringFeatures"]
__all__ += ["FEWEST", "BinTest", "Estimate", "Evaluation", "Evaluator", "Manifolds", "Memorisation", "TwoSampleTest"]
__all__ += ["default_features", "evaluate", "frechet_distance", "jackknife", "kernel_distance", "manifold_metrics"]
__all__ += ["classifier_two_sample_test", "different_bins", "image_cells", "k_means", "memorisation", "nearest"]
__all__ += ["psnr", "sharpness", "ssim"]

guard(sys.modules[__name__], *__all__)
for _features in (DigitFeatures, InceptionFeatures, PerceptualFeatures):
    guard(_features, "__init__", "__call__")
