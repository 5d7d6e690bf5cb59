"""What every decoder of codes has besides its network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scattergen.errors import InputError
from scattergen.tensor_files import check_shapes


class CodeDecoder(nn.Module):
    """A network from codes (N, d) to images (N, C, H, W) in or near [-1, 1].

    Attributes:
        n_components: Dimension d of the codes.
        image_shape: (C, H, W).
    """

    n_components: int
    image_shape: tuple[int, int, int]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def decode(self, z: Tensor) -> Tensor:
        """Images in [0, 1], without gradients and without changing or using batch statistics.

        Args:
            z: Codes, (N, d).

        Returns:
            Images, (N, C, H, W), in the precision of z.

        Raises:
            InputError: If d is not that of the decoder.
        """
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                images: Tensor = self(z)
                return images.add_(1).mul_(0.5).clamp_(0, 1)
        finally:
            self.train(was_training)

    def check_codes(self, z: Tensor) -> None:
        """Refuse codes that are not (N, d)."""
        if z.ndim != 2 or z.shape[1] != self.n_components:
            raise InputError(
                f"Expected codes of shape (N, {self.n_components}) but got {tuple(z.shape)}: use "
                "codes of the model that this decoder belongs to."
            )

    def check_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse stored tensors that are not those of this decoder, by a `RunFolderError`."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        check_shapes("decoder", tensors, shapes)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of every module, but a state of another decoder is a `RunFolderError`."""
        self.check_state(state_dict)
        return super().load_state_dict(state_dict, strict, assign)
