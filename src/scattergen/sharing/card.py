"""The card of a model: what it makes, how good that is beside real images, of what data, and how to use it."""

import re
from typing import Any

from scattergen.datasets.huggingface import PREFIX
from scattergen.datasets.source import MNIST
from scattergen.errors import InputError
from scattergen.evaluation.judgement import DECODER, LEAST_SQUARES, REAL, Judgement, in_words
from scattergen.files import read_json
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.evaluate import DECODED_TEST
from scattergen.runs import LAST_STAGE, RunFolder
from scattergen.stages.presets import CELEBA_PRESETS
from scattergen.wording import number, visible

CARD, SAMPLES = "README.md", "samples.png"
NOBODY = "USER/NAME"  # stands for the name on the Hub that a model does not have yet
_SHOWN = {
    REAL: "real images, used in training", DECODER: "test images, encoded and decoded",
    DECODED_TEST: "test images, encoded and decoded", LEAST_SQUARES: "the same, decoded by least squares",
}  # fmt: skip
_OF_MNIST = "MNIST by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, CC BY-SA 3.0"
_OF_CELEBA = "CelebA by Liu, Luo, Wang and Tang, for non-commercial research only; **do not publish this model**"


def is_celeba(run: RunFolder) -> bool:
    """Whether a run was fitted to CelebA, as far as its preset or the name of its data tells."""
    named = str(run.options.get("data", {}).get("name", "")).lower()
    return run.options.get("preset") in CELEBA_PRESETS or "celeba" in named


def card_of(
    run: RunFolder, model: GenerativeScatteringNetwork, density: str | None, *, name: str | None = None,
    licence: str | None = None,
) -> str:  # fmt: skip
    """The text of README.md in Markdown; `density` is that of the images shown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only for who makes a page

    if licence is not None and re.fullmatch(r"[a-z0-9.-]+", licence) is None:
        raise InputError(f'"{licence}" is no licence as Hugging Face writes it: give one such as cc-by-4.0 or mit.')
    data, keys, (C, H, W) = run.options.get("data", {}), run.names("densities"), model.decoder.image_shape
    source = visible(data.get("name", "unknown origin")).replace("`", "'")
    on_hub = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)", source)
    environment = Environment(
        loader=PackageLoader(__package__), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("card.md.j2").render(
        name=name or NOBODY, licence=licence or ("cc-by-sa-3.0" if source == MNIST else "unknown"),
        source=source, hub_dataset=on_hub and on_hub[1], n=data.get("n") and number(data["n"]),
        of_data=_OF_MNIST if source == MNIST else _OF_CELEBA if is_celeba(run) else None,
        channels=C, height=H, width=W, d=model.decoder.n_components, densities=keys, density=density,
        copying=[key for key in keys if "parzen" in str(run.metadata(f"densities/{key}"))],
        sharpen=model.sharpen, **_scores(run),
    )  # fmt: skip


def _scores(run: RunFolder) -> dict[str, Any]:
    """Distances of an evaluation, else of the end of the fit, to test images; real ones come first."""
    found, file = run.stages.get(LAST_STAGE, {}).get("judgement"), run.path / "evaluation.json"
    if file.is_file():
        told, measure = read_json(file), "Fréchet distance"
        rows = [(key, *row["frechet"].values(), row.get("sharpness")) for key, row in told["rows"].items()]
        against, features = f"{told['against']} images, {told['n']:,} in a row at most", told["features"].values()
    elif found is not None:
        measure, against, features = "kernel distance · 1,000", f"{found['n_test']:,} test images", found["features"]
        rows = [
            (key, *(row[one] for one in ("kernel", "standard_error", "sharpness")))
            for key, row in found["rows"].items()
        ]
    else:
        return {"rows": []}
    told_rows = [
        (
            _SHOWN.get(key, f"`{key}`"),
            f"{number(value, 2)} ± {number(error, 2)}",
            "" if sharp is None else f"{sharp:.2f}",
        )
        for key, value, error, sharp in sorted(rows, key=lambda row: row[0] != REAL)
    ]
    words = None if found is None else in_words(Judgement.of(found), run.options["data"]["n"])
    facts = {"measure": measure, "against": against, "features": " ".join(features), "expectation": words}
    return {"rows": told_rows, **facts}
