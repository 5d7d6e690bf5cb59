"""Hugging Face datasets: names, columns, splits, and how their images are decoded."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scattergen.datasets import ImageFolder, ImageSource, class_labels, open_dataset
from scattergen.datasets.huggingface import HuggingFaceImages, HuggingFaceName
from scattergen.errors import InputError

try:
    import datasets
except ImportError:
    datasets = None

needs_package = pytest.mark.skipif(datasets is None, reason="the extra huggingface (300 MB) is not installed")


def levels(n=12, side=16, channels=3):
    shape = (n, side, side, 3) if channels == 3 else (n, side, side)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels, suffix="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix, **options)
    return {"bytes": file.getvalue(), "path": None}


def table(pixels, **columns):
    """A table with a column of images and one of three classes."""
    n = len(pixels)
    content = {"picture": [encoded(p) for p in pixels], "kind": [i % 3 for i in range(n)]}
    features = {
        "picture": datasets.Image(),
        "kind": datasets.ClassLabel(names=["ape", "bee", "cow"]),
        **{name: feature for name, (feature, _) in columns.items()},
    }
    content |= {name: values for name, (_, values) in columns.items()}
    return datasets.Dataset.from_dict(content, datasets.Features(features))


def batch(pixels):
    planes = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return torch.from_numpy(planes.copy()).float() / 255


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The package's copies of Parquet files go here."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# Names


def test_a_name_may_have_options():
    assert HuggingFaceName.parse("hf:user/name") == HuggingFaceName("user/name")
    assert HuggingFaceName.parse("hf:user/name,config=plain,split=train,image=img,label=fine") == HuggingFaceName(
        "user/name", "plain", "train", "img", "fine"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf:", "names no dataset"),
        ("hf:,split=train", "names no dataset"),
        ("hf:a,columns=3", '"columns=3" in .* is not an option .*,config=…, ,split=…'),
        ("hf:a,split=", '"split=" in'),
        ("hf:a,train", '"train" in'),
        ("hf:a,split=a,split=b", '"split=b" in'),
    ],
)
def test_names_that_say_nothing(text, message):
    with pytest.raises(InputError, match=message):
        open_dataset(text)


def test_a_missing_package_is_a_sentence(monkeypatch, scattergen, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    error = scattergen("fit", "hf:user/name", "--out", tmp_path / "run", code=2).err
    assert error == (
        "error: hf:user/name needs the package datasets: install it by pip install 'scattergen[huggingface]'.\n"
    )


# Sources that were saved here


@needs_package
def test_saved_splits_are_train_and_test(tmp_path):
    train, test = levels(12), levels(20)[12:]
    tables = {"test": table(test), "train": table(train)}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "beasts")
    dataset = open_dataset(f"hf:{tmp_path / 'beasts'}")
    assert dataset.name.endswith("beasts")
    assert isinstance(dataset.train, ImageSource)
    assert torch.equal(dataset.train[:], batch(train))
    assert torch.equal(dataset.train[torch.tensor([7, -1])], batch(train)[[7, 11]])
    assert torch.equal(dataset.test[:], batch(test))
    assert dataset.train.labels.tolist() == [0, 1, 2] * 4
    assert class_labels(dataset.test).classes == ("ape", "bee", "cow")


@needs_package
def test_without_a_test_split_some_rows_are_held_out(tmp_path):
    table(levels(30)).save_to_disk(tmp_path / "beasts")
    dataset = open_dataset(f"hf:{tmp_path / 'beasts'}")
    assert (len(dataset.train), len(dataset.test)) == (27, 3)
    both = torch.cat([dataset.train[:], dataset.test[:]])
    assert torch.equal(both.sum((1, 2, 3)).sort()[0], batch(levels(30)).sum((1, 2, 3)).sort()[0])
    assert open_dataset(f"hf:{tmp_path / 'beasts'}", test_fraction=0).test is None
    again = open_dataset(f"hf:{tmp_path / 'beasts'}")
    assert again.train.fingerprint == dataset.train.fingerprint


@needs_package
def test_validation_images_stand_in_for_tests_and_a_split_can_be_chosen(tmp_path):
    tables = {"validation": table(levels(4)), "train": table(levels(12))}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "beasts")
    assert len(open_dataset(f"hf:{tmp_path / 'beasts'}").test) == 4
    chosen = open_dataset(f"hf:{tmp_path / 'beasts'},split=validation")
    assert (len(chosen.train), len(chosen.test)) == (3, 1)
    with pytest.raises(InputError, match="has no split extra: choose one of validation, train"):
        open_dataset(f"hf:{tmp_path / 'beasts'},split=extra")
    del tables["train"]
    tables["extra"] = tables["validation"]
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "others")
    with pytest.raises(InputError, match="no split train but validation, extra: choose one by ,sp"):
        open_dataset(f"hf:{tmp_path / 'others'}")


@needs_package
@pytest.mark.parametrize("as_folder", [True, False])
def test_parquet(tmp_path, own_cache, as_folder):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "train.parquet"
    table(levels()).to_parquet(file)
    dataset = open_dataset(f"hf:{file.parent if as_folder else file}", test_fraction=0)
    assert torch.equal(dataset.train[:], batch(levels()))
    assert dataset.train.classes == ("ape", "bee", "cow")


@needs_package
def test_a_run_is_fitted_and_used(scattergen, tiny, tmp_path):
    table(levels(60, channels=1)).save_to_disk(tmp_path / "beasts")
    source, run = f"hf:{tmp_path / 'beasts'}", tmp_path / "run"
    fit = ["fit", source, "--out", run, "-q", "--densities", "gaussian", *tiny[:6]]
    fit += ["--set", "training.epochs=1"]
    scattergen(*fit)
    assert "nothing to do" in scattergen(*fit).out
    scattergen("encode", run, source, "--out", tmp_path / "codes.npz", "-q")
    assert len(np.load(tmp_path / "codes.npz")["codes"]) == 60


# Columns


@needs_package
def test_the_columns_are_found_by_their_features():
    pictures = [encoded(p) for p in levels()]
    words = (datasets.Value("string"), ["word"] * 12)
    images = HuggingFaceImages(table(levels(), words=words))
    assert images.labels is not None
    second = (datasets.Image(), pictures[::-1])
    more = table(levels(), other=second, words=words)
    with pytest.raises(InputError, match=r"several columns of images \(picture, other\) .*,image="):
        HuggingFaceImages(more)
    reverse = HuggingFaceImages(more, image="other")
    assert torch.equal(reverse[:], batch(levels()).flip(0))
    for column, problem in (("words", "holds no images"), ("none", "is not there")):
        with pytest.raises(InputError, match=f"The column {column} of the table {problem}"):
            HuggingFaceImages(more, image=column)
    with pytest.raises(InputError, match="no column of images among kind"):
        HuggingFaceImages(table(levels()).remove_columns("picture"))


@needs_package
def test_which_column_is_of_classes():
    coarse = (datasets.ClassLabel(names=["small", "big"]), [0, 1] * 6)
    assert HuggingFaceImages(table(levels(), coarse=coarse)).labels is None  # which of the two?
    named = HuggingFaceImages(table(levels(), label=coarse))
    assert named.classes == ("small", "big")
    chosen = HuggingFaceImages(table(levels(), coarse=coarse), label="coarse")
    assert chosen.labels.tolist() == [0, 1] * 6
    numbers = HuggingFaceImages(table(levels(), n=(datasets.Value("int8"), [5] * 12)), label="n")
    assert (numbers.labels.tolist(), numbers.classes) == ([5] * 12, None)
    secret = HuggingFaceImages(table(levels(), label=(datasets.Value("int64"), [-1] * 12)))
    assert secret.labels.tolist() == [0, 1, 2] * 4  # the only ClassLabel
    unknown = table(levels(), label=(coarse[0], [-1] * 12))
    assert HuggingFaceImages(unknown).labels is None
    with pytest.raises(InputError, match="has no column none: choose the classes among picture"):
        HuggingFaceImages(table(levels()), label="none")
    words = (datasets.Value("string"), ["word"] * 12)
    with pytest.raises(InputError, match=r"words of the table holds .* values: choose one of clas"):
        HuggingFaceImages(table(levels(), words=words), label="words")


# Decoding


@needs_package
@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_decoded_as_those_of_a_folder(tmp_path, workers):
    pixels = np.random.default_rng(1).integers(0, 256, (9, 20, 13, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encoded(p, "JPEG", quality=90, exif=exif) for p in pixels]
    for number, file in enumerate(files):
        (tmp_path / f"{number}.jpg").write_bytes(file["bytes"])
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": files}, features)
    how = {"size": 8, "mode": "L", "crop": 12}
    images = HuggingFaceImages(rows, **how, workers=workers, cache_bytes=0)
    assert torch.equal(images[:], ImageFolder(tmp_path, **how)[:])
    assert HuggingFaceImages(rows).shape == (3, 13, 20)
    fingerprints = {images.fingerprint, HuggingFaceImages(rows).fingerprint}
    fingerprints.add(HuggingFaceImages(rows.select(range(8))).fingerprint)
    assert len(fingerprints) == 3
    assert HuggingFaceImages(rows, **how).fingerprint == images.fingerprint


@needs_package
def test_images_that_are_files_beside_the_table(tmp_path):
    for number, pixels in enumerate(levels(4)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    places = [str(tmp_path / f"{number}.png") for number in range(4)]
    features = datasets.Features({"image": datasets.Image()})
    images = HuggingFaceImages(datasets.Dataset.from_dict({"image": places}, features))
    assert torch.equal(images[:], batch(levels(4)))


@needs_package
def test_broken_and_missing_images(tmp_path):
    files = [encoded(p) for p in levels(6)]
    files[2] = {"bytes": files[2]["bytes"][:100], "path": None}
    files[4] = None
    content = {"image": files, "label": list(range(6))}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcdef"))})
    rows = datasets.Dataset.from_dict(content, features)
    with pytest.raises(InputError, match=r"image 4 of the table cannot be .*\(the file is empty\)"):
        HuggingFaceImages(rows)
    images = HuggingFaceImages(rows, strict=False)
    assert images.labels.tolist() == [0, 1, 3, 5]
    assert torch.equal(images[:], batch(levels(6))[[0, 1, 3, 5]])
    assert [sentence[:20] for sentence in images.skipped] == ["image 2 of the table", "image 4 of the table"]
    with pytest.raises(InputError, match="None of the 1 images of the table can be read; the firs"):
        HuggingFaceImages(rows.select([2]), strict=False)


@needs_package
def test_mixed_sizes_name_both(tmp_path):
    files = [encoded(levels(1, side)[0]) for side in (16, 18)]
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": files}, features)
    with pytest.raises(InputError, match=r"image 0 of the table has 16×16 .*image 1 .*--size N"):
        HuggingFaceImages(rows)


# What cannot be opened


@needs_package
def test_a_folder_without_tables(tmp_path):
    with pytest.raises(InputError, match=r"neither a saved dataset nor \.parquet files"):
        open_dataset(f"hf:{tmp_path}")


@needs_package
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), "connect to the internet"),
        (FileNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), "check its name on hugg"),
        (ValueError("Config name is missing.\nPlease pick one among: x, y"), ",config=CONFIG"),
        (RuntimeError("Dataset scripts are no longer supported"), "without code of its own"),
    ],
)
def test_names_that_cannot_be_opened(monkeypatch, error, remedy):
    def refuse(*_):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError, match="hf:a/b cannot be opened ") as caught:
        open_dataset("hf:a/b")
    message = str(caught.value)
    assert remedy in message
    assert "\n" not in message


@needs_package
def test_offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"hf:nobody/nothing-at-all cannot be opened .*the internet"):
        open_dataset("hf:nobody/nothing-at-all")
