"""The sections that are mostly numbers. Each adds itself to the page, or nothing without facts."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from scattergen.diagnostics import NormalityTable
from scattergen.judging import in_words
from scattergen.report import paper
from scattergen.report.draft import Draft, duration, number, sample_size, setting
from scattergen.report.facts import FitReport
from scattergen.report.html import Html, joined, table, tag
from scattergen.report.plots import (
    cumulative_variance,
    eigenvalue_spectrum,
    rejections_by_n,
    training_curve,
)

TEST_NAMES = {"K2": "D’Agostino K²", "JB": "Jarque–Bera"}


def add_quality(draft: Draft) -> None:
    """What to expect of the model, in words and as a table."""
    facts = draft.facts
    if facts.judgement is None:
        return
    judgement = facts.judgement
    name, version = judgement.features
    rows = [
        [
            f"{key} (best)" if key == judgement.best else key,
            "" if row.psnr is None else number(row.psnr, 2),
            f"{number(row.kernel, 1)} ± {number(row.standard_error, 1)}",
            number(row.sharpness, 2),
        ]
        for key, row in judgement.rows.items()
    ]
    header = ["against test images", "PSNR, dB", "kernel distance · 1000", "sharpness"]
    caption = (
        f"{sample_size(judgement.n_test)} test images, at most {number(judgement.n)} a row; {name} "
        f"features {version}; ± is one standard error. Training images show what perfect samples "
        "would score; sharpness is the share of the test images’ fine detail"
    )
    draft.page.section(
        "What to expect",
        tag("p", in_words(judgement, facts.n_train)),
        table(header, rows, caption=caption),
        note="How far reconstructions and samples are from images that no stage has seen.",
    )


def add_spectrum(draft: Draft) -> None:
    """Eigenvalues, and the variance that they add up to."""
    facts = draft.facts
    values, kept = facts.eigenvalues, facts.explained_variance
    if values is None:
        return
    panels = [
        draft.themed(
            "eigenvalues",
            f"variance of the {len(values)} components",
            partial(eigenvalue_spectrum, values),
        )
    ]
    words = f"Principal components of the scattering coefficients of {sample_size(facts.n_train)} "
    words += f"training images: variance of each of the {len(values)}"
    if kept is not None:
        panels.append(
            draft.themed(
                "explained-variance",
                "variance kept by the leading components",
                partial(cumulative_variance, values, kept),
            )
        )
        words += f", and the share of all variance that the leading ones keep. All {len(values)} "
        words += f"together keep {number(100 * kept, 2)} %"
    figure = draft.page.figure(tag("div", *panels, class_="panels"), f"{words}.")
    note = "How much of the scattering coefficients the code keeps."
    draft.page.section("Spectrum", figure, note=note)


def add_normality(draft: Draft) -> None:
    """Rejections by both tests beside the paper's, and how they depend on the sample size."""
    facts = draft.facts
    content: list[Html] = []
    if facts.normality is not None:
        content.append(_rejection_table(draft, facts.normality))
        content.append(_why_counts_differ(facts, facts.normality))
    if facts.normality is not None and facts.rejections:
        d = facts.normality.d
        counts = paper.MNIST.rejections if facts.beside_paper else {}
        panels = [
            draft.themed(
                f"rejections-{test.lower()}",
                f"{name}: rejections against sample size",
                partial(rejections_by_n, facts.rejections, test, d, counts.get(test)),
            )
            for test, name in TEST_NAMES.items()
        ]
        words = (
            f"Components rejected against the number n of {facts.normality_split} codes tested: "
            f"means over random samples of n codes, beside those of simulated normal data of the "
            f"same shape; seed {facts.seed}."
        )
        if facts.beside_paper:
            words += " Horizontal lines: the paper’s counts, whose n is unknown."
        content.append(
            draft.page.figure(tag("div", *panels, class_="panels"), words, draft.beside("Table 1"))
        )
    if facts.skewness is not None and facts.excess_kurtosis is not None:
        content.append(_effect_sizes(facts.skewness, facts.excess_kurtosis))
    if content:
        note = "Whiteness makes components independent only if they are jointly normal."
        draft.page.section("Are the codes normal?", *content, note=note)


def _rejection_table(draft: Draft, ours: NormalityTable) -> Html:
    facts = draft.facts
    header: list[object] = ["rejected components"]
    for level in ours.levels:
        header.append(f"at {level:g}")
        if facts.beside_paper:
            header.append(tag("span", "paper", class_="paper"))
    rows: list[list[object]] = []
    for test, counts in ours.counts.items():
        row: list[object] = [TEST_NAMES.get(test, test)]
        for level, count in zip(ours.levels, counts, strict=True):
            row.append(number(count))
            if facts.beside_paper:
                row.append(setting(paper.MNIST.rejections.get(test, {}).get(level, "–")))
        rows.append(row)
    caption = (
        f"Of d = {ours.d} components, tested on {sample_size(ours.n)} {facts.normality_split} "
        f"codes; no correction for multiple tests"
    )
    if ours.constant:
        caption += f"; {ours.constant} constant components could not be tested"
    reference = draft.beside("Table 1")
    marker = tag("span", f"paper: {reference}", class_="paper") if reference else ""
    return table(header, rows, caption=joined([caption, ". " if marker else ".", marker]))


def _why_counts_differ(facts: FitReport, ours: NormalityTable) -> Html:
    chance = " and ".join(f"{level * ours.d:.0f} at {level:g}" for level in ours.levels)
    words = (
        f"A test rejects more components the more codes it sees, so a count says little without "
        f"its n. Of perfectly normal codes it would still reject about {chance}, by chance."
    )
    if not facts.beside_paper:
        return tag("p", words)
    words = (
        f"Our counts and the paper’s cannot be compared directly: ours are of "
        f"{sample_size(ours.n)} codes, and the paper does not state its n. {words}"
    )
    if facts.rejections:
        smallest = min(rate.n for rate in facts.rejections)
        at_smallest = {(r.test, r.level): r for r in facts.rejections if r.n == smallest}
        compared = [
            (rate.observed, paper.MNIST.rejections[test][level])
            for (test, level), rate in at_smallest.items()
            if level in paper.MNIST.rejections.get(test, {})
        ]
        if compared and all(observed > count for observed, count in compared):
            words += (
                f" No n reproduces the paper’s counts on our codes: already at "
                f"{sample_size(smallest)}, all {len(compared)} are above them. Why is an open "
                f"question."
            )
    return tag("p", words)


def _effect_sizes(skewness: Sequence[float], excess_kurtosis: Sequence[float]) -> Html:
    rows = []
    for name, values in (("|skewness|", skewness), ("|excess kurtosis|", excess_kurtosis)):
        sizes = np.abs(np.asarray(values, dtype=np.float64))
        sizes = sizes[np.isfinite(sizes)]  # constant components have none
        if sizes.size:
            quantiles = np.quantile(sizes, [0.05, 0.5, 0.95, 1.0])
            rows.append([name, *(number(value, 2) for value in quantiles)])
    caption = "How far from normal: effect sizes, which do not grow with n and are 0 if normal."
    header = ["over the components", "5th percentile", "median", "95th percentile", "largest"]
    return table(header, rows, caption=caption)


def add_training(draft: Draft) -> None:
    """The decoder's curves and the training time of each density beside the paper's."""
    facts = draft.facts
    content: list[Html] = []
    panels = []
    for name, series, title in (
        ("training-loss", {"val_loss": "validation", "train_loss": "training"}, "Decoder: loss"),
        ("validation-psnr", {"val_psnr": "validation"}, "Decoder: validation PSNR, dB"),
    ):
        if any(row.get(key) is not None for row in facts.history for key in series):
            draw = partial(training_curve, facts.history, series, title)
            panels.append(draft.themed(name, f"{title} against training time", draw))
    if panels:
        words = f"The decoder’s training, by wall time; {sample_size(facts.n_train)} images with "
        words += f"those held out for validation, seed {facts.seed}."
        content.append(draft.page.figure(tag("div", *panels, class_="panels"), words))
    if facts.densities:
        content.append(_training_table(draft))
    if content:
        note = "The decoder is trained once; a density can be fitted anew on the same codes."
        draft.page.section("Training", *content, note=note)


def _training_table(draft: Draft) -> Html:
    facts = draft.facts
    header: list[object] = ["density", "epochs", "time"]
    if facts.beside_paper:
        header += [tag("span", f"paper: {what}", class_="paper") for what in ("epochs", "time")]
    rows: list[list[object]] = []
    for entry in facts.densities:
        epochs = "–" if entry.epochs is None else number(entry.epochs)
        row: list[object] = [entry.name, epochs, duration(entry.seconds)]
        if facts.beside_paper:
            row += [setting(value) for value in paper.MNIST.training.get(entry.name, ("–", "–"))]
        rows.append(row)
    words: list[object] = [f"Training of each density on the codes; seed {facts.seed}. "]
    if facts.beside_paper:
        words += [
            tag("span", "paper: Tables 2 and 3", class_="paper"),
            " (VAE with β = 0.001; the hardware is not stated).",
        ]
    return table(header, rows, caption=joined(words))


def add_setup(draft: Draft) -> None:
    """The command, the time of each stage, the options and the machine."""
    facts = draft.facts
    content: list[Html] = []
    if facts.command:
        content.append(tag("pre", facts.command))
    if facts.stages:
        total = sum(seconds for _, seconds in facts.stages)
        longest = max(seconds for _, seconds in facts.stages) or 1.0
        rows = [
            [name, duration(seconds), _bar(seconds / longest)] for name, seconds in facts.stages
        ]
        rows.append([tag("b", "total"), tag("b", duration(total)), ""])
        content.append(tag("div", table(["stage", "time", ""], rows), class_="bars"))
    machine = {**facts.machine, "scattergen": facts.version} if facts.version else facts.machine
    data = {
        "data set": facts.dataset,
        "image shape": " × ".join(map(str, facts.image_shape)),
        "training images": number(facts.n_train),
        "test images": number(facts.n_test) if facts.n_test else "none",
        "seed": facts.seed,
    }
    for title, settings in (("Data", data), ("Options", facts.config), ("Machine", machine)):
        rows = [[key, tag("code", setting(value))] for key, value in _flat(settings)]
        if rows:
            content.append(tag("div", tag("h3", title), table(["", ""], rows), class_="words"))
    draft.page.section("Setup", *content, note="All that is needed to make this model again.")
    draft.page.footer.append(
        tag(
            "p",
            "Method: Ziomek & Farrahi, Modelling nonlinear dependencies in the latent space of "
            "inverse scattering; decoder after Angles & Mallat, Generative networks as inverse "
            "problems with scattering transforms, 2018.",
        )
    )


def _bar(share: float) -> Html:
    return tag("span", class_="bar", style=f"width: {max(100 * share, 0.4):.1f}%")


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested settings as one list, their names joined by dots."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
