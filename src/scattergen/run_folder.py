"""A run: the folder that holds one fitted model, self-describing, resumable and never half-written.

`run.json` states the format, the options of the fit, and the hash of every other file; a file that
is not listed there does not exist for the model.  Tensors are safetensors; nothing is ever
unpickled.
"""

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.errors import InputError, RunFolderError, ScattergenError
from scattergen.storage import read_tensors, remove_temporaries, sha256, write_json, write_tensors

FORMAT = 1
"""Version of the layout; raised when older software could not read a newer folder."""

_LOCK = ".lock"
_REMEDY = "copy the run folder again as a whole, or fit it again with --overwrite"


class RunFolder:
    """Tensors, stages and measurements of one run.

    Made by `RunFolder.start` (to fit) or `RunFolder.open` (to use).

    Attributes:
        path: The folder.
        options: What the run was fitted with; the same options resume it, others are refused.

    Example:
        >>> import tempfile, torch
        >>> place = Path(tempfile.mkdtemp()) / "run"
        >>> run = RunFolder.start(place, {"seed": 0})
        >>> run.write("weights", {"w": torch.ones(2)}, {"width": 2})
        >>> RunFolder.open(place).read("weights")[1]
        {'width': 2}
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self._content = path, content

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
        cls, path: Path | str, options: Mapping[str, Any], *, overwrite: bool = False
    ) -> "RunFolder":
        """A new run, or the one that is there if it has the same options.

        A run in which nothing has been stored yet gives way to one with other options.

        Args:
            path: The folder; made if it does not exist.
            options: Anything that `json` can write.
            overwrite: Delete a run that is there, be it damaged or not.

        Returns:
            The run.

        Raises:
            RunFolderError: If the folder holds something else, or a run with other options.
        """
        from scattergen import __version__

        path = Path(path)
        wanted = json.loads(json.dumps(options))
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file: name a folder for the run.")
        if path.is_dir() and not any((path / name).exists() for name in ("run.json", _LOCK)):
            other = next(path.iterdir(), None)
            if other is not None:
                raise RunFolderError(
                    f"{path} is not a run folder but holds {other.name}: name another folder; "
                    "nothing in it has been changed."
                )
        with _exclusive(path):
            if (path / "run.json").exists() and not overwrite:
                run = cls.open(path)
                if run._content["files"]:  # otherwise there is nothing to lose
                    refuse_differences(path, run.options, wanted)
                    return run
            elif any(path.glob("*.safetensors")) and not overwrite:
                raise RunFolderError(f"{path / 'run.json'} is missing: {_REMEDY}.")
            cls._remove(path)
            content = {"scattergen": __version__, "options": wanted, "files": {}, "stages": {}}
            run = cls(path, content)
            try:
                run._write_content()
            except ScattergenError:
                run.discard_if_empty()
                raise
        return run

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
        index = path / "run.json"
        if not path.is_dir():
            raise RunFolderError(f"There is no run folder {path}: fit one with `scattergen fit`.")
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

    @staticmethod
    def _remove(path: Path) -> None:
        # run.json goes last: a kill in between leaves a folder that is still known as a run.
        for name in ("checkpoints", "densities", "pictures"):
            shutil.rmtree(path / name, ignore_errors=True)
        remove_temporaries(path)
        for file in sorted(path.glob("*.safetensors")):
            file.unlink()
        for name in ("metrics.jsonl", "report.html", "run.json"):
            (path / name).unlink(missing_ok=True)

    def discard_if_empty(self) -> None:
        """Delete the folder again if nothing was stored, so that a refused fit leaves no trace."""
        if not self._content["files"]:
            self._remove(self.path)
            (self.path / _LOCK).unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to this run meanwhile.

        Raises:
            RunFolderError: If another process is writing to it.
        """
        with _exclusive(self.path):
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
        write_tensors(self.path / file, tensors, metadata)
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
        write_json(self.path / "run.json", content)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Make a folder if there is none, and keep other processes out of it meanwhile."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / _LOCK).open("w")
    except OSError as error:
        raise RunFolderError(
            f"Cannot write to {path} ({error.strerror}): choose another place or change its "
            "permissions."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"Another process is writing to {path}: wait for it to finish, or stop it."
            ) from error
        yield


def check_name(name: str) -> None:
    """Refuse names of stored tensors that are not those of a file in the run folder.

    Args:
        name: "NAME" or "FOLDER/NAME".

    Raises:
        InputError: If a part is empty, starts with a dot or a hyphen, or holds other characters
            than letters, digits, ".", "_" and "-".

    Example:
        >>> check_name("densities/vae-0.01")
    """
    if not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name):
        raise InputError(
            f'"{name.partition("/")[2] or name}" cannot be the name of a file: use letters, '
            'digits, ".", "_" and "-".'
        )


def refuse_differences(path: Path, have: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    """Refuse to continue something that was started with other options.

    Args:
        path: What was started, for the message.
        have: Its options.
        want: The options asked for now.

    Raises:
        RunFolderError: If they differ; it names each difference.

    Example:
        >>> refuse_differences(Path("runs/a"), {"seed": 0}, {"seed": 1})
        Traceback (most recent call last):
        ...
        scattergen.errors.RunFolderError: runs/a was fitted with other options (seed=0 there, 1
        now): ...
    """
    old, new = _flatten(have), _flatten(want)
    differences = [
        f"{name}={_show(old, name)} there, {_show(new, name)} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise RunFolderError(
            f"{path} was fitted with other options ({'; '.join(differences)}): use the same ones, "
            "another name, or --overwrite to replace it."
        )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _show(options: Mapping[str, Any], name: str) -> str:
    text = json.dumps(options[name]) if name in options else "unset"
    return text if len(text) <= 40 else text[:37] + "..."
