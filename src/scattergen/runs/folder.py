"""A run: the folder that holds one fitted model, self-describing, resumable and never half-written.

`run.json` states the format, the options of the fit, and the hash of every other file; a file that
is not listed there does not exist for the model.  Tensors are safetensors; nothing is ever
unpickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.errors import RunFolderError, ScattergenError
from scattergen.files import (
    move_file,
    open_regular,
    remove_temporaries,
    sha256,
    temporary_path,
    write_json,
)
from scattergen.runs import place
from scattergen.runs.options import check_name, differences, refuse_differences
from scattergen.runs.schema import check_index, check_metadata, check_tensors
from scattergen.tensor_files import read_metadata, read_tensors, write_tensors

FORMAT = 1
"""Version of the layout; raised when older software could not read a newer folder."""

LAST_STAGE = "report"
"""The stage whose end is that of a fit."""

_REMEDY = "copy the run folder again as a whole, or fit it again with --overwrite"


class RunFolder:
    """Tensors, stages and measurements of one run.

    Made by `RunFolder.start` (to fit) or `RunFolder.open` (to use).

    Attributes:
        path: The folder of its files.
        place: The folder that the user named; another one while the run is made to replace the one
            that is there (see `take_place`).
        options: What the run was fitted with; the same options resume it, others are refused.

    Example:
        >>> import tempfile, torch
        >>> place = Path(tempfile.mkdtemp()) / "run"
        >>> run = RunFolder.start(place, {"seed": 0})
        >>> run.write("weights", {"w": torch.ones(2)}, {"width": 2})
        >>> RunFolder.open(place).read("weights")[1]
        {'width': 2}
    """

    def __init__(self, path: Path, content: dict[str, Any], place: Path | None = None) -> None:
        self.path, self._content = path, content
        self.place = place or path

    @property
    def options(self) -> dict[str, Any]:
        """What the run was fitted with."""
        return dict(self._content["options"])

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Finished stages in their order, each with "seconds" and whatever else was measured."""
        return dict(self._content["stages"])

    @property
    def finished(self) -> bool:
        """Whether the fit came to its end; a model saved from Python has no stages at all."""
        return bool(self._content["files"]) and (not self.stages or LAST_STAGE in self.stages)

    @property
    def version(self) -> str:
        """Version of scattergen that started the run."""
        return str(self._content["scattergen"])

    @classmethod
    def start(
        cls,
        path: Path | str,
        options: Mapping[str, Any],
        *,
        overwrite: bool = False,
        afresh: bool = False,
        may_change: Callable[["RunFolder", str], bool] | None = None,
    ) -> "RunFolder":
        """A new run, or the one that is there if it has the same options.

        A run in which nothing has been stored yet gives way to one with other options.

        Args:
            path: The folder; made if it does not exist.
            options: Anything that `json` can write.
            overwrite: Replace a finished or damaged run that is there by a new one, and also an
                unfinished one with other options.  The old run stays until `take_place` is called
                on the new one; what was begun with the same options is continued.
            afresh: Begin a replacement anew in any case.
            may_change: Whether a run may be continued with another value of an option, given the
                run and the option's name, such as "densities.vae.beta"; no option by default.

        Returns:
            The run.

        Raises:
            RunFolderError: If the folder holds something else, or a run with other options.
        """
        path = Path(path).expanduser()
        wanted = json.loads(json.dumps(options))
        place.refuse_foreign(path)

        def continues(run: RunFolder) -> bool:
            """Adopt the wanted options, if the run can be continued with them."""
            changed = differences(run.options, wanted)
            if changed and (may_change is None or not all(may_change(run, o) for o in changed)):
                return False
            if changed:
                run._content["options"] = wanted
                run._write_content()
            return True

        with place.exclusive(path):
            promoted = place.promote(path)
            if not (path / place.INDEX).exists():
                return cls._begin(path, wanted)
            if overwrite:
                if not afresh:
                    begun = cls._open_or_none(path)
                    # A replacement that was killed while it took its place is what was asked for.
                    if begun and (promoted or not begun.finished) and continues(begun):
                        return begun
                return cls._replace(path, wanted, None if afresh else continues)
            run = cls.open(path)
            if not run._content["files"] and not run.has_kept("codes"):  # nothing to lose
                return cls._begin(path, wanted)
            if not continues(run):
                refuse_differences(path, run.options, wanted)
            return run

    @classmethod
    def _open_or_none(cls, path: Path) -> "RunFolder | None":
        try:
            return cls.open(path)
        except RunFolderError:
            return None

    @classmethod
    def _begin(cls, path: Path, options: dict[str, Any], at: Path | None = None) -> "RunFolder":
        from scattergen import __version__

        content = {"scattergen": __version__, "options": options, "files": {}, "stages": {}}
        run = cls(path, content, at)
        try:
            run._write_content()
        except ScattergenError:
            place.clear(path)
            raise
        return run

    @classmethod
    def _replace(
        cls,
        path: Path,
        options: dict[str, Any],
        continues: Callable[["RunFolder"], bool] | None,
    ) -> "RunFolder":
        hidden = path / place.REPLACEMENT
        begun = cls._open_or_none(hidden)
        if begun and continues and continues(begun):
            return cls(hidden, begun._content, path)
        shutil.rmtree(hidden, ignore_errors=True)
        return cls._begin(hidden, options, path)

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """The run in a folder.

        Args:
            path: A folder made by `start`.

        Returns:
            The run; its files are checked when they are read.

        Raises:
            RunFolderError: If the folder is missing, is not a run, is damaged, cannot be read, or
                is of a newer format.
        """
        path = Path(path).expanduser()
        index = path / place.INDEX
        if not path.is_dir():
            raise RunFolderError(f"There is no run folder {path}: fit one with `scattergen fit`.")
        place.refuse_links(path)
        if place.has_finished_replacement(path):  # of a process that was killed
            with place.exclusive(path):
                place.promote(path)
        if not os.path.lexists(index):
            raise RunFolderError(
                f"{path} is not a run folder, since run.json is missing: name one that "
                "`scattergen fit` made, or copy that one again as a whole."
            )
        try:
            content = place.read_index(path)
            digest = content.pop("digest")
            version = content.pop("format")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise RunFolderError(
                f"{index} is damaged: copy the run folder again as a whole, or delete it and fit "
                "again."
            ) from error
        if version != FORMAT:
            raise RunFolderError(
                f"{path} has run format {version!r}, but this scattergen reads format {FORMAT}: "
                "update scattergen (pip install -U scattergen)."
            )
        if digest != _digest(content):
            raise RunFolderError(f"{index} was changed after it was written: {_REMEDY}.")
        check_index(index, content)
        return cls(path, content)

    def discard_if_empty(self) -> None:
        """Delete the run again if nothing was stored, so that a refused fit leaves no trace."""
        checkpoints = self.path / "checkpoints"
        begun = any(path.is_file() for path in checkpoints.rglob("*"))
        if not self._content["files"] and not begun:
            place.clear(self.path)

    def take_place(self) -> None:
        """Let this run, made to replace another, take its place; the other one is deleted.

        Files that scattergen did not make stay.  A kill in between loses nothing: the rest is done
        when the folder is next opened.
        """
        if self.path != self.place:
            place.mark_ready(self.place)
            place.promote(self.place)
            self.path = self.place

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to this run meanwhile.

        Raises:
            RunFolderError: If another process is writing to it.
        """
        with place.exclusive(self.place):
            current = type(self).open(self.path)
            refuse_differences(self.path, current.options, self.options)
            self._content = current._content
            remove_temporaries(self.path)  # of a process that was killed
            self._end_last_line()
            yield

    def check(self) -> None:
        """Compare every file with its hash.

        Raises:
            RunFolderError: If one is missing or is not the one that was written.
        """
        for file in self._content["files"]:
            self._check_file(file)

    def has(self, name: str) -> bool:
        """Whether the tensors `name` were completely written."""
        return f"{name}.safetensors" in self._content["files"]

    def require(self, name: str) -> None:
        """Refuse to go on without the tensors `name`.

        Raises:
            RunFolderError: If they were not written.
        """
        if not self.has(name):
            raise RunFolderError(
                f"{self.path} has no {name}: the fit was interrupted or has not made it; run the "
                "same `scattergen fit` command again."
            )

    def digest(self, name: str) -> str:
        """SHA-256 of the tensors `name`, which were completely written."""
        return str(self._hashes(f"{name}.safetensors")[-1])

    def _hashes(self, file: str) -> list[str]:
        """Hash of a file, or of what it was and what it becomes while it is replaced."""
        listed = self._content["files"][file]
        return [listed] if isinstance(listed, str) else listed

    def names(self, folder: str) -> list[str]:
        """Names of the tensor files in a sub-folder, in the order of writing."""
        start, end = f"{folder}/", ".safetensors"
        files = self._content["files"]
        return [name[len(start) : -len(end)] for name in files if name.startswith(start)]

    def write(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        metadata: Any,
        stage: Mapping[str, Any] | None = None,
    ) -> None:
        """Store tensors and, with them, the fact that a stage is finished.

        Args:
            name: File name without suffix; may contain one "/".
            tensors: Name to tensor.
            metadata: Anything that `json` can write.
            stage: Measurements of the stage that made them.

        Raises:
            InputError: If the name cannot be that of a file.
            ScattergenError: If the file cannot be written.
        """
        path = self._path(name)
        file = f"{name}.safetensors"
        files = self._content["files"]
        if file in files:
            # Both are listed while one takes the other's place: a kill in between leaves either.
            new = temporary_path(path)
            write_tensors(new, tensors, metadata)
            digest = sha256(new)
            files[file] = [self._hashes(file)[0], digest]
            self._write_content()
            move_file(new, path)
        else:
            try:
                write_tensors(path, tensors, metadata)
            except ScattergenError:  # the disk may have filled up after the file got its name
                path.unlink(missing_ok=True)
                raise
            digest = sha256(path)
        files.pop(file, None)
        files[file] = digest
        if stage is not None:
            self._content["stages"].pop(name, None)
            self._content["stages"][name] = dict(stage)
        self._write_content()

    def forget(self, name: str) -> None:
        """Drop stored tensors, their stage and their checkpoint."""
        path = self._path(name)
        self._content["files"].pop(f"{name}.safetensors", None)
        self._content["stages"].pop(name, None)
        self._write_content()
        path.unlink(missing_ok=True)
        self.remove_checkpoints(name)

    def finish_stage(self, name: str, facts: Mapping[str, Any]) -> None:
        """Note that a stage without tensors is finished."""
        self._content["stages"][name] = dict(facts)
        self._write_content()

    def read(self, name: str) -> tuple[dict[str, Tensor], Any]:
        """Tensors and metadata, after their hash has been checked.

        Args:
            name: As given to `write`.

        Returns:
            Name to tensor, and the metadata.

        Raises:
            RunFolderError: If the file is missing, is not the one that was written, or holds what
                cannot be used, such as NaN.
        """
        self.require(name)
        path = self._check_file(f"{name}.safetensors")
        tensors, metadata = read_tensors(path)
        check_metadata(path, name, metadata)
        known = name == "codes" and self.has("encoder")
        width = self.metadata("encoder")["n_components"] if known else None
        check_tensors(path, name, tensors, metadata, width)
        return tensors, metadata

    def metadata(self, name: str) -> Any:
        """Metadata alone, which is fast, since the hash of the tensors is not checked.

        Args:
            name: As given to `write`.

        Returns:
            The metadata.

        Raises:
            RunFolderError: If the file is missing or damaged.
        """
        self.require(name)
        path = self._path(name)
        metadata = read_metadata(path)
        check_metadata(path, name, metadata)
        return metadata

    def _path(self, name: str) -> Path:
        check_name(name)
        return self.path / f"{name}.safetensors"

    def _check_file(self, file: str) -> Path:
        path = self.path / file
        try:
            found = sha256(path)
        except FileNotFoundError as error:
            raise RunFolderError(f"{path} is missing: {_REMEDY}.") from error
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be read ({error.strerror}): check its permissions and the disk, or "
                "copy the run folder again as a whole."
            ) from error
        if found not in self._hashes(file):
            raise RunFolderError(
                f"{path} is not the file that was written there (truncated or changed): {_REMEDY}."
            )
        return path

    def checkpoint(self, name: str, metadata: Any = None) -> Path:
        """Path of the checkpoint of an unfinished training.

        Args:
            name: As later given to `write`.
            metadata: What the training depends on besides the options of the run; another training
                has another checkpoint.

        Returns:
            A path, whether there is a checkpoint or not.

        Raises:
            InputError: If the name cannot be that of a file.
        """
        check_name(name)
        return self.path / "checkpoints" / name / f"{_digest(metadata)[:16]}.safetensors"

    def remove_checkpoints(self, name: str) -> None:
        """Delete the checkpoints of a finished training."""
        check_name(name)
        folder = f"checkpoints/{name}"
        place.remove(self.path, place.own_files(self.path, folder), folder)

    def has_kept(self, name: str) -> bool:
        """Whether files of an unfinished stage are there, as `Stages.folder` keeps them."""
        return any(path.is_file() for path in (self.path / "checkpoints" / name).rglob("*"))

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line of metrics to metrics.jsonl."""
        try:
            with open_regular(self.path / "metrics.jsonl", "a") as file:
                file.write(json.dumps(dict(record)) + "\n")
        except OSError as error:
            raise ScattergenError(
                f"Cannot write {self.path / 'metrics.jsonl'}: {error.strerror}. Free some space, "
                "then run the same command again; it continues where it stopped."
            ) from error

    def _end_last_line(self) -> None:
        """Cut off a line of the metrics that a full disk left incomplete."""
        path = self.path / "metrics.jsonl"
        if os.path.lexists(path):
            with open_regular(path, "rb+") as file:
                whole = file.read()
                file.truncate(whole.rfind(b"\n") + 1)

    def _write_content(self) -> None:
        content = {"format": FORMAT, **self._content, "digest": _digest(self._content)}
        write_json(self.path / place.INDEX, content)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
