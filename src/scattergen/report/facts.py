"""What a report of one fitted model says, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from scattergen.diagnostics import NormalityTable, RejectionRate
from scattergen.evaluation.judgement import Judgement


@dataclass(frozen=True)
class DensityEntry:
    """One density of the codes and what its samples look like.

    Attributes:
        name: of the density in the model.
        hyperparameters: its constructor keywords.
        seconds: time of its training.
        samples: decoded samples in [0, 1], shape (N, C, H, W): the first N drawn with the seed,
            none left out; 64 fill the grids.
        epochs: passes over the codes, None for a density that is not trained in epochs.
        layers: a description of its networks' widths, where it has networks.
        seed: of the samples.
    """

    name: str
    hyperparameters: Mapping[str, object]
    seconds: float
    samples: Tensor
    epochs: int | None = None
    layers: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class VisualisationMatrix:
    """Decoded codes of which only the two leading components differ from zero.

    Attributes:
        title: above the matrix.
        images: shape (len(first) * len(second), C, H, W); the second component varies fastest.
        first: values of the first component before whitening, from the top row down.
        second: values of the second component before whitening, from left to right.
        sigma: standard deviations of the two components before whitening.
        paper: whether the values are the paper's.
    """

    title: str
    images: Tensor
    first: Sequence[float]
    second: Sequence[float]
    sigma: tuple[float, float]
    paper: bool = False


@dataclass(frozen=True)
class FitReport:
    """Everything that a report shows; whatever is left at its default is left out of the page.

    Attributes:
        dataset: its name; the paper's numbers are shown beside ours when it is "mnist".
        image_shape: (C, H, W).
        n_train: number of training images.
        n_test: number of test images, 0 without a test set.
        seed: of the fit.
        version: of scattergen.
        command: the command line, or the call, that made the model.
        config: preset and hyper-parameters; mappings may be nested.
        machine: what it ran on, such as processor, threads and the version of torch.
        stages: (name, seconds) of each stage, in order.
        eigenvalues: variance of each component, decreasing, shape (d,).
        explained_variance: share of the total variance that the d components keep, in [0, 1].
        originals: test images to show, shape (k, C, H, W), in [0, 1].
        reconstructions: the same images, encoded and decoded.
        psnr: of every test image, shape (n_test,), dB.
        ssim: of every test image, shape (n_test,).
        densities: in the order of the page.
        judgement: scores of decoder, least squares and densities against test images.
        featured: name of the density at the top of the page; "mixture", else the last, by default.
        visualisation: matrices of the two leading components.
        normality: rejections at the full sample size.
        normality_split: the split that the tested codes are of.
        rejections: rejections against the sample size.
        skewness: of each component, shape (d,).
        excess_kurtosis: of each component, shape (d,).
        history: records of the decoder's training, each with "seconds" and any of "epoch",
            "train_loss", "val_loss", "val_psnr".
    """

    dataset: str
    image_shape: tuple[int, int, int]
    n_train: int
    n_test: int = 0
    seed: int = 0
    version: str = ""
    command: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=dict)
    stages: Sequence[tuple[str, float]] = ()
    eigenvalues: Tensor | Sequence[float] | None = None
    explained_variance: float | None = None
    originals: Tensor | None = None
    reconstructions: Tensor | None = None
    psnr: Tensor | None = None
    ssim: Tensor | None = None
    densities: Sequence[DensityEntry] = ()
    judgement: Judgement | None = None
    featured: str | None = None
    visualisation: Sequence[VisualisationMatrix] = ()
    normality: NormalityTable | None = None
    normality_split: str = "training"
    rejections: Sequence[RejectionRate] = ()
    skewness: Sequence[float] | None = None
    excess_kurtosis: Sequence[float] | None = None
    history: Sequence[Mapping[str, float]] = ()

    @property
    def beside_paper(self) -> bool:
        """Whether the paper has numbers for this data set."""
        return self.dataset == "mnist"

    @property
    def title(self) -> str:
        """The heading of the page."""
        return "MNIST" if self.dataset == "mnist" else self.dataset
