"""A run: the folder that holds one fitted model, self-describing, resumable and never half-written.

Every finished stage is an immutable file NAME-KEY.safetensors, whose key is the hash of all that it
depends on.  run.json says which of them belong to the run; it alone ever changes, in one step.
Unfinished work lies in work/KEY.  Readers need no lock, and writers only while they change it.
Nothing is ever unpickled.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from scattergen.errors import InputError, RunFolderError, ScattergenError
from scattergen.files import is_temporary, move_file, open_regular, sha256
from scattergen.runs import layout
from scattergen.runs.index import REMEDY, Entry, Index, Record, read_index
from scattergen.runs.layout import INDEX, LOCK, METRICS, WORK, file_of
from scattergen.runs.locks import is_free, locked
from scattergen.runs.options import differences, refuse_differences
from scattergen.runs.schema import check_metadata, check_tensors, content_of
from scattergen.tensor_files import read_metadata, read_tensors, write_tensors
from scattergen.version import __version__

# Metrics and preview of a run that shall take another one's place.
_DRAFTS = (f"{WORK}/{METRICS}", f"{WORK}/preview.png")
_PATIENCE = 30.0  # seconds in which somebody else's change of run.json is over


class RunFolder:
    """Tensors, stages and measurements of one run.

    Made by `RunFolder.start` (to fit) or `RunFolder.open` (to use).

    Attributes:
        path: The folder.
        replaces: Whether this run shall take the place of the one that is there (see `finish`).

    Example:
        >>> import tempfile, torch
        >>> place = Path(tempfile.mkdtemp()) / "run"
        >>> run = RunFolder.start(place, {"seed": 0})
        >>> run.write("weights", "0123456789abcdef", {"w": torch.ones(2)}, {"width": 2})
        >>> RunFolder.open(place).read("weights")[1]
        {'width': 2}
    """

    def __init__(self, path: Path, record: Record, replaces: bool = False) -> None:
        self.path, self.replaces, self._record = path, replaces, record

    @property
    def options(self) -> dict[str, Any]:
        """What the run was fitted with."""
        return dict(self._record.options)

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Finished stages in their order, each with "seconds" and whatever else was measured.

        Of a model that was saved from Python nothing was measured.
        """
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

        A run in which nothing has been finished yet gives way to one with other options.

        Args:
            path: The folder; made if it does not exist.
            options: Anything that `json` can write.
            overwrite: Make a run with other options, too. A finished run stays until `finish` is
                called on the new one; of an unfinished one all is kept that the new one needs.
            afresh: Begin the run that replaces another one anew in any case.
            may_change: Whether a run may be continued with another value of an option in any case,
                given the run and the option's name, such as "densities.vae.beta".

        Returns:
            The run.

        Raises:
            RunFolderError: If the folder holds something else, or a run with other options.
        """
        path = Path(path).expanduser()
        wanted = json.loads(json.dumps(options))
        layout.refuse_foreign(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"Cannot write to {path} ({error.strerror}): choose another place or change its "
                "permissions."
            ) from error

        def continues(run: RunFolder) -> bool:
            changed = differences(run.options, wanted)
            return all(may_change is not None and may_change(run, one) for one in changed)

        with _changing(path):
            was = _known_index(path, overwrite)
            if was is None:
                index = Index(_record(wanted))
            else:
                index = read_index(path)
                now = index.current
                if overwrite and afresh:
                    index.next = _record(wanted)
                elif not differences(now.options, wanted):
                    if not overwrite:
                        return cls(path, now)
                    index.next = None  # given up
                elif not now.finished and (_is_empty(path, now) or continues(cls(path, now))):
                    now.options = wanted
                elif not overwrite:
                    refuse_differences(path, now.options, wanted)
                elif index.next is None and not now.finished and now.has_keys:
                    index.current = _record(wanted)  # what fits is found by its key
                elif index.next is None or differences(index.next.options, wanted):
                    index.next = _record(wanted)
                if index.current != was.current or was.next not in (None, index.next):
                    _refuse_if_busy(path)  # who works there would be lost
                if was.next not in (None, index.next):
                    layout.remove(path, _DRAFTS)
            try:
                if index != was:
                    index.write(path)
            except ScattergenError:
                if not os.path.lexists(path / INDEX):
                    _forsake(path)
                raise
            if was is None:  # there may be some of a run whose run.json is damaged
                layout.remove(path, [METRICS])
            if index.next is not None and not differences(index.next.options, wanted):
                return cls(path, index.next, replaces=True)
            return cls(path, index.current)

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
        if not path.is_dir():
            raise RunFolderError(f"There is no run folder {path}: fit one with `scattergen fit`.")
        layout.refuse_links(path)
        if not os.path.lexists(path / INDEX):
            raise RunFolderError(
                f"{path} is not a run folder, since run.json is missing: name one that "
                "`scattergen fit` made, or copy that one again as a whole."
            )
        return cls(path, read_index(path).current)

    @classmethod
    def begun(cls, path: Path | str) -> "RunFolder":
        """The run of a folder that a fit would go on with: one that replaces it, if there is one.

        Args:
            path: A folder made by `start`.

        Returns:
            The run.

        Raises:
            RunFolderError: As `open`.
        """
        run = cls.open(path)
        following = read_index(run.path).next
        return run if following is None else cls(run.path, following, replaces=True)

    def being_replaced(self) -> bool:
        """Whether a run that shall take this one's place has been begun."""
        return read_index(self.path).next is not None

    def refresh(self) -> bool:
        """Become the run as it is now.

        Returns:
            Whether it has other files than when it was opened.
        """
        with suppress(RunFolderError):
            now = read_index(self.path).current
            before, self._record = self._record, now
            return before.hashes() != now.hashes()
        return False

    # Reading

    def check(self) -> None:
        """Compare every file with its hash.

        Raises:
            RunFolderError: If one is missing or is not the one that was written.
        """
        for name in self._record.files():
            self._checked(name)

    def is_whole(self, name: str) -> bool:
        """Whether the file of a finished stage, if it has one, is the one that was written."""
        try:
            return not self.has(name) or bool(self._checked(name))
        except RunFolderError:
            return False

    def has(self, name: str) -> bool:
        """Whether the tensors `name` were completely written."""
        return name in self._record.files()

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
        path = self._checked(name)
        tensors, kept = read_tensors(path)
        metadata = self._content(name, kept)
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
        return self._content(name, read_metadata(self.file(name)))

    def _content(self, name: str, kept: Any) -> Any:
        """The metadata of a stage within those of its file, checked."""
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
                f"{path} cannot be read ({error.strerror}): check its permissions and the disk, or "
                "copy the run folder again as a whole."
            ) from error
        if found != self.digest(name):
            raise RunFolderError(
                f"{path} is not the file that was written there (truncated or changed): {REMEDY}."
            )
        return path

    # Writing

    @contextmanager
    def working(self, name: str, key: str) -> Iterator[Path]:
        """A folder for the unfinished work of a stage, which no other process works on meanwhile.

        Args:
            name: Of the stage.
            key: Hash of all that it depends on.

        Yields:
            The folder; what it holds is deleted once the stage is written.

        Raises:
            RunFolderError: If another process is making the same, or nobody may write here.
        """
        folder = self.work(key)
        with ExitStack() as held:
            with _changing(self.path):  # so that nobody takes the folder for an idle one meanwhile
                # What is made is made from the stages that have been read: no others are taken.
                self._current()
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise RunFolderError(
                        f"Cannot write to {self.path} ({error.strerror}): choose another place or "
                        "change its permissions."
                    ) from error
                held.enter_context(locked(folder / "lock", _busy(self.path, f" (it makes {name})")))
                with suppress(OSError):  # else it is found out when it is finished
                    (folder / "lock").write_text(name)
            for path in folder.rglob("*"):  # of a process that was killed
                if is_temporary(path):
                    path.unlink(missing_ok=True)
            try:
                yield folder
            finally:
                if not _has_progress(folder):
                    with suppress(RunFolderError), _changing(self.path):
                        layout.remove_work(self.path, key)

    @contextmanager
    def drawing(self, name: str) -> Iterator[Path]:
        """A folder for what shows a finished stage, until `illustrate` gives it its place."""
        key = hashlib.sha256(f"{name} {self.key(name)}".encode()).hexdigest()[:16]
        with self.working(name, key) as folder:
            yield folder
            with _changing(self.path):
                layout.remove_work(self.path, key)

    def work(self, key: str) -> Path:
        """Folder of the unfinished work of a stage, whether it is there or not.

        Args:
            key: Of the stage.

        Returns:
            The path.
        """
        return self.path / WORK / key

    def find(self, name: str, key: str) -> Entry | None:
        """A finished stage of this or an earlier run of the folder, which then belongs to this one.

        Args:
            name: Of the stage.
            key: Hash of all that it depends on.

        Returns:
            The entry; None if there is none or its file is damaged.
        """
        found = self._found(name, key)
        if found is not None and self.work(key).exists():  # of a process that had just written it
            with suppress(RunFolderError), _changing(self.path):
                layout.remove_work(self.path, key)
        return found

    def _found(self, name: str, key: str) -> Entry | None:
        entry = self._record.stages.get(name)
        # Versions before 0.2 stored no keys.  `start` has seen to it that the options are the same;
        # those of densities are in their metadata.
        same = ("", key) if "/" not in name else (key,)
        if entry is not None and entry.key in same and self.is_whole(name):
            return entry
        path = self.path / file_of(name, key)
        try:
            kept = read_tensors(path)[1]
            content_of(path, name, key, kept)
            found = Entry(key, sha256(path), kept["after"], [], kept["facts"])
        except (OSError, RunFolderError):
            return None
        self._enter(name, found)
        return found

    def learn(self, name: str, entry: Entry) -> None:
        """Know a stage that another process of the same fit has found or made."""
        self._record.stages[name] = entry

    def write(
        self,
        name: str,
        key: str,
        tensors: Mapping[str, Tensor],
        metadata: Any,
        facts: Mapping[str, Any] | None = None,
        after: Mapping[str, str] | None = None,
    ) -> None:
        """Store tensors and, with them, the fact that a stage is finished.

        Args:
            name: Of the stage; may contain one "/".
            key: Hash of all that it depends on.
            tensors: Name to tensor.
            metadata: Anything that `json` can write.
            facts: What was measured.
            after: Stages that it was made from, to their keys.

        Raises:
            InputError: If the name cannot be that of a file.
            ScattergenError: If the file cannot be written.
        """
        _check_stage(name, key)
        kept = {
            "stage": name, "key": key, "content": metadata,
            "facts": dict(facts or {}), "after": dict(after or {}),
        }  # fmt: skip
        new = self.work(key) / f"result{layout.SUFFIX}"
        write_tensors(new, tensors, kept)
        entry = Entry(key, sha256(new), kept["after"], [], kept["facts"])
        self._enter(name, entry, lambda: self._place({file_of(name, key): new}))

    def note(
        self,
        name: str,
        key: str,
        facts: Mapping[str, Any],
        after: Sequence[str],
        products: Mapping[str, Path] | None = None,
    ) -> None:
        """Note that a stage without tensors is finished, and give its products their places.

        Args:
            name: Of the stage.
            key: Hash of all that it depends on.
            facts: What was measured.
            after: Finished stages that it was made from.
            products: Name relative to the run folder, to the file that shall have this name.

        Raises:
            ScattergenError: If a file cannot be written.
        """
        products = products or {}
        _check_stage(name, key)
        keys = {one: self.key(one) for one in after}
        entry = Entry(key, None, keys, sorted(products), dict(facts))
        self._enter(name, entry, lambda: self._place(products))

    def illustrate(self, name: str, products: Mapping[str, Path]) -> None:
        """Give files that show a finished stage their places.

        Args:
            name: Of the stage.
            products: Name relative to the run folder, to the file that shall have this name.

        Raises:
            ScattergenError: If a file cannot be written.
        """
        with self._recording({name: self.key(name)}) as stages:
            self._place(products)
            shown = sorted({*stages[name].products, *products})
            stages[name] = replace(stages[name], products=shown)

    def _place(self, products: Mapping[str, Path]) -> None:
        for target, file in products.items():
            if not (layout.is_product(target) or layout.is_stage_file(target)):
                raise _no_name(target)
            (self.path / target).parent.mkdir(exist_ok=True)
            move_file(file, self.path / target)

    def _enter(self, name: str, entry: Entry, place: Callable[[], None] = lambda: None) -> None:
        with self._recording(entry.after) as stages:
            place()
            if name in stages and stages[name].key != entry.key:
                del stages[name]  # the order is that of making
            stages[name] = entry

    @contextmanager
    def _recording(self, made_from: Mapping[str, str]) -> Iterator[dict[str, Entry]]:
        """The finished stages, to be changed, unless somebody has replaced what that is made from.

        Args:
            made_from: Stage to the key that it had.
        """
        with self._updating() as index:
            stages = self._record.stages
            for one, key in made_from.items():
                if one not in stages or stages[one].key != key:
                    raise RunFolderError(
                        f"Another process has replaced {one} of {self.path} meanwhile: run the "
                        "same command again."
                    )
            before, known, finished = self._record.named(), dict(stages), self._is_all(index)
            yield stages
            self._record.drop_outdated()
            if self._is_all(index) and not finished:
                _end_work(self.path, index.current)  # first, so that a kill leaves none behind
            index.write(self.path)
            made = {name: one.key for name, one in stages.items() if known.get(name) != one}
            for key in made.values():
                layout.remove_work(self.path, key)
            if self._is_all(index):
                _collect(self.path, index.current, before)
                _end_work(self.path, index.current, made)
            else:  # files of stages may yet be found again
                gone = before - index.named()
                layout.remove(self.path, [one for one in gone if not layout.is_stage_file(one)])

    def _is_all(self, index: Index) -> bool:
        """Whether the folder shall hold nothing but this run, which is finished."""
        return index.next is None and index.current.finished

    def finish(self) -> None:
        """Let this run take the place of the one before, and delete what belongs to neither.

        Files that scattergen did not make stay.
        """
        with self._updating() as index:
            before = {*index.current.named(), *layout.own_files(self.path)}
            self._record.drop_outdated()
            # First, so that a kill leaves nothing of the old run beside the new one.
            old = before - self._record.named()
            if not self.replaces or (self.drafts / METRICS).exists():
                old -= {METRICS}
            if self.replaces:
                _end_work(self.path, self._record)
            layout.remove(self.path, filter(layout.is_product, old))
            if not self.replaces and index.next is not None:
                layout.remove(self.path, _DRAFTS)  # of one that is given up
            index.current, index.next = self._record, None
            index.write(self.path)
            self.replaces = False
            _place_metrics(self.path)
            _collect(self.path, index.current, before)
            _end_work(self.path, index.current, ())

    def tidy(self) -> None:
        """Delete what a process that was killed left in a finished run."""
        with self._updating() as index:
            if self._is_all(index):
                _place_metrics(self.path)
                with suppress(FileNotFoundError), open_regular(self.path / METRICS, "rb+") as file:
                    _end_last_line(file)
                left = [name for name in layout.own_files(self.path) if is_temporary(Path(name))]
                _collect(self.path, index.current, left)
                _end_work(self.path, index.current, ())

    @contextmanager
    def _updating(self) -> Iterator[Index]:
        """The index, in which `self._record` is up to date, while nobody else changes it."""
        with _changing(self.path):
            index, self._record = self._current()
            yield index

    def _current(self) -> tuple[Index, Record]:
        """The index as it is now, and this run in it, unless another one is there instead."""
        index = read_index(self.path)
        record = index.next if self.replaces else index.current
        if record is None:  # somebody finished or gave it up
            record = index.current
        refuse_differences(self.path, record.options, self.options)
        return index, record

    def discard_if_empty(self) -> None:
        """Delete the run again if nothing was stored, so that a refused fit leaves no trace."""
        with _changing(self.path):
            index = read_index(self.path)
            record = index.next if self.replaces else index.current
            if record is None or record.stages or self.has_work():
                return
            if self.replaces:
                index.next = None
                index.write(self.path)
            elif index.next is None and _is_empty(self.path, record):
                _forsake(self.path)

    def has_work(self) -> bool:
        """Whether there is unfinished work to go on with, or somebody at it."""
        return _has_work(self.path)

    @property
    def drafts(self) -> Path:
        """Where metrics and previews are, of a run that replaces another one apart from its own."""
        return self.path / WORK if self.replaces else self.path

    @property
    def preview(self) -> Path:
        """Where a fit shows its decoder after each epoch."""
        return self.path / (_DRAFTS[1] if self.replaces else layout.PREVIEW)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line of metrics to metrics.jsonl."""
        path = self.drafts / METRICS
        try:
            path.parent.mkdir(exist_ok=True)
            with open_regular(path, "ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
                _end_last_line(file)
                file.write(json.dumps(dict(record)).encode() + b"\n")
        except OSError as error:
            raise ScattergenError(
                f"Cannot write {path}: {error.strerror}. Free some space, then run the same "
                "command again; it continues where it stopped."
            ) from error


def _end_last_line(file: IO[bytes]) -> None:
    """Cut off a line that a full disk or a kill left incomplete."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def _place_metrics(path: Path) -> None:
    """Give the metrics of a run that has taken its place theirs."""
    if (path / _DRAFTS[0]).exists():
        move_file(path / _DRAFTS[0], path / METRICS)


def _is_empty(path: Path, record: Record) -> bool:
    """Whether nothing would be lost with a run."""
    files = any(map(layout.is_stage_file, layout.own_files(path)))
    return not (record.stages or files or _has_work(path))


def _has_work(path: Path) -> bool:
    folders = [one for one in (path / WORK).glob("*") if layout.is_key(one.name)]
    return any(_has_progress(one) or not is_free(one / "lock") for one in folders)


def _has_progress(folder: Path) -> bool:
    """Whether a folder of unfinished work has something to go on with."""
    files = (Path(name) for _, _, names in os.walk(folder) for name in names)
    return any(one.name != "lock" and not is_temporary(one) for one in files)


def _known_index(path: Path, overwrite: bool) -> Index | None:
    """What run.json holds; None if there is none, or a damaged one that shall be overwritten."""
    try:
        return read_index(path) if os.path.lexists(path / INDEX) else None
    except RunFolderError as error:
        if overwrite and not isinstance(error.__cause__, OSError):  # the disk may yet be read
            return None
        raise


def _check_stage(name: str, key: str) -> None:
    if not (layout.is_stage(name) and layout.is_key(key)):
        raise _no_name(name.partition("/")[2] if "/" in name else name)


def _no_name(name: str) -> InputError:
    return InputError(
        f'"{name}" cannot be the name of a file: use letters, digits, ".", "_" and "-".'
    )


def _record(options: dict[str, Any]) -> Record:
    return Record(__version__, options)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Keep others from changing run.json, and delete what killed writers left beside it."""
    with locked(path / LOCK, _busy(path), _PATIENCE):
        layout.refuse_links(path)
        for file in path.glob("*.json"):
            if is_temporary(file):
                file.unlink(missing_ok=True)
        yield


def _busy(path: Path, what: str = "") -> str:
    return f"Another process is writing to {path}{what}: wait for it to finish, or stop it."


def _refuse_if_busy(path: Path) -> None:
    if not all(is_free(lock) for lock in (path / WORK).glob("*/lock")):
        raise RunFolderError(_busy(path))


def _collect(path: Path, record: Record, before: Collection[str]) -> None:
    """Delete what run.json no longer names: files of before, and those of stages."""
    kept = {INDEX, METRICS, *record.named()}
    found = [name for name in layout.own_files(path) if layout.is_stage_file(name)]
    layout.remove(path, {*before, *found, *_DRAFTS} - kept)


def _end_work(path: Path, record: Record, names: Collection[str] | None = None) -> None:
    """Delete work that nobody is at: of what is finished, and of some stages or, else, of all.

    That of others may yet be gone on with.
    """
    keys = {entry.key for entry in record.stages.values()}
    for folder in (path / WORK).glob("*"):
        ended = names is None or folder.name in keys or _stage_of(folder) in names
        free = layout.is_key(folder.name) and is_free(folder / "lock")
        if free and (ended or not _has_progress(folder)):
            layout.remove_work(path, folder.name)


def _stage_of(folder: Path) -> str:
    """Name of the stage whose unfinished work a folder holds, as far as is known."""
    try:
        with open_regular(folder / "lock") as file:
            return str(file.read(300), "utf-8", "replace")
    except (OSError, RunFolderError):
        return ""


def _forsake(path: Path) -> None:
    """Delete a run in which nothing is stored, and its folder unless other things are in it."""
    layout.remove(path, [*layout.own_files(path)])
    for folder in (path / WORK).glob("*"):
        if layout.is_key(folder.name):
            layout.remove_work(path, folder.name)
    (path / INDEX).unlink(missing_ok=True)
    if {file.name for file in path.iterdir()} <= {LOCK}:
        (path / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # "." and links to folders cannot be removed
            path.rmdir()
