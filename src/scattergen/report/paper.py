"""The numbers of the paper’s tables, which a report shows beside ours; Tables 1 to 3 for MNIST.

References:
    Ziomek & Farrahi, Modelling nonlinear dependencies in the latent space of inverse scattering.
"""

# Table 1: of the 512 components, how many are rejected at each level.
REJECTIONS: dict[str, dict[float, int]] = {
    "K2": {0.05: 41, 0.01: 12},
    "JB": {0.05: 35, 0.01: 16},
}
# Tables 2 (VAE, with beta = 0.001) and 3 (GAN): epochs and wall time, which the paper gives in
# whole minutes.
TRAINING: dict[str, tuple[int, str]] = {"vae": (31, "9 min"), "gan": (30, "5 min")}
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
BETA = 0.001  # of the VAE of Table 2
