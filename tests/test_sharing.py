"""Decoders for other programs, folders to pass on, and models on a Hub that is a folder here."""

import inspect
import json
import logging
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import scattergen as sg
from scattergen.decoder.local import LinearDecoder, LocalDecoder
from scattergen.decoder.sharpening import Sharpening
from scattergen.errors import InputError, RunFolderError, ScattergenError
from scattergen.runs import RunFolder
from scattergen.sharing import decoder_files
from scattergen.sharing.card import is_celeba
from scattergen.sharing.decoder_files import export_decoder
from scattergen.sharing.hub import parse_name, push

ASKED = ("create_repo", "model_info", "list_repo_files", "upload_folder", "hf_hub_download", "snapshot_download")
try:
    import huggingface_hub as client

    SIGNATURES = {name: inspect.signature(getattr(client, name)) for name in ASKED}
except ImportError:
    SIGNATURES = {}

GOLDEN = Path(__file__).parent / "golden" / "run"
PAGE = Path(__file__).parents[1] / "docs" / "sharing.md"


@pytest.fixture(scope="module")
def exported(fitted, scattergen, tmp_path_factory):
    """A folder made of the finished run, and what was printed."""
    out = tmp_path_factory.mktemp("exported") / "small"
    return out, scattergen("export", fitted, "--to", "folder", "--out", out, "--quiet").out


# Decoders


def random_codes(n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n))


def test_a_program_of_torch_export_makes_the_same_images(fitted, scattergen, tmp_path):
    out = tmp_path / "decoder.pt2"
    told = json.loads(scattergen("export", fitted, "--to", "torch", "--out", out, "--json", "--quiet").out)
    assert told["out"] == str(out)
    assert told["largest_difference"] <= 1e-6
    decode, model = torch.export.load(out).module(), sg.load(fitted, densities=[])
    for n in (1, 3, 300):
        codes = random_codes(n, 16)
        # The same operations in the same order, but for products whose sums may be split otherwise.
        torch.testing.assert_close(decode(codes), model.decode(codes), rtol=0, atol=1e-6)


@pytest.mark.parametrize("image_shape", [(1, 8, 8), (3, 8, 8)])
def test_decoders_of_the_presets_widths_are_exported(tmp_path, image_shape):
    """Whose last convolution mixes channels before it shifts, as it has fewer taps than channels."""
    decoder = sg.decoder.Decoder(6, image_shape, channels=(16, 32))
    model = sg.GenerativeScatteringNetwork(sg.ScatteringEncoder(image_shape, J=1, n_components=6), decoder)
    assert export_decoder(model, tmp_path / "decoder.pt2", "torch") <= 1e-6  # as above


def test_a_decoder_that_cannot_be_exported(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Constraints violated (N)! And more.")

    monkeypatch.setattr(torch.export, "export", fail)
    image_shape = (1, 8, 8)
    decoder = sg.decoder.Decoder(6, image_shape, channels=(4,))
    model = sg.GenerativeScatteringNetwork(sg.ScatteringEncoder(image_shape, J=1, n_components=6), decoder)
    with pytest.raises(ScattergenError, match=r"cannot export this decoder \(.*Constraints violated.*\): try another"):
        export_decoder(model, tmp_path / "decoder.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_file_makes_the_same_sharpened_images_of_odd_sizes(tmp_path):
    pytest.importorskip("onnxscript", reason="the extra onnx (130 MB) is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx (130 MB) is not installed")
    x = torch.rand(60, 3, 14, 18, generator=torch.Generator().manual_seed(0))
    encoder = sg.ScatteringEncoder((3, 14, 18), J=1, L=2, n_components=12).fit(x)
    decoder = LocalDecoder(LinearDecoder.of(encoder, n_channels=8).fit(encoder.transform(x), x), channels=(8, 4))
    torch.nn.init.normal_(decoder.last.weight, 0, 0.1)
    sharpening = Sharpening(torch.linspace(1, 2, 18))
    model = sg.GenerativeScatteringNetwork(encoder, decoder, sharpening=sharpening, sharpen=0.7)
    out = tmp_path / "decoder.onnx"
    assert export_decoder(model, out, "onnx", sharpen=0.7) < 1e-4
    session = runtime.InferenceSession(out)
    for n in (1, 70):
        codes = random_codes(n, 12)
        (images,) = session.run(["images"], {"codes": codes.numpy()})
        # Some hundred float32 products of numbers of size 1 are added in another order, layer after layer.
        torch.testing.assert_close(torch.from_numpy(images), model.decode(codes, sharpen=0.7), rtol=0, atol=1e-4)
    assert not torch.allclose(torch.from_numpy(images), model.decode(codes), atol=1e-2)


def test_a_file_that_decodes_otherwise_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(decoder_files, "_as_torch", lambda *_: lambda codes: torch.zeros(len(codes), 1, 8, 8))
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    with pytest.raises(ScattergenError, match=r"not kept, .* differ from the model's by"):
        export_decoder(sg.load(GOLDEN), tmp_path / "decoder.pt2", "torch")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("d.pt2", "onnx"), r"d.pt2 is no name for such a file: give one that ends in \.onnx"),
        (("d", "torch"), r"ends in \.pt2"),
        (("d.onnx", "onnx"), r"pip install 'scattergen\[onnx\]', or export --to torch"),
    ],
)
def test_decoders_that_cannot_be_written(given, message, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=message):
        export_decoder(sg.load(GOLDEN, densities=[]), tmp_path / given[0], given[1])
    with pytest.raises(InputError, match="has no sharpening"):
        export_decoder(sg.load(GOLDEN, densities=[]), tmp_path / "d.pt2", "torch", sharpen=0.5)


# Folders


def test_a_folder_lacks_codes_and_real_images_and_makes_the_same_new_ones(fitted, exported):
    out, _ = exported
    names = {file.name.partition("-")[0] for file in out.iterdir()}
    assert names == {"README.md", "decoder", "densities", "encoder", "linear", "run.json", "sampling", "samples.png"}
    small, whole = sg.load(out), sg.load(fitted)
    assert small.densities.keys() == whole.densities.keys()
    for key in whole.densities:
        assert torch.equal(small.sample(3, key, seed=1), whole.sample(3, key, seed=1))
    assert small.best == whole.best


def test_a_folder_can_be_asked_for_everything_but_codes(exported, scattergen, digits, tmp_path):
    run = shutil.copytree(exported[0], tmp_path / "run")
    error = scattergen("density", run, "mixture", "--as", "other", code=2).err
    assert error.startswith(f"error: {run} has no codes: ")
    assert error.count("\n") == 1
    assert "files intact" in scattergen("info", run).out
    evaluated = scattergen("evaluate", run, "--images", digits, "-n", 20, "--density", "gaussian", "--quiet")
    assert "Scores:" in evaluated.out
    # They go along; the next card still tells what the report does, which has all densities.
    text = scattergen("export", run, "--to", "folder", "--out", tmp_path / "next", "--license", "mit", "-q").out
    before = (run / "README.md").read_text(encoding="utf-8")
    assert before.partition("## How good")[2] in text
    assert json.loads((tmp_path / "next" / "evaluation.json").read_text())["n"] == 20


def test_the_same_fit_makes_the_codes_again(exported, digits, tiny, scattergen, fitted, assert_same_model, tmp_path):
    run = shutil.copytree(exported[0], tmp_path / "run")
    scattergen("fit", digits, "--out", run, "--quiet", *tiny)
    assert_same_model(run, fitted)


def test_runs_without_pictures_and_models_from_python_are_exported_too(scattergen, tmp_path):
    model = sg.load(GOLDEN)
    model.fit_density("parzen", random_codes(20, 4))
    model.save(tmp_path / "saved")
    for run in (GOLDEN, tmp_path / "saved"):
        text = scattergen("export", run, "--to", "folder", "--out", tmp_path / f"{run.name}-small", "-q").out
        assert ("It was not measured" in text) == (run != GOLDEN)
        assert ("- `parzen` keeps training codes and blends" in text) == (run != GOLDEN)
        assert len(sg.load(tmp_path / f"{run.name}-small").sample(2, ["gan", "parzen"][run != GOLDEN])) == 2


def test_what_cannot_become_a_folder(run_copy, scattergen, exported):
    error = scattergen("export", run_copy, "--to", "folder", "--out", exported[0], code=2).err
    assert "is there already: name a new folder" in error
    error = scattergen("export", run_copy, "--to", "folder", "--out", run_copy / "a", "--license", "My own", code=2).err
    assert '"My own" is no licence as Hugging Face writes it' in error
    next((run_copy / "densities").iterdir()).write_bytes(b"")
    error = scattergen("export", run_copy, "--to", "folder", "--out", run_copy / "a", code=2).err
    assert "is not the file that was written there" in error
    assert not (run_copy / "a").exists()


def test_the_card_tells_scores_and_what_is_missing(fitted, exported):
    card = (exported[0] / "README.md").read_text(encoding="utf-8")
    assert exported[1].startswith(card)
    header = card.split("---\n")[1].splitlines()
    assert header[:2] == ["license: unknown", "library_name: scattergen"]
    assert "Licence of the data: **missing**. Say here" in card
    judgement = RunFolder.open(fitted).stages["report"]["judgement"]
    table = [line.removesuffix(" |").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    assert table[1][0] == "| real images, used in training"  # the floor
    found = {name.removeprefix("| ").strip("`"): distance for name, distance, _ in table[1:]}
    for key in ("gaussian", "mixture", "vae", "gan"):
        value, error = found[key].replace("−", "-").replace(",", "").split(" ± ")
        row = judgement["rows"][key]
        assert (float(value), float(error)) == (round(row["kernel"], 2), round(row["standard_error"], 2))
    assert len(table) == 1 + len(judgement["rows"])


# The Hub


class FakeHub(ModuleType):
    """The Hub's client, whose repositories are folders here; what it is asked must suit the real one, if installed."""

    def __init__(self, place):
        super().__init__("huggingface_hub")
        self.place, self.public, self.revisions = place, set(), []
        self.constants = ModuleType("huggingface_hub.constants")
        self.constants.HF_HOME = str(place / "cache")

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name in SIGNATURES:

            def checked(*args, **kwargs):
                SIGNATURES[name].bind(*args, **kwargs)
                return found(*args, **kwargs)

            return checked
        return found

    def repository(self, name):
        return self.place / "hub" / name

    def create_repo(self, repo_id, *, private, exist_ok):
        if not self.repository(repo_id).exists() and not private:
            self.public.add(repo_id)
        self.repository(repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://huggingface.co/{repo_id}"

    def model_info(self, repo_id):
        return SimpleNamespace(private=repo_id not in self.public)

    def list_repo_files(self, repo_id):
        files = self.repository(repo_id).rglob("*")
        return [file.relative_to(self.repository(repo_id)).as_posix() for file in files if file.is_file()]

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        new = {file.relative_to(folder_path).as_posix() for file in Path(folder_path).rglob("*")}
        for name in self.list_repo_files(repo_id):
            if name not in new and any(fnmatch(name, pattern) for pattern in delete_patterns):
                (self.repository(repo_id) / name).unlink()
        shutil.copytree(folder_path, self.repository(repo_id), dirs_exist_ok=True)

    def hf_hub_download(self, repo_id, filename, *, revision, local_dir):
        self.snapshot_download(repo_id, revision=revision, local_dir=local_dir, allow_patterns=[filename])

    def snapshot_download(self, repo_id, *, revision, local_dir, allow_patterns):
        self.revisions.append(revision)
        for name in self.list_repo_files(repo_id):
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (Path(local_dir) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.repository(repo_id) / name, Path(local_dir) / name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = FakeHub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", hub.constants)
    monkeypatch.setitem(sys.modules, "huggingface_hub.file_download", ModuleType("file_download"))
    return hub


def test_a_model_is_pushed_and_loaded(hub, fitted, scattergen, tmp_path):
    told = scattergen("push", fitted, "me/digits", "--license", "mit", "--quiet").out
    assert told.startswith("https://huggingface.co/me/digits: read its card")
    there = hub.repository("me/digits")
    assert not [name for name in hub.list_repo_files("me/digits") if name.startswith("codes")]
    assert "license: mit\n" in (there / "README.md").read_text()
    assert 'sg.load("hf:me/digits")' in (there / "README.md").read_text()
    for name in ("evil.py", "densities/more.pkl", "report.html", "other.safetensors"):
        (there / name).touch()
    model = sg.load("hf:me/digits@main")
    assert torch.equal(model.sample(2, "vae"), sg.load(fitted).sample(2, "vae"))
    assert hub.revisions == ["main", "main"]
    fetched = tmp_path / "cache" / "scattergen" / "me--digits--main"
    found = {file.name.partition("-")[0] for file in fetched.rglob("*") if file.is_file()}
    assert found == {"run.json", "encoder", "decoder", "linear", "sampling", "gaussian", "mixture", "vae", "gan"}
    # Every command takes it.
    scattergen("sample", "hf:me/digits", "--out", tmp_path / "new.npz", "-n", 4, "--quiet")
    assert "files intact" in scattergen("info", "hf:me/digits").out
    # The model before goes, the rest stays.
    scattergen("push", GOLDEN, "me/digits", "--quiet")
    left = {*hub.list_repo_files("me/digits")}
    assert {"evil.py", "other.safetensors"} < left
    densities = [f"densities/{key}" for key in RunFolder.open(fitted).names("densities")]
    assert not left & {str(RunFolder.open(fitted).file(name).relative_to(fitted)) for name in densities}


def test_an_edited_card_is_pushed_as_it_is(hub, exported, scattergen, tmp_path):
    run = shutil.copytree(exported[0], tmp_path / "run")
    (run / "README.md").write_text("Mine: hf:USER/NAME")
    scattergen("push", run, "me/digits", "--quiet")
    assert (hub.repository("me/digits") / "README.md").read_text() == "Mine: hf:me/digits"


def test_a_dry_run_shows_everything_and_sends_nothing(monkeypatch, fitted, scattergen):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # which it does not need
    told = scattergen("push", fitted, "me/digits", "--dry-run", "--quiet").out
    assert "# digits\n" in told
    assert re.search(r"MB  decoder-\w{16}\.safetensors\n", told)
    assert told.endswith("Nothing was sent to https://huggingface.co/me/digits.\n")
    error = scattergen("push", fitted, "me/digits", "--quiet", code=2).err
    assert error == (
        "error: me/digits cannot be pushed: install the package huggingface_hub by pip install 'scattergen[hub]'.\n"
    )


def test_repositories_that_are_others_are_left_alone(hub, scattergen):
    hub.create_repo("me/open", private=False, exist_ok=True)
    error = scattergen("push", GOLDEN, "me/open", "--private", "--quiet", code=2).err
    assert "is there already and public: make it private" in error
    (hub.repository("me/open") / "model.safetensors").touch()
    error = scattergen("push", GOLDEN, "me/open", "--quiet", code=2).err
    assert "holds something else (model.safetensors): choose another name" in error
    assert hub.list_repo_files("me/open") == ["model.safetensors"]
    scattergen("push", GOLDEN, "me/closed", "--private", "--quiet")
    assert hub.model_info("me/closed").private


def test_the_card_names_the_dataset_of_the_hub(tmp_path):
    run = RunFolder.open(GOLDEN)
    run._record.options["data"]["name"] = "hf:me/images"
    card = push(run, "me/emoji", dry_run=True)[1]
    assert "\ndatasets:\n- me/images\ntags:\n" in card
    assert "**missing**. Say here" in card
    assert "published (see https://huggingface.co/datasets/me/images).\n" in card


def test_celeba_is_not_pushed(tmp_path):
    run = RunFolder.open(GOLDEN)
    assert not is_celeba(run)
    for options in ({"preset": "celeba-light"}, {"preset": "auto", "data": {"name": "img_align_celeba"}}):
        run._record.options = options
        with pytest.raises(InputError, match="fitted to CelebA, whose terms"):
            push(run, "me/faces", dry_run=True)


def test_a_tampered_run_of_the_hub_is_refused(hub, tmp_path):
    push(RunFolder.open(GOLDEN), "me/bad")
    index = hub.repository("me/bad") / "run.json"
    index.write_text(index.read_text().replace("gaussian", "../../me"))
    with pytest.raises(RunFolderError, match="changed after it was written"):
        sg.load("hf:me/bad")
    index.write_text("{}")
    with pytest.raises(RunFolderError, match="damaged"):
        sg.load("hf:me/bad")


def test_failures_of_the_client_are_a_sentence(hub, monkeypatch, scattergen, caplog):
    def fail(*_, **__):
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s")
        raise error

    for name in ("hf_hub_download", "create_repo"):
        monkeypatch.setattr(hub, name, fail)
    error = ValueError("404\n\nRepository Not Found.")
    told = scattergen("info", "hf:me/none", code=2).err
    assert told.startswith("error: hf:me/none cannot be fetched (ValueError: 404 Repository Not Found): check name and")
    told = scattergen("push", GOLDEN, "me/none", "--quiet", code=2).err
    assert "log in by `hf auth login` with a token that may write" in told
    assert not caplog.records


def test_names_of_models():
    assert parse_name("hf:me/a.b") == ("me/a.b", None)
    assert parse_name("me/a@refs/pr/1") == ("me/a", "refs/pr/1")
    for text in ("hf:me", "hf:a/b/c", "hf:a/b@", "hf:../a/b", "a b/c", "hf:"):
        with pytest.raises(InputError, match="names no model on the Hugging Face Hub: write USER/NAME"):
            parse_name(text)


def test_the_programs_of_the_page(hub, monkeypatch, tmp_path):
    """What `export` writes is written here by what the tests above check."""
    runtime = ModuleType("onnxruntime")

    class InferenceSession:
        def __init__(self, path):
            assert path == "decoder.onnx"

        def run(self, outputs, inputs):
            return [model.decode(inputs["codes"]).numpy() for _ in outputs]

    runtime.InferenceSession = InferenceSession
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setattr(torch.export, "load", lambda path: SimpleNamespace(module=lambda: model.decode))
    monkeypatch.chdir(tmp_path)
    push(RunFolder.open(GOLDEN), "USER/emoji")
    shutil.copytree(GOLDEN, "runs/mnist")
    model = sg.load(GOLDEN)
    found = {}
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(programs) == 5
    for program in programs:
        exec(program, found)
    assert Path("new.png").is_file()
    expected = model.sample(100, "mixture", seed=0)
    torch.testing.assert_close(torch.as_tensor(found["images"]), expected, rtol=0, atol=1e-6)
    z = model.sample_codes(20_000, "mixture")
    # Drawn otherwise from the same mixture: means of 100 codes of variance 1 differ by 0.1 as a rule.
    assert np.abs(found["codes"].mean(0) - z.mean(0).numpy()).max() < 0.5


# Folders whose files are not as expected


def test_a_malformed_evaluation_is_not_in_the_card(fitted, digits, scattergen, tmp_path):
    sg.load(fitted, densities=["gaussian"]).save(tmp_path / "run")
    scattergen("evaluate", tmp_path / "run", "--images", digits, "-n", 40, "-q")
    export = ["export", tmp_path / "run", "--to", "folder", "-q", "--out"]
    assert "encoded and decoded |" in scattergen(*export, tmp_path / "whole").out
    for content in ('{"rows": {"a": 1}}', "x"):
        (tmp_path / "run" / "evaluation.json").write_text(content)
        assert "encoded and decoded |" not in scattergen(*export, tmp_path / content[:1]).out


def test_a_card_that_is_no_text_or_a_link(run_copy, scattergen, tmp_path):
    export = ["export", run_copy, "--to", "folder", "--out", tmp_path / "out", "-q"]
    (run_copy / "README.md").write_bytes(b"caf\xe9")
    assert "README.md is no text in UTF-8" in scattergen(*export, code=2).err
    (run_copy / "README.md").unlink()
    (tmp_path / "secret").write_text("secret")
    (run_copy / "README.md").symlink_to(tmp_path / "secret")
    assert "README.md is a link" in scattergen(*export, code=2).err


def test_links_in_the_place_of_an_export_are_not_followed(fitted, scattergen, exported, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(exported[0], out)
    (out / "run.json").unlink()
    shutil.rmtree(out / "densities")
    (tmp_path / "elsewhere").mkdir()
    (out / "densities").symlink_to(tmp_path / "elsewhere")
    error = scattergen("export", fitted, "--to", "folder", "--out", out, "-q", code=2).err
    assert "is there already" in error
    assert not [*(tmp_path / "elsewhere").iterdir()]


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_no_sharpening_to_build_into_a_decoder(fitted, tmp_path, monkeypatch, to):
    monkeypatch.setattr(decoder_files, "find_spec", lambda _: True)
    with pytest.raises(InputError, match="has no sharpening"):
        export_decoder(sg.load(fitted), tmp_path / f"a{decoder_files.ENDINGS[to]}", to, sharpen=0.5)
    assert not [*tmp_path.iterdir()]


def test_an_export_that_was_killed_goes_on(fitted, scattergen, exported, tmp_path):
    out, export = tmp_path / "out", ["export", fitted, "--to", "folder", "--out", tmp_path / "out", "-q"]
    shutil.copytree(exported[0], out)
    assert "is there already" in scattergen(*export, code=2).err
    (out / "run.json").unlink()
    (out / ".writing-decoder.safetensors-123").write_text("half of it")
    scattergen(*export)
    assert "files intact" in scattergen("info", out).out
    shutil.rmtree(out)
    out.mkdir()
    (out / ".writing-decoder.safetensors-123").write_text("half of the first file")
    scattergen(*export)
    assert "files intact" in scattergen("info", out).out


@pytest.mark.parametrize("name", ["README.md", "samples.png", "mine.txt"])
def test_an_export_replaces_nothing_of_ones_own(fitted, scattergen, tmp_path, name):
    (tmp_path / name).write_text("mine")
    assert "is there already" in scattergen("export", fitted, "--to", "folder", "--out", tmp_path, "-q", code=2).err
    assert [*tmp_path.iterdir()] == [tmp_path / name]


def test_options_of_another_kind_of_export(fitted, scattergen, tmp_path):
    export = ["export", fitted, "--out", tmp_path / "a.onnx", "-q", "--to"]
    assert "leave out --license" in scattergen(*export, "onnx", "--license", "mit", code=2).err
    assert "leave out --sharpen" in scattergen(*export, "folder", "--sharpen", 0.5, code=2).err


def test_only_runs_are_fetched(hub, fitted, scattergen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    push(RunFolder.open(fitted), "me/digits")
    assert json.loads(scattergen("compare", fitted, "hf:me/digits", "--json").out)["measured"]
    scattergen("sample", fitted, "--out", "hf:me/digits", "-n", 2, "-q")
    assert (tmp_path / "hf:me" / "digits").is_dir()
