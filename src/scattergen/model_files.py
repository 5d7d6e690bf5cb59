"""A model as the named tensors of a run folder, and back."""

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from scattergen.decoder import Decoder
from scattergen.densities import Density, hyperparameters, make, registered_name
from scattergen.encoder import ScatteringEncoder
from scattergen.errors import InputError, RunFolderError
from scattergen.linear_decoder import LinearDecoder
from scattergen.local_decoder import LocalDecoder
from scattergen.runs import RunFolder, check_name
from scattergen.runs.saving import Content


def model_content(
    encoder: ScatteringEncoder,
    decoder: Decoder | LocalDecoder,
    densities: Mapping[str, Density],
    linear: LinearDecoder | None = None,
) -> Content:
    """Tensors and metadata of all parts of a model, for `scattergen.runs.save_run`.

    Args:
        encoder: Fitted.
        decoder: Trained.
        densities: Key to fitted density.
        linear: Least squares from the codes; those of a local decoder by default.

    Returns:
        Name in the run to tensors and metadata.

    Raises:
        InputError: If a density is not fitted or not registered, is of other codes, or its key
            cannot be a file's name.
    """
    content: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "encoder": (encoder.state_dict(), encoder.hyperparameters),
        "decoder": (decoder.state_dict(), decoder_metadata(decoder)),
    }
    if isinstance(decoder, LocalDecoder):
        linear = decoder.linear
    if linear is not None:
        content["linear"] = (linear.state_dict(), linear.hyperparameters)
    for key, density in densities.items():
        stage = f"densities/{key}"
        check_name(stage)
        d = getattr(density, "n_features_", decoder.n_components)
        if d > decoder.n_components:  # fewer are the leading ones
            raise InputError(
                f"The density {key} is of codes with {d} components, those of this model have "
                f"{decoder.n_components}: fit it to encode(images) of this model."
            )
        metadata = density_metadata(density)  # first, since it says what is not registered
        content[stage] = (density.state_dict(), metadata)
    return content


def decoder_metadata(decoder: Decoder | LocalDecoder) -> dict[str, Any]:
    """What is stored beside a decoder's tensors: its keywords, and its kind if it is a local one.

    Args:
        decoder: Of either kind.

    Returns:
        For JSON.
    """
    kind = {"kind": "local"} if isinstance(decoder, LocalDecoder) else {}
    return {**kind, **decoder.hyperparameters}


def density_metadata(density: Density, seed: int | None = None) -> dict[str, Any]:
    """What is stored beside a density's tensors, and tells whether another one is the same.

    Args:
        density: Of a registered class.
        seed: Of its fit, where that is known.

    Returns:
        "name" in the registry, "hyperparameters", and "seed" if given.

    Raises:
        InputError: If its class is not registered.
    """
    metadata = {"name": registered_name(density), "hyperparameters": hyperparameters(density)}
    return metadata if seed is None else {**metadata, "seed": seed}


def read_parts(
    run: RunFolder, device: str, keys: Collection[str] | None
) -> tuple[ScatteringEncoder, Decoder | LocalDecoder, dict[str, Density], LinearDecoder | None]:
    """The parts of a stored model.

    Args:
        run: Its folder.
        device: Of encoder and decoder.
        keys: Keys of the densities to load; None for all.

    Returns:
        Encoder, decoder, densities by key, and least squares if they are kept.

    Raises:
        RunFolderError: If a part is missing or damaged, or a density of an unknown kind.
    """
    tensors, keywords = run.read("encoder")
    encoder = ScatteringEncoder(**keywords, device=device)
    encoder.load_state_dict(tensors)
    linear = None
    if run.has("linear"):
        tensors, shapes = run.read("linear")
        linear = LinearDecoder(**{name: _tuples(value) for name, value in shapes.items()})
        linear.load_state_dict(tensors)
    tensors, keywords = run.read("decoder")
    decoder: Decoder | LocalDecoder
    if keywords.pop("kind", "generator") == "local":
        if linear is None:
            raise RunFolderError(
                f"{run.path} lacks the least squares that its decoder starts from "
                "(linear.safetensors): run the `scattergen fit` command that made it again, with "
                "--overwrite."
            )
        decoder = LocalDecoder(linear, **keywords)
    else:
        decoder = Decoder(**keywords)
    decoder.load_state_dict(tensors)
    densities = {}
    for key in run.names("densities") if keys is None else keys:
        tensors, metadata = run.read(f"densities/{key}")
        try:
            densities[key] = make(metadata["name"], **metadata["hyperparameters"])
        except InputError as error:
            raise RunFolderError(
                f"The density {key} of {run.path} cannot be loaded ({str(error).rstrip('.')}): if "
                "another version of scattergen stored it, fit it again by `"
                f"{shlex.join(['scattergen', 'density', str(run.path), key, '--overwrite'])}`."
            ) from error
        densities[key].load_state_dict(tensors)
    return encoder, decoder.to(device), densities, linear


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
