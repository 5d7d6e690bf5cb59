"""The numbers of the paper's tables for MNIST, which a report shows beside ours.

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
