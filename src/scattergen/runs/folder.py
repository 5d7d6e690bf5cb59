"""A run: the folder that holds one fitted model, self-describing, resumable and never half-written.

`run.json` states the format, the options of the fit, and the hash of every other file; a file that
is not listed there does not exist for the model.  Tensors are safetensors; nothing is ever
unpickled.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.errors import RunFolderError, ScattergenError
from scattergen.runs import place
from scattergen.runs.options import check_name, differences, refuse_differences
from scattergen.storage import read_tensors, remove_temporaries, sha256, write_json, write_tensors

FORMAT = 1
"""Version of the layout; raised when older software could not read a newer folder."""

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
            overwrite: Replace a run that is there, be it damaged or not, by a new one.  The old run
                stays until `take_place` is called on the new one; a replacement that was begun with
                the same options is continued.
            afresh: Begin a replacement anew in any case.
            may_change: Whether a run may be continued with another value of an option, given the
                run and the option's name, such as "densities.vae.beta"; no option by default.

        Returns:
            The run.

        Raises:
            RunFolderError: If the folder holds something else, or a run with other options.
        """
        path = Path(path)
        wanted = json.loads(json.dumps(options))
        place.refuse_foreign(path)
        with place.exclusive(path):
            place.promote(path)
            if not (path / place.INDEX).exists():
                return cls._begin(path, wanted)
            if overwrite:
                return cls._replace(path, wanted, afresh)
            run = cls.open(path)
            if not run._content["files"]:  # there is nothing to lose
                return cls._begin(path, wanted)
            changed = differences(run.options, wanted)
            if may_change is None or not all(may_change(run, name) for name in changed):
                refuse_differences(path, run.options, wanted)
            if changed:
                run._content["options"] = wanted
                run._write_content()
            return run

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
    def _replace(cls, path: Path, options: dict[str, Any], afresh: bool) -> "RunFolder":
        hidden = path / place.REPLACEMENT
        try:
            begun = cls.open(hidden)
            if begun.options == options and not afresh:
                return cls(hidden, begun._content, path)
        except RunFolderError:
            pass  # there is none, or one that nobody needs
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
            RunFolderError: If the folder is missing, is not a run, is damaged, or is of a newer
                format.
        """
        path = Path(path)
        index = path / place.INDEX
        if not path.is_dir():
            raise RunFolderError(f"There is no run folder {path}: fit one with `scattergen fit`.")
        if place.has_finished_replacement(path):  # of a process that was killed
            with place.exclusive(path):
                place.promote(path)
        if not index.is_file():
            raise RunFolderError(
                f"{path} is not a run folder, since run.json is missing: name one that "
                "`scattergen fit` made, or copy that one again as a whole."
            )
        try:
            content = json.loads(index.read_text())
            digest = content.pop("digest")
            version = content.pop("format")
        except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
            raise RunFolderError(f"{index} is damaged: {_REMEDY}.") from error
        if not isinstance(version, int) or version > FORMAT:
            raise RunFolderError(
                f"{path} has run format {version}, but this scattergen reads formats up to "
                f"{FORMAT}: update scattergen (pip install -U scattergen)."
            )
        if digest != _digest(content):
            raise RunFolderError(f"{index} was changed after it was written: {_REMEDY}.")
        return cls(path, content)

    def discard_if_empty(self) -> None:
        """Delete the run again if nothing was stored, so that a refused fit leaves no trace."""
        if not self._content["files"]:
            place.clear(self.path)

    def take_place(self) -> None:
        """Let this run, made to replace another, take its place; the other one is deleted.

        Files that belong to neither run stay.  A kill in between loses nothing: the rest is done
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

    def digest(self, name: str) -> str:
        """SHA-256 of the tensors `name`, which were completely written."""
        return str(self._content["files"][f"{name}.safetensors"])

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
        check_name(name)
        file = f"{name}.safetensors"
        try:
            write_tensors(self.path / file, tensors, metadata)
        except ScattergenError:
            if not self.has(name):  # the disk may have filled up after the file got its name
                (self.path / file).unlink(missing_ok=True)
            raise
        self._content["files"].pop(file, None)
        self._content["files"][file] = sha256(self.path / file)
        if stage is not None:
            self._content["stages"].pop(name, None)
            self._content["stages"][name] = dict(stage)
        self._write_content()

    def forget(self, name: str) -> None:
        """Drop stored tensors, their stage and their checkpoint."""
        self._content["files"].pop(f"{name}.safetensors", None)
        self._content["stages"].pop(name, None)
        self._write_content()
        (self.path / f"{name}.safetensors").unlink(missing_ok=True)
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
            RunFolderError: If the file is missing or is not the one that was written.
        """
        if not self.has(name):
            raise RunFolderError(
                f"{self.path} has no {name}: the fit was interrupted or has not made it; run the "
                "same `scattergen fit` command again."
            )
        return read_tensors(self._check_file(f"{name}.safetensors"))

    def _check_file(self, file: str) -> Path:
        path = self.path / file
        try:
            found = sha256(path)
        except FileNotFoundError as error:
            raise RunFolderError(f"{path} is missing: {_REMEDY}.") from error
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read ({error.strerror}): {_REMEDY}.") from error
        if found != self._content["files"][file]:
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
        """
        return self.path / "checkpoints" / name / f"{_digest(metadata)[:16]}.safetensors"

    def remove_checkpoints(self, name: str) -> None:
        """Delete the checkpoints of a finished training."""
        shutil.rmtree(self.path / "checkpoints" / name, ignore_errors=True)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line of metrics to metrics.jsonl."""
        try:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(dict(record)) + "\n")
        except OSError as error:
            raise ScattergenError(
                f"Cannot write {self.path / 'metrics.jsonl'}: {error.strerror}. Free some space, "
                "then run the same command again; it continues where it stopped."
            ) from error

    def _end_last_line(self) -> None:
        """Cut off a line of the metrics that a full disk left incomplete."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            whole = path.read_bytes()
            complete = whole.rfind(b"\n") + 1
            if complete < len(whole):
                with path.open("rb+") as file:
                    file.truncate(complete)

    def _write_content(self) -> None:
        content = {"format": FORMAT, **self._content, "digest": _digest(self._content)}
        write_json(self.path / place.INDEX, content)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
