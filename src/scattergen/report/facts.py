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
        hyperparameters: Its constructor's keywords.
        seconds: Time of its training.
        samples: Decoded ones in [0, 1], (N, C, H, W): the first N drawn with the seed; 64 fill the grids.
        epochs: Passes over the codes; None for a density that is not trained in epochs.
        layers: Its networks' widths in words, where it has networks.
        seed: Of the samples.
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
        images: (len(first) * len(second), C, H, W); the second component varies fastest.
        first: Values of the first component before whitening, from the top row down.
        second: Values of the second component before whitening, from left to right.
        sigma: Standard deviations of the two components before whitening.
        paper: Whether the values are the paper's.
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
        dataset: Its name; the paper's numbers are shown beside ours when it is "mnist".
        image_shape: (C, H, W).
        n_test: Number of test images, 0 without a test set.
        seed: Of the fit.
        version: Of scattergen.
        command: The command line, or the call, that made the model.
        config: Preset and hyper-parameters; mappings may be nested.
        machine: What it ran on, such as processor, threads and the version of torch.
        stages: (name, seconds) of each stage, in order.
        eigenvalues: Variance of each component, decreasing, (d,).
        explained_variance: Share of the total variance that the d components keep, in [0, 1].
        originals: Test images to show, (k, C, H, W), in [0, 1].
        reconstructions: The same images, encoded and decoded.
        psnr: Of every test image, (n_test,), dB.
        ssim: Of every test image, (n_test,).
        densities: In the order of the page.
        judgement: Scores of decoder, least squares and densities against test images.
        featured: Name of the density at the top of the page; "mixture", else the last, by default.
        visualisation: Matrices of the two leading components.
        normality: Rejections at the full sample size.
        normality_split: The split that the tested codes are of.
        rejections: Rejections against the sample size.
        skewness: Of each component, (d,), as is the excess kurtosis.
        history: Records of the decoder's training, each with "seconds" and any of "epoch", "train_loss", "val_loss",
            "val_psnr".
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
