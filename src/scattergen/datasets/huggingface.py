"""Images of Hugging Face datasets, by name or from files that were saved here."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.datasets.decoding import Encoded, File, Mode
from scattergen.datasets.reading import CACHE_BYTES, ImageReader
from scattergen.datasets.source import check_labels
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, one_line

PREFIX = "hf:"
_ROWS = 256  # that are read from a table at once


class HuggingFaceName(NamedTuple):
    """What "hf:NAME,config=…,split=…,image=…,label=…" says: a name on the Hub or a path, and the columns to use."""

    name: str
    config: str | None = None
    split: str | None = None
    image: str | None = None
    label: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HuggingFaceName":
        """Read the form that users write."""
        name, *options = text.removeprefix(PREFIX).split(",")
        known, chosen = cls._fields[1:], dict[str, str]()
        for option in options:
            key, _, value = option.partition("=")
            if key not in known or not value or key in chosen:
                remedy = f"write hf:NAME followed by any of {', '.join(f',{key}=…' for key in known)}"
                raise InputError(f'"{option}" in "{text}" is not an option of a Hugging Face dataset: {remedy}.')
            chosen[key] = value
        if not name:
            remedy = "write hf:NAME, as in hf:ylecun/mnist, or hf: and the path of a saved dataset"
            raise InputError(f'"{text}" names no dataset: {remedy}.')
        return cls(name, **chosen)


class HuggingFaceImages(ImageReader):
    """The images of one split of a Hugging Face dataset, decoded batch by batch on access.

    Files are decoded as by `ImageFolder`, whose arguments these are but for those below. There are no classes if the
    class of an image is not known. The fingerprint is of the encoded images, labels, size, crop and mode.

    Args:
        table: a `datasets.Dataset`.
        image: the column of images; by default the only column with the feature `Image`.
        label: the column of classes; by default the only one with the feature `ClassLabel`, or of several "label".
        name: what messages call the table.

    Raises:
        InputError: if there is no such column, no image, or an image cannot be read or used.

    References:
        Lhoest et al., "Datasets: a community library for natural language processing", 2021.
    """

    def __init__(
        self, table: Any, *, image: str | None = None, label: str | None = None, size: int | None = None,
        mode: Mode | None = None, crop: int | None = None, strict: bool = True, cache_bytes: int = CACHE_BYTES,
        workers: int = 0, progress: Progress = SILENT, name: str = "the table",
    ) -> None:  # fmt: skip
        import datasets

        column = _image_column(table.features, image, name)
        files = table.select_columns(column).cast_column(column, datasets.Image(decode=False)).with_format(None)
        digest = hashlib.sha256()

        def fetch(rows: Sequence[int]) -> list[File]:
            return [_file(value, row, name) for row, value in zip(rows, files[rows][column], strict=True)]

        def everything() -> Iterator[tuple[str, File]]:
            for start in range(0, len(table), _ROWS):
                rows = range(start, min(start + _ROWS, len(table)))
                for row, file in zip(rows, fetch(rows), strict=True):
                    digest.update(file.content if isinstance(file, Encoded) else file.read_bytes())
                    yield f"image {row} of {name}", file

        super().__init__(
            everything(), len(table), f"images of {name}", fetch, size=size, mode=mode, crop=crop, strict=strict,
            cache_bytes=cache_bytes, workers=workers, progress=progress,
        )  # fmt: skip
        self.labels, self.classes = _labels(table, label, self.numbers, name)
        digest.update(f"{size} {self.mode} {crop} {self.numbers.tolist()}".encode())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        self.fingerprint = digest.hexdigest()


def load_tables(source: HuggingFaceName) -> dict[str, Any]:
    """The splits of a dataset, downloaded unless they are here, or the chosen one alone; none of its code is run."""
    try:
        import datasets
    except ImportError as error:
        remedy = "install it by pip install 'scattergen[huggingface]'"
        raise InputError(f"{PREFIX}{source.name} needs the package datasets: {remedy}.") from error
    path = Path(source.name).expanduser()
    try:
        if path.suffix == ".parquet" and path.is_file():
            loaded: Any = datasets.load_dataset("parquet", data_files={"train": str(path)})
        elif (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = datasets.load_from_disk(str(path))
        elif path.is_dir() and not any(path.rglob("*.parquet")):
            remedy = "give the folder that save_to_disk wrote, or leave out hf: for a folder of images"
            raise InputError(f"{path} holds neither a saved dataset nor .parquet files: {remedy}.")
        else:
            loaded = datasets.load_dataset(str(path) if path.is_dir() else source.name, source.config)
    except InputError:
        raise
    # The library fails in its own exceptions, those of the Hub's client, OSError, ValueError, …
    except Exception as error:
        what = f"{PREFIX}{source.name} cannot be opened ({type(error).__name__}: {one_line(error).rstrip('.')})"
        raise InputError(f"{what}: {_remedy(error)}.") from error
    tables = dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}
    if source.split is None:
        return tables
    if source.split not in tables:
        raise InputError(f"{PREFIX}{source.name} has no split {source.split}: choose one of {', '.join(tables)}.")
    return {source.split: tables[source.split]}


def _remedy(error: Exception) -> str:
    reason, kinds = one_line(error), {kind.__name__ for kind in type(error).__mro__}
    if "Config name is missing" in reason or "BuilderConfig" in reason:
        return "choose one by hf:NAME,config=CONFIG"
    if kinds & {"ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError"}:
        return "connect to the internet, or give a copy by its path, as in hf:/path/of/save_to_disk"
    check = "check its name on huggingface.co/datasets (one without code of its own)"
    return f"{check}, or give the path of a folder that save_to_disk wrote"


def _image_column(features: Mapping[str, Any], wanted: str | None, name: str) -> str:
    found = [key for key, feature in features.items() if _holds_images(feature)]
    there = ", ".join(features)
    if wanted in found or (wanted is None and len(found) == 1):
        return wanted or found[0]
    if wanted is not None:
        problem = f"The column {wanted} of {name} {'holds no images' if wanted in features else 'is not there'}"
        raise InputError(f"{problem}: choose one of its columns ({there}) with encoded images.")
    what, remedy = "no column of images", "give a dataset of images"
    if found:
        what, remedy = f"several columns of images ({', '.join(found)})", "choose one by ,image=COLUMN"
    raise InputError(f"{name} has {what} among {there}: {remedy}.")


def _holds_images(feature: Any) -> bool:
    """Whether a column is of images, by its feature or by how files are kept in Parquet."""
    return type(feature).__name__ == "Image" or (isinstance(feature, Mapping) and set(feature) == {"bytes", "path"})


def _labels(
    table: Any, wanted: str | None, rows: NDArray[np.int64], name: str
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    features = table.features
    if wanted is not None and wanted not in features:
        raise InputError(f"{name} has no column {wanted}: choose the classes among {', '.join(features)}.")
    if wanted is None:
        found = [key for key, feature in features.items() if type(feature).__name__ == "ClassLabel"]
        wanted = found[0] if len(found) == 1 else "label"
        if wanted not in found:
            return None, None
    values = np.asarray(table.select_columns(wanted).with_format(None)[:][wanted])[rows]
    if not np.issubdtype(values.dtype, np.integer):
        remedy = "choose one of classes as whole numbers by ,label=COLUMN"
        raise InputError(f"The column {wanted} of {name} holds {values.dtype} values: {remedy}.")
    check_labels(values, len(rows), f"the column {wanted} of {name}")
    if (values < 0).any():  # as in test sets whose classes are kept secret
        return None, None
    names = getattr(features[wanted], "names", None)
    return torch.from_numpy(values.astype(np.int64)), None if names is None else tuple(names)


def _file(value: Mapping[str, Any] | None, row: int, name: str) -> File:
    """The image of a row, which has the file's content, or where it is, or nothing."""
    value = value or {}
    content, place = value.get("bytes"), value.get("path")
    if content is None and place is not None and Path(place).is_file():
        return Path(place)
    return Encoded(f"image {row} of {name}", content or b"")
