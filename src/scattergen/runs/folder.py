"""A run: the folder that holds one fitted model, self-describing, resumable and never half-written.

Every finished stage is an immutable file NAME-KEY.safetensors, whose key is the hash of all that it
depends on.  run.json says which of them belong to the run; it alone ever changes, in one step.
Unfinished work lies in work/KEY.  Readers need no lock, and writers only while they change run.json.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.errors import RunFolderError
from scattergen.files import is_temporary, move_file, open_regular, sha256
from scattergen.runs import layout, remains
from scattergen.runs.index import Entry, Index, Record, read_index
from scattergen.runs.layout import METRICS, WORK, file_of, no_name
from scattergen.runs.locks import locked, writing_to
from scattergen.runs.options import refuse_differences
from scattergen.runs.schema import content_of
from scattergen.runs.starting import begin
from scattergen.runs.stored import StoredRun
from scattergen.tensor_files import read_tensors, write_tensors


class RunFolder(StoredRun):
    """Tensors, stages and measurements of one run, made by `RunFolder.start` (to fit) or `RunFolder.open` (to use)."""

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
        """A new run with options that `json` can write, or the one that is there if it has the same options.

        A run in which nothing is finished yet gives way to one with other options.  With `overwrite` any
        run does: a finished one stays until `finish` is called on the new one, and of an unfinished one
        all is kept that the new one needs.  `afresh` begins the new one without what was begun of it.
        `may_change` tells whether a run may be continued with another value of an option such as
        "densities.vae.beta".
        """
        path = Path(path).expanduser()
        wanted = json.loads(json.dumps(options))

        def may_keep(record: Record, option: str) -> bool:
            return may_change is not None and may_change(cls(path, record), option)

        record, replaces = begin(path, wanted, may_keep, overwrite=overwrite, afresh=afresh)
        return cls(path, record, replaces)

    @classmethod
    def begun(cls, path: Path | str) -> "RunFolder":
        """The run of a folder that a fit would go on with: the one that replaces it, if there is one."""
        run = cls.open(path)
        following = read_index(run.path).next
        return run if following is None else cls(run.path, following, replaces=True)

    @contextmanager
    def working(self, name: str, key: str) -> Iterator[Path]:
        """A folder for unfinished work that no other process touches meanwhile; deleted once the stage is written."""
        folder = self.work(key)
        with ExitStack() as held:
            with remains.changing(self.path):  # so that nobody takes the folder for an idle one
                self._current()  # refuses to work for another run that has been begun here
                with writing_to(self.path):
                    folder.mkdir(parents=True, exist_ok=True)
                busy = remains.busy(self.path, f" (it makes {name})")
                held.enter_context(locked(folder / "lock", busy))
                with suppress(OSError):  # a full disk shows up when the stage is written
                    (folder / "lock").write_text(name)
            for path in folder.rglob("*"):  # of a process that was killed
                if is_temporary(path):
                    path.unlink(missing_ok=True)
            try:
                yield folder
            finally:
                if not remains.has_progress(folder):
                    with suppress(RunFolderError), remains.changing(self.path):
                        layout.remove_work(self.path, key)

    @contextmanager
    def drawing(self, name: str) -> Iterator[Path]:
        """A folder for pictures of a finished stage, until `illustrate` moves them to their places."""
        key = hashlib.sha256(f"{name} {self.key(name)}".encode()).hexdigest()[:16]
        with self.working(name, key) as folder:
            yield folder
            with remains.changing(self.path):
                layout.remove_work(self.path, key)

    def work(self, key: str) -> Path:
        """Folder of the unfinished work of a stage, whether it is there or not."""
        return self.path / WORK / key

    def find(self, name: str, key: str) -> Entry | None:
        """A finished stage, if it is whole; one of an earlier run in the folder joins this run."""
        entry = self._record.stages.get(name)
        # Versions before 0.2 stored no keys.  `start` has made sure that the options are the same;
        # those of densities are in their metadata.
        same = ("", key) if "/" not in name else (key,)
        if entry is None or entry.key not in same or not self.is_whole(name):
            path = self.path / file_of(name, key)
            try:
                kept = read_tensors(path)[1]
                content_of(path, name, key, kept)
                entry = Entry(key, sha256(path), kept["after"], [], kept["facts"])
            except (OSError, RunFolderError):
                return None
            self._enter(name, entry, {})
        if self.work(key).exists():  # of a process that had just written it
            with suppress(RunFolderError), remains.changing(self.path):
                layout.remove_work(self.path, key)
        return entry

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
        """Store a finished stage: its tensors, what was measured, and the keys of the stages it was made from."""
        layout.check_stage(name, key)
        kept = {"stage": name, "key": key, "content": metadata, "facts": dict(facts or {}), "after": dict(after or {})}
        new = self.work(key) / f"result{layout.SUFFIX}"
        write_tensors(new, tensors, kept)
        entry = Entry(key, sha256(new), kept["after"], [], kept["facts"])
        self._enter(name, entry, {file_of(name, key): new})

    def note(
        self,
        name: str,
        key: str,
        facts: Mapping[str, Any],
        after: Sequence[str],
        products: Mapping[str, Path] | None = None,
    ) -> None:
        """Note that a stage without tensors is finished, and move its products to their names in the folder."""
        products = products or {}
        layout.check_stage(name, key)
        keys = {one: self.key(one) for one in after}
        entry = Entry(key, None, keys, sorted(products), dict(facts))
        self._enter(name, entry, products)

    def illustrate(self, name: str, products: Mapping[str, Path]) -> None:
        """Move files that show a finished stage to their names in the folder."""
        with self._recording({name: self.key(name)}) as stages:
            self._place(products)
            shown = sorted({*stages[name].products, *products})
            stages[name] = replace(stages[name], products=shown)

    def _place(self, products: Mapping[str, Path]) -> None:
        for target, file in products.items():
            if not (layout.is_product(target) or layout.is_stage_file(target)):
                raise no_name(target)
            (self.path / target).parent.mkdir(exist_ok=True)
            move_file(file, self.path / target)

    def _enter(self, name: str, entry: Entry, products: Mapping[str, Path]) -> None:
        with self._recording(entry.after) as stages:
            self._place(products)
            if name in stages and stages[name].key != entry.key:
                del stages[name]  # so that the order stays that of making
            stages[name] = entry

    @contextmanager
    def _recording(self, made_from: Mapping[str, str]) -> Iterator[dict[str, Entry]]:
        """The finished stages, to be changed; refused if one that the change builds on has another key by now."""
        with self._updating() as index:
            stages = self._record.stages
            for one, key in made_from.items():
                if one not in stages or stages[one].key != key:
                    raise RunFolderError(
                        f"Another process has replaced {one} of {self.path} meanwhile: run the same command again."
                    )
            before, known, settled = self._record.named(), dict(stages), index.settled
            yield stages
            self._record.drop_outdated()
            if index.settled and not settled:
                remains.end_work(self.path, index.current)  # first, so that a kill leaves none behind
            index.write(self.path)
            made = {name: one.key for name, one in stages.items() if known.get(name) != one}
            for key in made.values():
                layout.remove_work(self.path, key)
            if index.settled:
                remains.collect(self.path, index.current, before)
                remains.end_work(self.path, index.current, made)
            else:  # keep the files of stages, which may be found again
                gone = before - index.named()
                layout.remove(self.path, [one for one in gone if not layout.is_stage_file(one)])

    def finish(self) -> None:
        """Take the place of the run before, and delete all files of scattergen that this one does not need."""
        with self._updating() as index:
            before = {*index.current.named(), *layout.own_files(self.path)}
            self._record.drop_outdated()
            # First, so that a kill leaves nothing of the old run beside the new one.
            old = before - self._record.named()
            if not self.replaces or (self.drafts / METRICS).exists():
                old -= {METRICS}
            if self.replaces:
                remains.end_work(self.path, self._record)
            layout.remove(self.path, filter(layout.is_product, old))
            if not self.replaces and index.next is not None:
                layout.remove(self.path, remains.DRAFTS)  # of the one that is given up
            index.current, index.next = self._record, None
            index.write(self.path)
            self.replaces = False
            remains.place_metrics(self.path)
            remains.collect(self.path, index.current, before)
            remains.end_work(self.path, index.current, ())

    def tidy(self) -> None:
        """Delete what a process that was killed left in a finished run."""
        with self._updating() as index:
            if index.settled:
                remains.place_metrics(self.path)
                with suppress(FileNotFoundError), open_regular(self.path / METRICS, "rb+") as file:
                    remains.end_last_line(file)
                left = [name for name in layout.own_files(self.path) if is_temporary(Path(name))]
                remains.collect(self.path, index.current, left)
                remains.end_work(self.path, index.current, ())

    @contextmanager
    def _updating(self) -> Iterator[Index]:
        """The index, in which `self._record` is up to date, while nobody else changes it."""
        with remains.changing(self.path):
            index, self._record = self._current()
            yield index

    def _current(self) -> tuple[Index, Record]:
        """The index as it is now, and this run in it; refused if another run has replaced it."""
        index = read_index(self.path)
        record = index.next if self.replaces else index.current
        if record is None:  # another process has finished or given up that one
            record = index.current
        refuse_differences(self.path, record.options, self.options)
        return index, record

    def discard_if_empty(self) -> None:
        """Delete the run again if nothing was stored, so that a refused fit leaves no trace."""
        with remains.changing(self.path):
            index = read_index(self.path)
            record = index.next if self.replaces else index.current
            if record is None or record.stages or self.has_work():
                return
            if self.replaces:
                index.next = None
                index.write(self.path)
            elif index.next is None and remains.is_empty(self.path, record):
                remains.forsake(self.path)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line of metrics to metrics.jsonl."""
        remains.append_line(self.drafts / METRICS, json.dumps(dict(record)))
