"""Write scattering.npz: coefficients of Kymatio 0.3.0 for a few random images.

Run `python tests/golden/make_scattering.py` with Kymatio installed; the tests need only the file.
"""

import warnings
from pathlib import Path

import numpy as np
import scipy.special
import torch

# Kymatio 0.3.0 imports a function that SciPy 1.17 removed, for its transform of spheres only.
if not hasattr(scipy.special, "sph_harm"):
    scipy.special.sph_harm = scipy.special.sph_harm_y
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from kymatio.torch import Scattering2D

# Shape, J, L, max_order: the paper's; odd sides and L; padding as wide as the image; order 1.
CASES = [((28, 28), 2, 8, 2), ((20, 33), 3, 5, 2), ((32, 32), 5, 4, 2), ((17, 16), 1, 6, 1)]


def main() -> None:
    """Write the values beside this file."""
    arrays = {}
    for number, (shape, J, L, max_order) in enumerate(CASES):
        x = np.random.default_rng(number).random(shape, dtype=np.float32)
        transform = Scattering2D(J=J, shape=shape, L=L, max_order=max_order)
        arrays[f"{number}/arguments"] = np.array([*shape, J, L, max_order])
        arrays[f"{number}/x"] = x
        arrays[f"{number}/s"] = transform(torch.from_numpy(x)).numpy()
    np.savez_compressed(Path(__file__).with_name("scattering.npz"), **arrays)


if __name__ == "__main__":  # not where pytest imports it to look for doctests
    main()
