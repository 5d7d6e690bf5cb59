"""The numbers of the paper’s tables, which a report shows beside ours."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Results:
    """What the paper, Ziomek & Farrahi, reports of one data set.

    Attributes:
        rejections: Table 1: of the 512 components, how many each test rejects at each level.
        training: Tables 2 (VAE) and 3 (GAN): epochs and wall time, in whole minutes.
        beta: Of the VAE.
        figure: That shows samples.
        decoding: Table 4: time of the decoder’s training, if it says.
    """

    name: str
    title: str
    rejections: dict[str, dict[float, int]]
    training: dict[str, tuple[int, str]]
    beta: float
    figure: str
    decoding: str | None = None


MNIST = Results(
    name="mnist",
    title="MNIST",
    rejections={"K2": {0.05: 41, 0.01: 12}, "JB": {0.05: 35, 0.01: 16}},
    training={"vae": (31, "9 min"), "gan": (30, "5 min")},
    beta=0.001,
    figure="Figure 2",
)
CELEBA = Results(
    name="celeba",
    title="CelebA",
    rejections={"K2": {0.05: 46, 0.01: 19}, "JB": {0.05: 51, 0.01: 24}},
    training={"vae": (96, "17 min"), "gan": (38, "10 min")},
    beta=0.0025,
    figure="Figure 3",
    decoding="27 h 45 min",
)
# Table 4: source, data set, method, generative training, non-generative training.
TRAINING_TIMES: tuple[tuple[str, str, str, str, str], ...] = (
    ("the paper", "CelebA (128×128×3)", "VAE in scattering space", "17 min", "27 h 45 min"),
    ("Lee et al., 2020", "MR brain (4×80×96×64)", "VAE", "10 h", "–"),
    ("Yi et al., 2020", "CMB (400×400)", "VAE", "6 h", "–"),
    ("Sarmiento, 2020", "fashion (180×240×3)", "VAE", "4 h", "–"),
    ("the paper", "CelebA (128×128×3)", "GAN in scattering space", "10 min", "27 h 45 min"),
    ("Yin et al., 2017", "CelebA (64×64×3)", "GAN", "10 h", "–"),
    ("Gautam et al., 2020", "landscape (256×256×3)", "GAN", "73 h", "–"),
)
