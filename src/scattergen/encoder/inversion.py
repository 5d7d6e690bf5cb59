"""Inversion of codes: images whose whitened scattering coefficients are given."""

import torch
from torch import Tensor

from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress
from scattergen.scattering.inversion import Reconstruction, check_finite, coarse_images, multi_start


def reconstruct_codes(
    z: Tensor,
    encoder: ScatteringEncoder,
    *,
    n_starts: int = 4,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Reconstruction:
    r"""Images (N, C, H, W) from whitened codes, without a decoder, by projected L-BFGS from several starts.

    Each image minimises, over pixels in [0, 1],
    $\epsilon^2 = \sum_i \sqrt{\lambda_i}\, (z_i(x) - z_i)^2 \big/ \sum_i \sqrt{\lambda_i}$, the error of its code
    relative to the size of a typical one, with λ the variances of the components. Only what the code knows is matched:
    asking for `PCAWhitening.inverse_transform(z)` costs 30 dB on MNIST (docs/notes/log.md). A code that no image has,
    such as one drawn from a density, gives the nearest that was found; its error says how near.

    Args:
        z: Codes, (N, d).
        encoder: Fitted; what the codes are of. Its device computes.
        n_starts: Most starts per image.
        max_iterations: Most iterations per start.
        tolerance: Relative error ε at which a start ends; up to ten times it counts as solved.
        seed: Of the noise of the starts.
        progress: Where to report.

    Raises:
        InputError: If `z` does not fit the encoder or is not finite, or an argument is out of range.

    References:
        Angles, Mallat, "Generative networks as inverse problems with scattering transforms", 2018.

    Example:
        >>> images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> encoder = ScatteringEncoder((1, 8, 8), J=1, L=4, n_components=50).fit(images)
        >>> reconstruct_codes(encoder.transform(images[:2]), encoder).images.shape
        torch.Size([2, 1, 8, 8])
    """
    whitening, transform, device = encoder.whitening, encoder.scattering, encoder.device
    if z.ndim != 2 or z.shape[1] != whitening.n_components:
        raise InputError(
            f"Expected codes of shape (N, {whitening.n_components}) but got {tuple(z.shape)}: use codes that this "
            "encoder made."
        )
    check_finite(z, "codes")
    s = whitening.inverse_transform(z.float())
    s = s.reshape(-1, encoder.image_shape[0], *transform.output_shape).to(device)
    deviations = whitening.explained_variance_.sqrt()
    weights = (deviations / deviations.sum()).sqrt().to(device, torch.float32)
    mean = whitening.mean_.to(device)
    # transform() of the encoder leaves no gradient, and its product is cheaper with the weights in.
    projection = (whitening.components_.T / deviations.float()).to(device) * weights
    wanted = z.to(device, torch.float32) * weights

    def residual(x: Tensor, rows: Tensor) -> Tensor:
        return (transform(x).flatten(1) - mean) @ projection - wanted[rows]

    found = multi_start(
        residual, coarse_images(s, transform), transform, n_starts=n_starts, max_iterations=max_iterations,
        tolerance=tolerance, seed=seed, progress=progress,
    )  # fmt: skip
    return Reconstruction(found.images.cpu(), found.error.cpu(), found.iterations.cpu())
