"""`scattergen reproduce`: stages that are found again, honest verdicts, a page that opens."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import scattergen as sg
from scattergen.datasets import Dataset, Subset, mnist, open_dataset
from scattergen.decoder import Decoder
from scattergen.decoder.fit import DecoderTraining
from scattergen.densities import hyperparameters, make
from scattergen.densities.networks import posterior
from scattergen.diagnostics import count_rejections
from scattergen.display.progress import SILENT
from scattergen.display.words import number
from scattergen.errors import InputError, RunFolderError
from scattergen.paper import Effort, density_samples, normality, precursors, reproduce_run
from scattergen.paper import reproduce as orchestration
from scattergen.paper.density_samples import _samples_finding as samples_finding
from scattergen.paper.dependence import _battery_finding as dependence_finding
from scattergen.paper.dependence import (
    _permutation_test,
    correlation_of_squares,
    correlation_ratio,
    counter_examples,
    measure_leading,
)
from scattergen.paper.findings import OTHER, PLAIN, UNIT, Measured, by_setting, measured
from scattergen.paper.material import Material, Trials
from scattergen.paper.normality import _averages_finding as averaging_finding
from scattergen.paper.normality import _counts, _whitened
from scattergen.paper.normality import _finding as normality_finding
from scattergen.paper.training_time import _finding as training_finding
from scattergen.paper.training_time import measure as train_pixels
from scattergen.paper.training_time import refits_to_win, time_to_reach
from scattergen.runs import LAST_STAGE, RunFolder, Stages, layout
from scattergen.runs.index import read_index
from test_report import Checker

TINY = Effort("quick", 0.6, (0.1, 0.3), 30, 2, 2, 80, (1, 2), 60, 4, 19, 70, 1, 3, Trials(0.1, (1, 10), 2, 30))
PACKAGE = Path(sg.__file__).parent
STAGES = {
    "leading_components", "normality_counts", "count_search", "density_samples", "codes_in_use",
    "gaussian_marginals", "central_limit", "pixel_vae", "pixel_gan", "nonlinear_dependence",
    "latent_prior", "other_decoder", "raw_coefficients", "stability",
}  # fmt: skip


@pytest.fixture(scope="module")
def reproduced(fitted, digits, tmp_path_factory):
    """A run with a finished reproduction, not to be changed."""
    run = shutil.copytree(fitted, tmp_path_factory.mktemp("reproduced") / "a&b")
    result = reproduce_run(run, open_dataset(digits), effort=TINY, command="scattergen reproduce <x>")
    assert not result.finished_before
    return result


@pytest.fixture
def reproduced_copy(reproduced, tmp_path):
    """A copy of that run, to be changed."""
    return shutil.copytree(reproduced.page.parent, tmp_path / "a&b")


@pytest.fixture
def material(fitted, digits):
    return Material(RunFolder.open(fitted), open_dataset(digits), TINY, 0, "cpu", SILENT)


def cached(path):
    """Stage to its file, of those that a run folder names."""
    run = RunFolder.open(path)
    return {key.removeprefix("quick-"): run.file(f"paper/{key}") for key in run.names("paper")}


def facts_of(path, stage):
    return RunFolder.open(path).read(f"paper/quick-{stage}")[1]["facts"]


def forget(path, *stages):
    """Make a run as it was before stages were finished."""
    index, run = read_index(path), RunFolder.open(path)
    for stage in stages:
        if run.has(stage):
            run.file(stage).unlink()
        del index.current.stages[stage]
    index.write(path)


def rewrite(path, stage, **tensors):
    """Give a stage of a run other tensors, as if another run had been fitted."""
    run = RunFolder.open(path)
    before, metadata = run.read(stage)
    run.write(stage, run.key(stage), {**before, **tensors}, metadata, run.stages[stage])


def test_the_page_is_whole_and_loads_nothing(reproduced):
    text = reproduced.page.read_text(encoding="utf-8")
    page = Checker(text)
    assert reproduced.page.name == "reproduction-quick.html"
    assert len(text) < 10e6
    assert not {"script", "link", "iframe", "object"} & set(page.elements)
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "scattergen reproduce <x>" in page.text
    assert "beside those of a&b" in page.text


def test_every_section_has_verdict_and_provenance(reproduced):
    page = Checker(reproduced.page.read_text(encoding="utf-8")).text
    items = [found.item for found in reproduced.findings]
    expected = ["Figure 1", "Table 1", "Figure 2", "Tables 2 and 3", "Table 4"]
    assert [item for item in items if item in expected] == expected
    for found in reproduced.findings:
        # In the table at the top and in its own section.
        assert page.count(found.because) == 2
        assert found.because.endswith(".")
    assert page.count("seed 0 · ") == len(items)
    assert page.count(f"torch {torch.__version__}") == len(items)


def test_the_papers_numbers_stand_beside_ours(reproduced):
    page = Checker(reproduced.page.read_text(encoding="utf-8")).text
    for words in ("the paper ? 41 12 35 16", "31 0.", "27 h 45 min", "73 h", "vae (Table 2) 0.001"):
        assert words in page
    facts = facts_of(reproduced.page.parent, "normality_counts")
    for test, name in (("K2", "D’Agostino K²"), ("JB", "Jarque–Bera")):
        plain, corrected = (facts[kind]["test"][test] for kind in ("counts", "corrected"))
        theirs = {"K2": "41 12", "JB": "35 16"}[test]
        row = f"{name}, test codes, n = 40 {plain[0]} {plain[1]} {theirs}"
        row += f" {corrected[0]} {corrected[1]}"
        assert row in page


def test_again_does_nothing(reproduced_copy, digits, monkeypatch):
    def fail(*arguments):
        raise AssertionError("a stage that was done is computed again")

    before = (reproduced_copy / "reproduction-quick.html").read_bytes()
    failing = {name: dataclasses.replace(stage, measure=fail) for name, stage in orchestration.STAGES.items()}
    monkeypatch.setattr(orchestration, "STAGES", failing)
    data = open_dataset(digits)
    again = reproduce_run(reproduced_copy, data, effort=TINY, command="scattergen reproduce <x>")
    assert again.finished_before
    assert again.page.read_bytes() == before
    again.page.unlink()
    written = reproduce_run(reproduced_copy, data, effort=TINY, command="scattergen reproduce <x>")
    assert not written.finished_before
    assert written.page.read_bytes() == before


def test_killed_between_stages_it_continues(reproduced_copy, digits, monkeypatch):
    files = cached(reproduced_copy)
    assert files.keys() == STAGES
    kept = {name: path.stat().st_mtime_ns for name, path in files.items()}
    last_two = ("gaussian_marginals", "central_limit")
    forget(reproduced_copy, *(f"paper/quick-{name}" for name in last_two))
    stages = dict(orchestration.STAGES)

    def killed(*arguments):
        raise KeyboardInterrupt

    last = dataclasses.replace(stages["central_limit"], measure=killed)
    monkeypatch.setattr(orchestration, "STAGES", {**stages, "central_limit": last})
    data = open_dataset(digits)
    with pytest.raises(KeyboardInterrupt):
        reproduce_run(reproduced_copy, data, effort=TINY)
    assert cached(reproduced_copy).keys() == STAGES - {"central_limit"}
    monkeypatch.setattr(orchestration, "STAGES", stages)
    reproduce_run(reproduced_copy, data, effort=TINY)
    now = {name: path.stat().st_mtime_ns for name, path in cached(reproduced_copy).items()}
    changed = {name for name in STAGES if now[name] != kept[name]}
    assert changed == {*last_two}


def test_stages_depend_on_what_they_use(run_copy, digits):
    def depends():
        run = RunFolder.open(run_copy)
        material = Material(run, open_dataset(digits), TINY, 0, "cpu", SILENT)
        return {name: stage.key(material) for name, stage in orchestration.STAGES.items()}

    def changed(before):
        return {name for name, value in depends().items() if value != before[name]}

    before, tensors = depends(), RunFolder.open(run_copy).read("densities/gan")[0]
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    rewrite(run_copy, "densities/gan", **{name: tensors[name] + 1})
    using_densities = {"density_samples", "nonlinear_dependence", "raw_coefficients", OTHER}
    assert changed(before) == using_densities
    before = depends()
    rewrite(run_copy, "codes", codes=-RunFolder.open(run_copy).read("codes")[0]["codes"])
    using_codes = {
        "leading_components", "normality_counts", "count_search", "density_samples", "codes_in_use",
        "nonlinear_dependence", "raw_coefficients", "stability", "latent_prior", OTHER,
    }  # fmt: skip
    assert changed(before) == using_codes


@pytest.fixture
def stages(tmp_path):
    """Those of a run that holds nothing yet."""
    return Stages(RunFolder.start(tmp_path / "run", {"seed": 0}), SILENT)


def test_a_stage_is_made_again_if_something_changed_or_its_file_is_damaged(stages):
    calls = []

    def measure(work):
        calls.append(work)
        (work / "progress").touch()
        return Measured({"calls": len(calls), "pair": (1, 2)}, {"x": torch.ones(2)})

    def get(n):
        return measured(stages, "stage", {"n": n}, measure)

    first, found = get(1)
    assert not found
    assert first.facts == {"calls": 1, "pair": [1, 2]}  # as from the file
    assert first.seconds > 0
    assert first.machine.endswith(f"torch {torch.__version__}")
    assert not (stages.run.path / "work").exists()
    again, found = get(1)
    assert found
    for name in ("facts", "seconds", "machine"):
        assert getattr(again, name) == getattr(first, name)
    assert torch.equal(again.tensors["x"], torch.ones(2))
    assert get(2)[0].facts["calls"] == 2
    file = stages.run.file("paper/stage")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=rf"{file.name} is missing or damaged: it is made again"):
        assert get(2)[0].facts["calls"] == 3
    file.unlink()
    with pytest.warns(UserWarning, match=rf"{file.name} is missing or damaged: it is made again"):
        assert get(2)[0].facts["calls"] == 4
    assert get(2)[1]


def test_a_stage_that_was_killed_finds_its_progress_again(stages):
    found = []

    def measure(work):
        found.append((work / "progress").exists())
        (work / "progress").touch()
        if len(found) < 4:
            raise KeyboardInterrupt
        return Measured({})

    # Progress of a stage that depended on something else is of no use.
    for n, there in ((1, False), (1, True), (2, False), (1, True)):
        if len(found) < 3:
            with pytest.raises(KeyboardInterrupt):
                measured(stages, "stage", {"n": n}, measure)
        else:
            measured(stages, "stage", {"n": n}, measure)
        assert found[-1] == there


def test_progress_that_nobody_will_need_is_deleted_with_the_next_stage(run_copy):
    stages = Stages(RunFolder.open(run_copy), SILENT)

    def killed(work):
        (work / "progress").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(stages, "stage", {"n": 1}, killed)
    assert [*run_copy.glob("work/*/progress")]
    measured(stages, "stage", {"n": 2}, lambda work: Measured({}))
    assert not (run_copy / "work").exists()


def test_what_a_kill_left_of_a_finished_stage_is_deleted_when_it_is_found(stages):
    measured(stages, "stage", {}, lambda work: Measured({}))
    left = stages.run.work(stages.run.key("paper/stage"))
    left.mkdir(parents=True)
    (left / "progress").touch()
    assert measured(stages, "stage", {}, lambda work: Measured({}))[1]
    assert not left.exists()


def other_codes(path, *_):
    rewrite(path, "codes", codes=-RunFolder.open(path).read("codes")[0]["codes"])


def other_images(path, monkeypatch, arguments):
    data = arguments["data"]
    arguments["data"] = Dataset(data.name, data.train, Subset(data.test, slice(0, 30)))


def other_effort(path, monkeypatch, arguments):
    arguments["effort"] = dataclasses.replace(TINY, n_images=25)


def other_seed(path, monkeypatch, arguments):
    arguments["seed"] = 1


def other_code(path, monkeypatch, arguments):
    read = Path.read_bytes
    changed = PACKAGE / "decoder" / "generator.py"
    monkeypatch.setattr(Path, "read_bytes", lambda p: read(p) + (b"#" if p == changed else b""))


def nothing_else(path, monkeypatch, arguments):
    pass


@pytest.mark.parametrize("change", [nothing_else, other_codes, other_images, other_effort, other_seed, other_code])
def test_a_reproduction_computes_again_what_depends_on_what_changed(run_copy, digits, monkeypatch, change):
    calls = []

    def measure(material, work):
        calls.append(work)
        return Measured({"calls": len(calls)})

    stage = dataclasses.replace(orchestration.STAGES["codes_in_use"], measure=measure)
    monkeypatch.setattr(orchestration, "STAGES", {"codes_in_use": stage})
    monkeypatch.setattr(orchestration, "SECTIONS", ())
    arguments = {"data": open_dataset(digits), "effort": TINY, "seed": 0}
    reproduce_run(run_copy, **arguments)
    before = cached(run_copy)["codes_in_use"]
    page = run_copy / "reproduction-quick.html"
    change(run_copy, monkeypatch, arguments)
    again = reproduce_run(run_copy, **arguments)
    same = change is nothing_else
    assert len(calls) == (1 if same else 2)
    assert again.finished_before == same
    assert facts_of(run_copy, "codes_in_use") == {"calls": len(calls)}
    # What was computed before is gone, and the page is there.
    assert before.exists() == same
    assert page.is_file()
    assert RunFolder.open(run_copy).finished


def test_a_pixel_model_continues_after_a_kill(material, tmp_path, monkeypatch):
    made = []

    def distance(self, images):
        made.append(len(images))
        if len(made) == 2:
            raise KeyboardInterrupt
        return float(len(made))

    def step(*arguments, **keywords):
        raise AssertionError("a training that has come to its end goes on")

    monkeypatch.setattr(Material, "distance", distance)
    material.train = Subset(material.train, slice(0, 30))  # of one batch: a checkpoint every step
    material.effort = dataclasses.replace(TINY, pixel_seconds=0.3, snapshots=(1e-4,))
    with pytest.raises(KeyboardInterrupt):  # when the last samples are scored
        train_pixels("pixel_gan", material, tmp_path)
    (kept,) = tmp_path.glob("snapshot-*.json")
    monkeypatch.setattr(torch.optim.Adam, "step", step)
    found = train_pixels("pixel_gan", material, tmp_path)
    assert made == [30] * 3
    first, last = found.facts["curve"]
    assert first == list(json.loads(kept.read_text()).values())
    assert (first[1], last[1]) == (1, 3)
    assert last[0] >= 0.3
    assert last[0] >= first[0]


def test_the_command(scattergen, reproduced_copy, digits, monkeypatch):
    monkeypatch.setattr("scattergen.cli.opening.mnist", lambda: open_dataset(digits))
    monkeypatch.setattr("scattergen.paper.QUICK", TINY)
    command = ["reproduce", "mnist", "--run", reproduced_copy, "--quick", "-q"]
    lines = scattergen(*command).out.splitlines()
    assert lines[0].startswith("Figure 1: ")
    assert lines[-1] == f"Page: {reproduced_copy / 'reproduction-quick.html'}"
    found = json.loads(scattergen(*command, "--json").out)
    assert not found["finished_before"]  # another command line to show
    assert found["findings"][1]["item"] == "Table 1"
    assert "nothing to do" not in scattergen(*command, "--threads", 1).out  # another machine


def test_runs_and_data_that_cannot_be_reproduced(scattergen, fitted, run_copy, digits, tmp_path):
    error = scattergen("reproduce", "mnist", "--run", fitted, "-q", code=2).err
    assert "was not fitted to mnist: name a run that was (--run), or fit one by" in error
    error = scattergen("reproduce", "mnist", "--run", tmp_path / "none", "-q", code=2).err
    assert "There is no run folder" in error
    data = open_dataset(digits)
    for few in (None, Subset(data.test, slice(0, 19))):
        with pytest.raises(InputError, match=r"(no|19) test images: .* at least 20"):
            reproduce_run(fitted, Dataset("digits", data.train, few), effort=TINY)
    colour = Dataset("faces", Wide(data.train), Wide(data.test))
    with pytest.raises(InputError, match="faces has images of 3 × 28 × 28"):
        reproduce_run(fitted, colour, effort=TINY)
    run = RunFolder.open(run_copy)
    for key in ("vae", "gan"):
        name = f"densities/{key}"
        run.write(name, run.key(name), *run.read("densities/gaussian"))
    with pytest.raises(RunFolderError, match=r'"vae" of .* is of the kind gaussian'):
        reproduce_run(run_copy, data, effort=TINY)
    forget(run_copy, "decoder")
    with pytest.raises(RunFolderError, match="has no decoder"):
        reproduce_run(run_copy, data, effort=TINY)
    assert not RunFolder.open(run_copy).names("paper")
    assert not (run_copy / "paper").exists()


class Wide(Subset):
    """Images that say they have three channels."""

    def __init__(self, source):
        super().__init__(source, slice(None))
        self.shape = (3, *self.source.shape[1:])


def test_every_file_of_a_run_is_known_as_scattergens_own(scattergen, reproduced_copy, digits, tmp_path):
    """Others are never deleted, so that one which is not known would outlive its run."""
    scattergen("evaluate", reproduced_copy, "--images", digits, "-n", 30, "-q")
    scattergen("diagnose", reproduced_copy, "--density", "mixture", "-n", 60, "-q",
               "--components", 4, "--simulations", 19)  # fmt: skip
    scattergen("density", reproduced_copy, "gaussian", "--as", "another-1.5", "-q")
    there = {str(p.relative_to(reproduced_copy)) for p in reproduced_copy.rglob("*") if p.is_file()}
    run = RunFolder.open(reproduced_copy)
    others = {layout.INDEX, layout.LOCK}
    assert there - set(layout.own_files(reproduced_copy)) == others
    named = read_index(reproduced_copy).current.named()
    assert there == others | {layout.METRICS} | named  # so that each goes with its run
    added = f"densities/another-1.5-{run.key('densities/another-1.5')}.safetensors"
    assert {"evaluation.json", "reproduction-quick.html", added} < there


def test_overwriting_a_run_removes_its_reproduction(scattergen, reproduced_copy, digits, tiny):
    fit = ["fit", digits, "--out", reproduced_copy, "-q", "--overwrite", *tiny]
    scattergen(*fit, "--set", "training.epochs=1")
    assert not (reproduced_copy / "paper").exists()
    assert not (reproduced_copy / "reproduction-quick.html").exists()


@pytest.mark.parametrize(("once", "latent", "pixel"), [(244, 38, 240), (240, 40, 160), (10, 1, 90)])
def test_refits_to_win_are_the_fewest(once, latent, pixel):
    k = refits_to_win(once, latent, pixel)
    assert once + k * latent < k * pixel
    assert once + (k - 1) * latent >= (k - 1) * pixel


def test_a_pixel_model_that_is_faster_is_never_beaten():
    assert refits_to_win(10, 5, 5) is None
    assert time_to_reach([[1, 9.0], [2, 4.0], [3, 1.0]], 4.0) == 2
    assert time_to_reach([[1, 9.0]], 4.0) is None


def test_counter_examples_are_white_and_dependent():
    n = 100_000
    pairs = list(counter_examples(n, np.random.default_rng(1)).values())
    for z in pairs:
        # The mean of n products z₁z₂ of variance E z₁²z₂² ≤ E z⁴ = 3 has a standard deviation of at
        # most √(3/n); five of them.
        assert abs(np.corrcoef(z.T)[0, 1]) < 5 * np.sqrt(3 / n)
    independent, signed, folded = (correlation_of_squares(*z.T) for z in pairs)
    # Squares have variance 2: the correlation of n independent pairs has a deviation of 1/√n.
    assert abs(independent) < 5 / np.sqrt(n)
    assert signed == pytest.approx(1)
    assert folded == pytest.approx(1)


def test_dependence_of_two_components():
    random = np.random.default_rng(0)
    x, noise = random.standard_normal((2, 500))
    # A parabola has no correlation, and its squares have one: 999 permutations, none as large.
    parabola = x**2 + 0.1 * noise
    for statistic in (correlation_of_squares, correlation_ratio):
        assert _permutation_test(statistic, x, parabola, 0)["p"] == 1 / 1000
    null = [
        _permutation_test(correlation_of_squares, *random.standard_normal((2, 50)), seed)["p"] for seed in range(20)
    ]
    # 20 uniform p-values: all above 0.05 with probability 0.36, more than 5 below with 0.0003.
    assert sum(p < 0.05 for p in null) <= 5


def test_positive_factors_of_coefficients_change_no_count(material):
    images = mnist().test[:60]
    features = material.model.encoder.features(images)
    codes = _whitened(features, 12)
    # Orthonormal columns times √n, in float64: 60 products of at most 1, summed.
    np.testing.assert_allclose(codes.T @ codes / 60, np.eye(12), atol=60 * 1e-15)
    other = _whitened(255 * features, 12)
    assert count_rejections(codes).counts == count_rejections(other).counts


@pytest.mark.parametrize(
    ("vae", "gan", "verdict", "said"),
    [
        (5, 6, "agrees", "Both are."),
        (50, 6, "agrees in part", "Only the GAN is better"),
        (5, 60, "agrees in part", "Only the VAE is better"),
        (50, 60, "disagrees", "Neither is better"),
    ],
)
def test_the_verdict_on_samples_follows_the_distances(vae, gan, verdict, said):
    distances = {"gaussian": 20.0, "vae": vae, "gan": gan}
    other = {"gaussian": 20.0, "vae": 1.5, "gan": 30.0}
    found = samples_finding({"rows": distances}, {UNIT: distances, PLAIN: other})
    assert found.verdict == verdict
    assert said in found.because
    assert "With codes as they are: gaussian 20.0, vae 1.5, gan 30.0." in found.because


def test_a_count_is_compared_in_standard_deviations(material):
    laplace = torch.from_numpy(np.random.default_rng(0).laplace(size=(300, 60)))
    counts = count_rejections(laplace).counts
    row = _counts("the same table every time", 300, lambda n, random: laplace, material)
    found = [*counts["K2"], *counts["JB"]]
    assert row["mean"] == found
    assert row["deviation"] == [0] * 4
    # Without any spread one count is the unit.
    assert row["off"] == max(abs(a - b) for a, b in zip(found, (41, 12, 35, 16), strict=True))
    assert not row["reproduces"]


@pytest.mark.parametrize(
    ("off", "rejected", "verdict", "said"),
    [
        ((9.0, 1.0, 0.5, 8.0), 511, "agrees", "unit norm at n = 200, 300. The paper states neither; Angles and Mallat"),
        (
            (9.0, 1.0, 3.0, 1.5),
            511,
            "agrees",
            "unit norm at n = 200; codes at n = 500. The paper states neither; Angles",
        ),
        (
            (9.0, 3.0, 3.0, 1.9),
            511,
            "agrees in part",
            "n = 500. The paper states neither, so this is a candidate only.",
        ),
        ((9.0, 3.0, 3.0, 8.0), 511, "agrees in part", "do not come out"),
        ((9.0, 3.0, 3.0, 8.0), 0, "disagrees", "No component is rejected"),
    ],
)
def test_the_verdict_on_normality(off, rejected, verdict, said):
    names = ("codes", normality.UNIT_NORM, normality.UNIT_NORM, "codes")
    rows = [
        {"variant": name, "n": n, "off": value, "reproduces": value <= 2}
        for name, n, value in zip(names, (20, 200, 300, 500), off, strict=True)
    ]
    counts = {"K2": [rejected, rejected], "JB": [rejected, rejected]}
    facts = {"d": 512, "corrected": {"test": counts}, "counts": {"test": {"n": 10_000}}}
    found = normality_finding(facts, Measured({"rows": rows}))
    assert found.verdict == verdict
    assert said in found.because


@pytest.mark.parametrize(
    ("pixel_distance", "pixel_seconds", "verdict", "said"),
    [
        # D = 244 s, G = 22 s of the mixture: 244 / (240 - 22) = 1.1.
        (8.0, 240.0, "agrees in part", "from fit 2 on than models of pixels trained so long; but a"),
        (60.0, 240.0, "agrees in part", "from fit 2 on than models of pixels trained so long."),
        (8.0, 20.0, "agrees in part", "never costs less than models of pixels"),
        (1.0, 20.0, "disagrees", "never costs less than models of pixels"),
    ],
)
def test_the_verdict_on_training_time(pixel_distance, pixel_seconds, verdict, said):
    distances = {"gaussian": 20.0, "vae": 50.0, "gan": 40.0, "mixture": 2.0}
    seconds = {"gaussian": 0.1, "vae": 38.0, "gan": 97.0, "mixture": 22.0}
    stages = {f"densities/{key}": {"seconds": value} for key, value in seconds.items()}
    facts = {"rows": {k: {"distance": d} for k, d in distances.items()}, "stages": stages}
    curve = [[5.0, 90.0], [10.0, pixel_distance], [pixel_seconds, pixel_distance]]
    pixels = {"pixel_vae": Measured({"curve": curve, "seconds": pixel_seconds})}
    found = training_finding(facts, pixels, 244.0, "4 min")
    assert found.verdict == verdict
    assert said in found.because
    assert ("neither as good" in found.because) == (pixel_distance > 2)


@pytest.mark.parametrize(
    ("coefficients", "components", "verdict"),
    [(0.5, 0.5, "agrees"), (0.5, 2.0, "agrees in part"), (2.0, 2.0, "disagrees")],
)
def test_the_verdict_on_averaging(coefficients, components, verdict):
    first = {"J": 1, "rejected": 9}
    last = {"J": 3, "rejected": 7}
    for key, factor in (("coefficient_", coefficients), ("", components)):
        for size in ("skewness", "kurtosis"):
            first[key + size], last[key + size] = 1.0, factor
    found = averaging_finding({"rows": [first, last], "d": 64})
    assert found.verdict == verdict
    assert "7 of 64 components are rejected, as the paper argues" in found.because
    none = averaging_finding({"rows": [first, {**last, "rejected": 0}], "d": 64})
    assert none.because.endswith("0 of 64 components are rejected.")


def test_a_count_that_is_far_off_is_no_match_however_large_its_spread(material, monkeypatch):
    # Means twice the paper’s, with a standard deviation as large as the mean: 0.7 of it off.
    draws = iter([(0, 0, 0, 0), (164, 48, 140, 64)])

    class Counted:
        def __init__(self, counts):
            self.counts = {"K2": counts[:2], "JB": counts[2:]}

    monkeypatch.setattr(normality, "count_rejections", lambda *_: Counted(next(draws)))
    row = _counts("wild", 20, lambda n, random: torch.zeros(1), material)
    assert row["mean"] == [82, 24, 70, 32]
    assert row["off"] < 1
    assert not row["reproduces"]


def test_few_test_images_give_way_to_training_images(material):
    # 40 test images and more training images: the dependence is measured where there are more.
    found = measure_leading(material, Path()).facts
    assert (found["of"], found["n"]) == ("training", len(material.training_codes))


def test_a_count_that_comes_near_by_luck_is_measured_again(material, monkeypatch):
    firsts = []

    def lucky_once(name, n, sampler, material, first_draw=0):
        firsts.append(first_draw)
        return {"variant": name, "n": n, "off": 0.0, "reproduces": first_draw == 0}

    monkeypatch.setattr(normality, "_counts", lucky_once)
    found = normality.search(material, Path()).facts
    assert not any(row["reproduces"] for row in found["rows"])
    assert set(firsts) == {0, TINY.draws}


def test_both_settings_of_the_decoder_are_shown(reproduced, material):
    facts = facts_of(reproduced.page.parent, OTHER)
    # The run of the tests has a decoder of codes of unit norm.
    assert (facts["unit_norm"], material.model.decoder.unit_norm) == (False, True)
    densities = ["gaussian", "vae", "gan", "mixture"]  # the paper’s first
    assert list(facts["distances"]) == ["decoded training codes", *densities]
    assert list(facts["latent"]) == ["posterior", "mixture"]
    page = Checker(reproduced.page.read_text(encoding="utf-8")).text
    for setting in (UNIT, PLAIN):
        assert f"none left out, through the decoder of {setting}." in page
        assert f"Decoder of {setting}: decoded codes in which only" in page
    own = facts_of(reproduced.page.parent, "density_samples")["rows"]
    scores = [own["vae"]["distance"], facts["distances"]["vae"]]  # the paper's setting is first
    row = page.index(f"vae {number(scores[0], 2)} {number(scores[1], 2)} ")
    assert page.index("Fréchet distance codes of unit norm codes as they are") < row


def test_the_other_decoder_is_trained_as_the_run_was(material, tmp_path):
    measured = orchestration.STAGES[OTHER].measure(material, tmp_path)
    options = material.run.options["training"]
    # As the fit does it, but for the norms.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(**{**material.model.decoder.hyperparameters, "unit_norm": False})
    codes = material.training_codes
    history = DecoderTraining(**options).fit(decoder, codes, material.train, seed=0)
    assert measured.facts["epochs"] == measured.facts["run_epochs"] == len(history)
    expected = decoder.decode(material.model.sample_codes(30, "vae", 0))
    # The same operations in batches of another size.
    torch.testing.assert_close(measured.tensors["vae"], expected, rtol=1e-4, atol=1e-5)
    longer = 7 * material.model.sample_codes(30, "vae", 0)
    assert (decoder.decode(longer) - expected).abs().max() > 0.01  # it sees the norms
    own = material.model.decode
    torch.testing.assert_close(own(longer), own(longer / 7), rtol=1e-4, atol=1e-5)


def test_less_effort_trains_the_other_decoder_for_fewer_epochs(fitted, digits, tmp_path):
    effort = dataclasses.replace(TINY, decoder_epochs=1)
    quick = Material(RunFolder.open(fitted), open_dataset(digits), effort, 0, "cpu", SILENT)
    quick.run.options["training"]["epochs"] = 2
    assert orchestration.STAGES[OTHER].measure(quick, tmp_path).facts["epochs"] == 1


def test_without_the_other_decoder_the_runs_setting_is_shown(material, monkeypatch):
    own = {"vae": 3.0}
    assert by_setting({}, material, own, "distances") == {UNIT: own}
    other = Measured({"unit_norm": False, "distances": {"vae": 2.0}}, {"vae": torch.zeros(1)})
    found = by_setting({OTHER: other}, material, own, "distances")
    assert list(found.items()) == [(UNIT, own), (PLAIN, {"vae": 2.0})]
    assert by_setting({OTHER: other}, material, {}, "pictures")[PLAIN] is other.tensors
    # Then the other is the paper's, and first.
    monkeypatch.setitem(material.model.decoder.hyperparameters, "unit_norm", False)
    other.facts["unit_norm"] = True
    found = by_setting({OTHER: other}, material, own, "distances")
    assert list(found.items()) == [(UNIT, {"vae": 2.0}), (PLAIN, own)]


def test_the_papers_densities_that_a_run_lacks_are_fitted(run_copy, digits, monkeypatch):
    run = RunFolder.open(run_copy)
    forget(run_copy, "densities/gan")
    monkeypatch.setattr(orchestration, "STAGES", {})
    monkeypatch.setattr(orchestration, "SECTIONS", ())
    reproduce_run(run_copy, open_dataset(digits), effort=TINY)
    fitted = RunFolder.open(run_copy).metadata("densities/gan")
    assert fitted["hyperparameters"] == hyperparameters(make("gan"))
    assert fitted["seed"] == run.options["seed"]


def test_an_unfinished_fit_is_not_reproduced(run_copy, digits):
    forget(run_copy, "densities/gan", LAST_STAGE)
    with pytest.raises(RunFolderError, match="is an unfinished fit: run the `scattergen fit`"):
        reproduce_run(run_copy, open_dataset(digits), effort=TINY)
    assert not RunFolder.open(run_copy).has("densities/gan")


def battery_facts(codes, directions):
    """Facts of the dependence stage, of two tests of independence and one of normality."""

    def tests(pvalues):
        names = zip(("squares", "pairs", "marginals"), pvalues, strict=True)
        return [
            {"name": name, "null": "normal" if name == "marginals" else "independent",
             "pvalue": p, "effect": 0.5, "effect_name": "x"}
            for name, p in names
        ]  # fmt: skip

    rows = {
        "codes": {"tests": tests(codes), "told_apart": None},
        "codes of equal norm": {"tests": tests(directions), "told_apart": None},
    }
    for key, told in {"gaussian": 0.99, "vae": 0.98, "gan": 0.97, "mixture": 0.6}.items():
        rows[key] = {"tests": tests((0.5, 0.5, 0.5)), "told_apart": told}
    return {"rows": rows}


@pytest.mark.parametrize(
    ("codes", "directions", "verdict", "said"),
    [
        ((0.01, 0.01, 0.9), (0.01, 0.9, 0.01), "agrees", "1 of 2 once codes have equal norms, so"),
        ((0.01, 0.01, 0.9), (0.5, 0.9, 0.01), "agrees", "is all that they find"),
        ((0.01, 0.2, 0.01), (0.5, 0.9, 0.01), "agrees in part", "1 of 2 tests of independence"),
        ((0.5, 0.2, 0.01), (0.5, 0.9, 0.01), "disagrees", "No test finds"),
    ],
)
def test_the_verdict_on_dependence_counts_tests_of_independence(codes, directions, verdict, said):
    found = dependence_finding(battery_facts(codes, directions))
    assert found.verdict == verdict
    assert said in found.because
    if verdict != "disagrees":
        assert "0.99 of gaussian" in found.because
        assert "0.60 of mixture, which is not in the paper" in found.because


def test_latent_variables_from_elsewhere_are_scored(material):
    facts = density_samples.measure_prior(material, Path()).facts
    vae = material.model.densities["vae"]
    assert facts["H"] == vae.n_latent
    # The draws of q(h|z) themselves, decoded again here.
    mean, log_variance = posterior(vae.encoder_, material.training_codes)
    mean, log_variance = mean.detach(), log_variance.detach()
    generator = torch.Generator().manual_seed(material.seed)
    h = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator)
    chosen = h[material.numbers(len(h), material.n_images, stream=10)]
    distance = material.distance_of_codes(vae.decoder_(chosen).detach())
    assert facts["distances"]["posterior"] == pytest.approx(distance)
    assert facts["norms"][0] == pytest.approx(h.norm(dim=1).mean().item())


@pytest.mark.parametrize(
    ("vae", "mixture", "verdict", "said"),
    [
        (77.0, 5.0, "disagrees", "are not “close to independent"),
        (5.0, 2.0, "agrees", "keeps 92 % of what the best source of h gains"),
        (20.0, 3.0, "agrees in part", "keeps 54 % of"),
        (20.0, 41.0, "cannot be compared", "is not what these samples lack"),
    ],
)
def test_the_verdict_on_the_prior_follows_the_distances(vae, mixture, verdict, said):
    # The draws of q(h|z) score 2: of 41 - 2 there are (41 - 5)/39 = 92 % and (41 - 20)/39 = 54 %.
    found = density_samples._prior_finding(UNIT, {"posterior": 2.0, "mixture": mixture}, vae, 41.0)
    assert found.verdict == verdict
    assert said in found.because
    words = f"With codes of unit norm and h from N(0, I) the paper’s VAE scores {vae:.1f}"
    assert words in found.because
    assert said in found.because


@pytest.mark.parametrize(
    ("inside", "outside", "verdict", "said"),
    [
        ([10.0, 1.0], [100.0, 1.0], "agrees", "the better space to interpolate in"),
        ([80.0, 1.0], [100.0, 1.0], "agrees in part", "mostly no such images there either"),
        ([98.0, 1.0], [100.0, 1.0], "agrees in part", "no better a space"),
        ([120.0, 1.0], [100.0, 1.0], "agrees in part", "no better a space"),
    ],
)
def test_the_verdict_on_interpolation_minds_the_errors(inside, outside, verdict, said):
    midpoints = {"in code space": inside, "of pixels": outside}
    facts = {"psnr": {"training": 30.0, "test": 29.0}, "midpoints": midpoints}
    found = precursors._codes_finding(facts)
    assert found.verdict == verdict
    assert said in found.because
