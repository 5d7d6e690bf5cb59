"""All stages of a fit, from images to the parts of a model."""

from scattergen.datasets import class_labels
from scattergen.runs import Stages
from scattergen.stages.decoder import fit_decoder
from scattergen.stages.density import fit_density
from scattergen.stages.density_keys import choice_of_key
from scattergen.stages.encoder import fit_encoder, fit_linear
from scattergen.stages.model_parts import Parts
from scattergen.stages.options import Images, make_decoder
from scattergen.stages.presets import Options
from scattergen.stages.sampling import fit_sampling


def fit_parts(images: Images, options: Options, stages: Stages, *, seed: int = 0, device: str = "cpu") -> Parts:
    """Fit encoder, decoder and densities with complete, checked options, or find them in `stages`.

    The processes of `stages` fit encoder and decoder together and then leave the group; rank 0 alone fits the rest.
    """
    encoder, codes, mirrored = fit_encoder(images, options["encoder"], stages, device=device)
    linear = fit_linear(encoder, codes, mirrored, images, stages)
    decoder = make_decoder(options["decoder"], linear, seed).to(device)
    fit_decoder(
        decoder, options, codes, images, stages, encoder=encoder, mirrored=mirrored, linear=linear, seed=seed,
        device=device,
    )  # fmt: skip
    stages.processes.leave()
    parts = Parts(encoder, decoder, linear=linear, options=options)
    if stages.processes.rank > 0:
        return parts
    stages = Stages(stages.run, stages.progress)
    parts.sharpen = options.get("sampling", {}).get("sharpen", 0.0)
    parts.n_leading, parts.sharpening = fit_sampling(decoder, options, codes, images, stages, seed=seed)
    for key, keywords in options["densities"].items():
        choice = choice_of_key(key, keywords)
        labels = class_labels(images) if choice.by_class else None
        parts.densities[key] = fit_density(
            choice.name, key, codes[:, : parts.n_leading], labels, stages,
            keywords=choice.keywords, seed=seed, device=device,
        )  # fmt: skip
    return parts
