"""The card of a model: what it makes, how good that is beside real images, of what data, and how to use it."""

import re
from typing import Any

from scattergen.datasets.huggingface import PREFIX
from scattergen.display.words import number, templates, visible
from scattergen.errors import InputError
from scattergen.evaluation.judgement import REAL, Judgement, in_words
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.browse import read_products
from scattergen.runs import LAST_STAGE, RunFolder
from scattergen.runs.schema import EVALUATION
from scattergen.stages.presets import CELEBA_PRESETS

CARD, SAMPLES = "README.md", "samples.png"
NOBODY = "USER/NAME"  # stands for the name on the Hub that a model does not have yet


def is_celeba(run: RunFolder) -> bool:
    """Whether a run was fitted to CelebA, as far as its preset or the name of its data tells."""
    named = str(run.options.get("data", {}).get("name", "")).lower()
    return run.options.get("preset") in CELEBA_PRESETS or "celeba" in named


def card_of(
    run: RunFolder, model: GenerativeScatteringNetwork, density: str | None, *, name: str | None = None,
    licence: str | None = None,
) -> str:  # fmt: skip
    """The text of README.md in Markdown; `density` is that of the images shown."""
    if licence is not None and re.fullmatch(r"[a-z0-9.-]+", licence) is None:
        raise InputError(f'"{licence}" is no licence as Hugging Face writes it: give one such as cc-by-4.0 or mit.')
    data, keys = run.options.get("data", {}), run.names("densities")
    source = visible(data.get("name", "unknown origin")).replace("`", "'")
    on_hub = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)", source)
    words = templates(__package__, autoescape=False)
    words.filters["number"] = number
    return words.get_template("card.md.j2").render(
        name=name or NOBODY, licence=licence, source=source, hub_dataset=on_hub and on_hub[1], n=data.get("n"),
        celeba=is_celeba(run), shape=model.decoder.image_shape, d=model.decoder.n_components, densities=keys,
        copying=[key for key in keys if "parzen" in str(run.metadata(f"densities/{key}"))], density=density,
        sharpen=model.sharpen, **_scores(run),
    )  # fmt: skip


def _scores(run: RunFolder) -> dict[str, Any]:
    """Distances to test images of the report, which has all densities, else of an evaluation; real ones come first."""
    found = run.stages.get(LAST_STAGE, {}).get("judgement")
    told = found or read_products(run, "evaluation", EVALUATION).get("evaluation")
    if told is None:
        return {"rows": []}
    evaluated = found is None
    rows = []
    for key, row in sorted(told["rows"].items(), key=lambda item: item[0] != REAL):
        distance = row["frechet"] if evaluated else {"value": row["kernel"], "standard_error": row["standard_error"]}
        rows.append((key, distance["value"], distance["standard_error"], row.get("sharpness")))
    return {
        "rows": rows, "evaluated": evaluated,
        "features": " ".join(told["features"].values() if evaluated else told["features"]),
        "against": f"{told['against']} images" if evaluated else f"{told['n_test']:,} test images",
        "expectation": None if found is None else in_words(Judgement.of(found), run.options["data"]["n"]),
    }  # fmt: skip
