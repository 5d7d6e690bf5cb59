"""A run: the folder of one fitted model, whose files of stages never change and whose run.json changes in one step."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.display.notebook import Card, Displayed, reduced
from scattergen.errors import RunFolderError, ScattergenError
from scattergen.files import is_temporary, lock, move_file, open_regular, sha256, writing
from scattergen.files.tensors import read_metadata, read_tensors, write_tensors
from scattergen.runs import layout, remains
from scattergen.runs.index import LAST_STAGE, Entry, Index, Record, read_index, refuse_differences
from scattergen.runs.layout import INDEX, METRICS, WORK, file_of
from scattergen.runs.schema import REMEDY, check_tensors, content_of


class RunFolder(Displayed):
    """Tensors, stages and measurements of one run. If it `replaces` another one, it takes its place when finished."""

    def __init__(self, path: Path, record: Record, replaces: bool = False) -> None:
        self.path, self.replaces, self._record = path, replaces, record

    @classmethod
    def start(
        cls, path: Path | str, options: Mapping[str, Any], *, overwrite: bool = False, afresh: bool = False,
        may_change: Callable[["RunFolder", str], bool] = lambda *_: False,
    ) -> "RunFolder":  # fmt: skip
        """A new run with options that `json` can write, or the one that is there if it has the same options.

        With `overwrite` it takes the place of any other, once `finish` is called, and keeps of an unfinished one what
        it needs, or nothing (`afresh`). An option such as "densities.vae.beta" may have another value than before if
        nothing is finished yet or `may_change` allows it.
        """
        path = Path(path).expanduser()
        wanted = json.loads(json.dumps(options))

        def may_keep(record: Record, option: str) -> bool:
            return may_change(cls(path, record), option)

        return cls(path, *remains.begin(path, wanted, may_keep, overwrite=overwrite, afresh=afresh))

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """The run in a folder; its files are checked when they are read."""
        path = Path(path).expanduser()
        if not path.is_dir():
            raise RunFolderError(f"There is no run folder {path}: fit one with `scattergen fit`.")
        layout.refuse_links(path)
        if not os.path.lexists(path / INDEX):
            remedy = "name one that `scattergen fit` made, or copy that one again as a whole"
            raise RunFolderError(f"{path} is not a run folder, since run.json is missing: {remedy}.")
        return cls(path, read_index(path).current)

    @classmethod
    def begun(cls, path: Path | str) -> "RunFolder":
        """The run of a folder that a fit would go on with: the one that replaces it, if there is one."""
        run = cls.open(path)
        following = read_index(run.path).next
        return run if following is None else cls(run.path, following, replaces=True)

    @property
    def options(self) -> dict[str, Any]:
        """What the run was fitted with."""
        return dict(self._record.options)

    @property
    def shown_options(self) -> dict[str, Any]:
        """The options without the marks of image files, which would fill pages and tell nobody anything."""
        data = {name: value for name, value in self.options.get("data", {}).items() if name != "marks"}
        return self.options | ({"data": data} if data else {})

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """What was measured of each stage, such as "seconds", in order; nothing of a model saved from Python."""
        return {name: dict(e.facts) for name, e in self._record.stages.items() if e.facts}

    @property
    def keys(self) -> dict[str, str]:
        """The key of every finished stage, measured or not, in order."""
        return {name: entry.key for name, entry in self._record.stages.items()}

    @property
    def finished(self) -> bool:
        """Whether the fit came to its end; a model saved from Python is finished."""
        return self._record.finished

    @property
    def version(self) -> str:
        """Version of scattergen that started the run."""
        return self._record.scattergen

    @property
    def psnr(self) -> float | None:
        """Mean, in dB, of unseen images that were restored, if it was measured."""
        stages = self.stages
        measured: float | None = {**stages.get("decoder", {}), **stages.get(LAST_STAGE, {})}.get("psnr")
        return measured

    @property
    def metrics(self) -> Path:
        """Where metrics go; those of a run that replaces another one are kept apart from its own."""
        return self.path / (remains.DRAFTS[0] if self.replaces else METRICS)

    @property
    def preview(self) -> Path:
        """Where a fit shows its decoder after each epoch."""
        return self.path / (remains.DRAFTS[1] if self.replaces else layout.PREVIEW)

    def _card(self) -> Card:
        data, end = self.options.get("data", {}), self.stages.get(LAST_STAGE, {})
        facts: dict[str, object] = {"images": f"{data.get('n')} of {data.get('name')}"} if data else {}
        facts["state"] = "finished" if self.finished else "unfinished: the same command goes on with it"
        if self.psnr is not None:
            facts["reconstruction"] = f"{self.psnr:.2f} dB PSNR of unseen images"
        keys, best = self.names("densities"), end.get("best")
        facts["densities"] = ", ".join(f"{key} (best)" if key == best else key for key in keys) or "none"
        shown = best if best in keys else "".join(keys[-1:])
        file = self.path / "pictures" / f"samples-{shown}.png"
        draw = partial(reduced, file) if file.is_file() else None
        return Card(f"RunFolder {self.path}", facts, f"samples of {shown}", draw)

    def refresh(self) -> bool:
        """Read the run again; whether its stages have changed since."""
        with suppress(RunFolderError):
            before, self._record = self._record, read_index(self.path).current
            return before.stages != self._record.stages
        return False

    def has_work(self) -> bool:
        """Whether there is unfinished work to go on with, or another process at it."""
        return remains.has_work(self.path)

    def check(self) -> None:
        """Refuse a run with a file that is missing or was changed, unless it would be made again when it is needed."""
        for name in self._record.files():
            if not name.startswith(layout.FEATURES):
                self._checked(name)

    def is_whole(self, name: str) -> bool:
        """Whether the file of a finished stage, if it has one, is as it was written, and usable."""
        with suppress(RunFolderError):
            return not self.has(name) or bool(self.read(name))
        return False

    def has(self, name: str) -> bool:
        """Whether the tensors `name` were completely written."""
        return name in self._record.files()

    def require(self, name: str) -> None:
        """Refuse to go on without the tensors `name`."""
        if not self.has(name):
            section, _, key = name.partition("/")
            why = "if its fit was interrupted, the same `scattergen fit` command goes on with it"
            if name == "codes":
                why = "run its fit command again, or load it in Python and save(RUN, data=data, overwrite=True)"
            elif key:
                name, why = f'{section} "{key}"', f"it has {', '.join(self.names(section)) or 'none'}"
            raise RunFolderError(f"{self.path} has no {name}: {why}.")

    def key(self, name: str) -> str:
        """Key of a finished stage; empty if it is not finished."""
        return self._record.stages[name].key if name in self._record.stages else ""

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
        return [name.removeprefix(f"{folder}/") for name in self._record.files() if name.startswith(f"{folder}/")]

    def read(self, name: str) -> tuple[dict[str, Tensor], Any]:
        """Tensors and metadata as given to `write`; refused if the file was changed or holds NaN."""
        path = self._checked(name)
        tensors, kept = read_tensors(path)
        metadata = content_of(path, name, self.key(name), kept)
        known = name == "codes" and self.has("encoder")
        check_tensors(path, name, tensors, metadata, self.metadata("encoder")["n_components"] if known else None)
        return tensors, metadata

    def metadata(self, name: str) -> Any:
        """Metadata alone, which is fast, since the hash of the tensors is not checked."""
        path = self.file(name)
        return content_of(path, name, self.key(name), read_metadata(path))

    def _checked(self, name: str) -> Path:
        path = self.file(name)
        try:
            found = sha256(path)
        except FileNotFoundError as error:
            raise RunFolderError(f"{path} is missing: {REMEDY}.") from error
        except OSError as error:
            remedy = "check its permissions and the disk, or copy the run folder again as a whole"
            raise RunFolderError(f"{path} cannot be read ({error.strerror}): {remedy}.") from error
        if found != self.digest(name):
            raise RunFolderError(f"{path} is not the file that was written there (truncated or changed): {REMEDY}.")
        return path

    @contextmanager
    def working(self, name: str, key: str) -> Iterator[Path]:
        """A folder for unfinished work that no other process touches meanwhile; deleted once the stage is written."""
        folder = self.work(key)
        with ExitStack() as held:
            with remains.changing(self.path):  # so that nobody takes the folder for an idle one
                self._current()  # refuses to work for another run that has been begun here
                with writing(self.path):
                    folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(remains.locked(folder / "lock", remains.busy(self.path, f" (it makes {name})")))
                with suppress(OSError):  # a full disk shows up when the stage is written
                    (folder / "lock").write_text(name)
            for path in folder.rglob("*"):  # of a process that was killed
                if is_temporary(path):
                    path.unlink(missing_ok=True)
            try:
                yield folder
            finally:
                if not remains.has_progress(folder):
                    with suppress(ScattergenError), remains.changing(self.path):
                        layout.remove_work(self.path, key)

    def work(self, key: str) -> Path:
        """Folder of the unfinished work of a stage, whether it is there or not."""
        return self.path / WORK / key

    def find(self, name: str, key: str) -> Entry | None:
        """A finished stage, if it is whole; one of an earlier run in the folder joins this run."""
        entry = self._record.stages.get(name)
        if entry is not None and entry.key == key:
            if not self.is_whole(name):  # it may be another's, however well it fits in itself
                return None
        else:
            path = self.path / file_of(name, key)
            try:
                kept = read_tensors(path)[1]
                content_of(path, name, key, kept)
                entry = Entry(key, sha256(path), kept["after"], [], kept["facts"])
            except (OSError, RunFolderError):
                return None
            self._enter(name, entry, {})
        if self.work(key).exists():  # of a process that was killed when it had just written it
            with suppress(ScattergenError), remains.changing(self.path):
                if remains.is_free(self.work(key) / "lock"):
                    layout.remove_work(self.path, key)
        return entry

    def learn(self, name: str, entry: Entry) -> None:
        """Know a stage that another process of the same fit has found or made."""
        self._record.stages[name] = entry

    def write(
        self, name: str, key: str, tensors: Mapping[str, Tensor], metadata: Any, facts: Mapping[str, Any] = {},
        after: Mapping[str, str] = {},
    ) -> None:  # fmt: skip
        """Store a finished stage: its tensors, what was measured, and the keys of the stages it was made from."""
        layout.check_name(name, key)
        kept = {"stage": name, "key": key, "content": metadata, "facts": dict(facts), "after": dict(after)}
        new = self.work(key) / f"result{layout.SUFFIX}"
        write_tensors(new, tensors, kept)
        self._enter(name, Entry(key, sha256(new), dict(after), [], dict(facts)), {file_of(name, key): new})

    def note(
        self, name: str, key: str, facts: Mapping[str, Any], after: Sequence[str], products: Mapping[str, Path] = {}
    ) -> None:
        """Note that a stage without tensors is finished, and move its products to their names in the folder."""
        layout.check_name(name, key)
        entry = Entry(key, None, {one: self.key(one) for one in after}, sorted(products), dict(facts))
        self._enter(name, entry, products)

    def illustrate(self, name: str, products: Mapping[str, Path]) -> None:
        """Move files that show a finished stage to their names in the folder."""
        self._enter(name, None, products)

    def _enter(self, name: str, entry: Entry | None, products: Mapping[str, Path]) -> None:
        """Enter a stage with its files, or only files that show it; refused if what it builds on has been replaced."""
        made_from = {name: self.key(name)} if entry is None else entry.after
        with self._updating() as index:
            stages = self._record.stages
            for one, key in made_from.items():
                if one not in stages or stages[one].key != key:
                    what = f"Another process has replaced {one} of {self.path} meanwhile"
                    raise RunFolderError(f"{what}: run the same command again.")
            before, settled = self._record.named(), index.settled
            for target, file in products.items():
                if not (layout.is_product(target) or layout.is_stage_file(target)):
                    raise layout.no_name(target)
                (self.path / target).parent.mkdir(exist_ok=True)
                move_file(file, self.path / target)
            if entry is None:
                entry = replace(stages[name], products=sorted({*stages[name].products, *products}))
            elif name in stages and stages[name].key != entry.key:
                del stages[name]  # so that the order stays that of making
            stages[name] = entry
            self._record.drop_outdated()
            if index.settled and not settled:
                remains.end_work(self.path, index.current)  # first, so that a kill leaves none behind
            index.write(self.path)
            layout.remove_work(self.path, entry.key)
            if index.settled:
                remains.collect(self.path, index.current, before)
                remains.end_work(self.path, index.current, [name])
            else:  # keep the files of stages, which may be found again
                old = before - index.current.named() - (index.next or index.current).named()
                layout.remove(self.path, [one for one in old if not layout.is_stage_file(one)])

    def finish(self) -> None:
        """Take the place of the run before, and delete all files of scattergen that this one does not need."""
        with self._updating() as index:
            before = {*index.current.named(), *layout.own_files(self.path)}
            self._record.drop_outdated()
            # First, so that a kill leaves nothing of the old run beside the new one.
            old = before - self._record.named()
            if self.metrics.exists() or not self.replaces:
                old -= {METRICS}
            if self.replaces:
                remains.end_work(self.path, self._record)
            layout.remove(self.path, filter(layout.is_product, old))
            if not self.replaces and index.next is not None:
                layout.remove(self.path, remains.DRAFTS)  # of the one that is given up
            index.current, index.next = self._record, None
            index.write(self.path)
            self.replaces = False
            remains.settle(self.path, index.current, before)

    def tidy(self) -> None:
        """Delete what a process that was killed left in a finished run."""
        with self._updating() as index:
            if index.settled:
                left = [name for name in layout.own_files(self.path) if is_temporary(Path(name))]
                remains.settle(self.path, index.current, left)
                with suppress(FileNotFoundError), open_regular(self.path / METRICS, "rb+") as file:
                    remains.end_last_line(file)

    @contextmanager
    def _updating(self) -> Iterator[Index]:
        """The index, in which `self._record` is up to date, while nobody else changes it."""
        with remains.changing(self.path):
            index, self._record = self._current()
            yield index

    def _current(self) -> tuple[Index, Record]:
        """The index as it is now, and this run in it; refused if another run has replaced it."""
        index = read_index(self.path)
        record = (index.next if self.replaces else None) or index.current  # another process may have ended that one
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
        """Append one line of metrics to metrics.jsonl, after its last complete one."""
        with writing(self.metrics, "the same command continues where it stopped"):
            self.metrics.parent.mkdir(exist_ok=True)
            with open_regular(self.metrics, "ab+") as file:
                lock(file, wait=True)
                remains.end_last_line(file)
                file.write(json.dumps(dict(record)).encode() + b"\n")
