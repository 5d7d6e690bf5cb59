"""A run as it is kept: what it was fitted with, its finished stages and their tensors."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from scattergen.errors import RunFolderError
from scattergen.files import sha256
from scattergen.runs import layout, remains
from scattergen.runs.index import Record, read_index
from scattergen.runs.layout import INDEX, WORK
from scattergen.runs.schema import REMEDY, check_metadata, check_tensors, content_of
from scattergen.tensor_files import read_metadata, read_tensors


class StoredRun:
    """The reading half of `RunFolder`; `replaces` says that the run will take the place of the one in the folder."""

    def __init__(self, path: Path, record: Record, replaces: bool = False) -> None:
        self.path, self.replaces, self._record = path, replaces, record

    @property
    def options(self) -> dict[str, Any]:
        """What the run was fitted with."""
        return dict(self._record.options)

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """What was measured of each stage, such as "seconds", in order; nothing of a model saved from Python."""
        return {name: dict(e.facts) for name, e in self._record.stages.items() if e.facts}

    @property
    def finished(self) -> bool:
        """Whether the fit came to its end; a model saved from Python is finished."""
        return self._record.finished

    @property
    def version(self) -> str:
        """Version of scattergen that started the run."""
        return self._record.scattergen

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """The run in a folder; its files are checked when they are read."""
        path = Path(path).expanduser()
        if not path.is_dir():
            raise RunFolderError(f"There is no run folder {path}: fit one with `scattergen fit`.")
        layout.refuse_links(path)
        if not os.path.lexists(path / INDEX):
            raise RunFolderError(
                f"{path} is not a run folder, since run.json is missing: name one that `scattergen fit` made, "
                "or copy that one again as a whole."
            )
        return cls(path, read_index(path).current)

    def being_replaced(self) -> bool:
        """Whether a run that will take this one's place has been begun."""
        return read_index(self.path).next is not None

    def refresh(self) -> bool:
        """Read the run again; whether its files have changed since."""
        with suppress(RunFolderError):
            now = read_index(self.path).current
            before, self._record = self._record, now
            return before.hashes() != now.hashes()
        return False

    def has_work(self) -> bool:
        """Whether there is unfinished work to go on with, or another process at it."""
        return remains.has_work(self.path)

    @property
    def drafts(self) -> Path:
        """Where metrics go; those of a run that replaces another one are kept apart from its own."""
        return self.path / WORK if self.replaces else self.path

    @property
    def preview(self) -> Path:
        """Where a fit shows its decoder after each epoch."""
        return self.path / (remains.DRAFTS[1] if self.replaces else layout.PREVIEW)

    def check(self) -> None:
        """Refuse a run with a file that is missing or was changed."""
        for name in self._record.files():
            self._checked(name)

    def is_whole(self, name: str) -> bool:
        """Whether the file of a finished stage, if it has one, is as it was written, and usable."""
        try:
            return not self.has(name) or bool(self.read(name))
        except RunFolderError:
            return False

    def has(self, name: str) -> bool:
        """Whether the tensors `name` were completely written."""
        return name in self._record.files()

    def require(self, name: str) -> None:
        """Refuse to go on without the tensors `name`."""
        if not self.has(name):
            raise RunFolderError(
                f"{self.path} has no {name}: the fit was interrupted or has not made it; "
                "run the same `scattergen fit` command again."
            )

    def key(self, name: str) -> str:
        """Key of a finished stage; empty if it has none or is not finished."""
        entry = self._record.stages.get(name)
        return "" if entry is None else entry.key

    def digest(self, name: str) -> str:
        """SHA-256 of the tensors `name`, which were completely written."""
        self.require(name)
        return str(self._record.stages[name].sha256)

    def file(self, name: str) -> Path:
        """The file of the tensors `name`, which were completely written."""
        self.require(name)
        return self.path / self._record.files()[name]

    def names(self, folder: str) -> list[str]:
        """Names of the tensors in a sub-folder, in the order of writing."""
        start = f"{folder}/"
        return [name.removeprefix(start) for name in self._record.files() if name.startswith(start)]

    def read(self, name: str) -> tuple[dict[str, Tensor], Any]:
        """Tensors and metadata as given to `write`; refused if the file was changed or holds NaN."""
        self.require(name)
        path = self._checked(name)
        tensors, kept = read_tensors(path)
        metadata = self._content(name, kept)
        known = name == "codes" and self.has("encoder")
        width = self.metadata("encoder")["n_components"] if known else None
        check_tensors(path, name, tensors, metadata, width)
        return tensors, metadata

    def metadata(self, name: str) -> Any:
        """Metadata alone, which is fast, since the hash of the tensors is not checked."""
        return self._content(name, read_metadata(self.file(name)))

    def _content(self, name: str, kept: Any) -> Any:
        """The checked metadata of a stage, within those of its file."""
        path, key = self.file(name), self.key(name)
        metadata = content_of(path, name, key, kept) if key else kept  # of versions before 0.2
        check_metadata(path, name, metadata)
        return metadata

    def _checked(self, name: str) -> Path:
        path = self.file(name)
        try:
            found = sha256(path)
        except FileNotFoundError as error:
            raise RunFolderError(f"{path} is missing: {REMEDY}.") from error
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be read ({error.strerror}): check its permissions and the disk, "
                "or copy the run folder again as a whole."
            ) from error
        if found != self.digest(name):
            raise RunFolderError(f"{path} is not the file that was written there (truncated or changed): {REMEDY}.")
        return path
