"""What a model needs of a decoder, the package's or one's own."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from scattergen.errors import InputError


@runtime_checkable
class DecoderLike(Protocol):
    """Maps codes to images, as a plain class, without a base class (`examples/own_decoder.py`).

    Attributes:
        n_components: Dimension d of the codes.
        image_shape: (C, H, W).
        device: Optional: where the codes are put that `decode` gets; the CPU by default.

    Example:
        >>> from scattergen import Decoder
        >>> isinstance(Decoder(8, (1, 16, 16), channels=(8, 4)), DecoderLike)
        True
    """

    n_components: int
    image_shape: tuple[int, int, int]

    def decode(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes (N, d), float32."""


def check_codes(z: Tensor, n_components: int) -> None:
    """Refuse codes that are not (N, d)."""
    if z.ndim != 2 or z.shape[1] != n_components:
        problem = f"Expected codes of shape (N, {n_components}) but got {tuple(z.shape)}"
        raise InputError(f"{problem}: use codes that this model's encoder made.")
