"""run.json: which results belong to a run, and to the one that will take its place."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scattergen.errors import RunFolderError
from scattergen.files import read_json, write_json
from scattergen.runs.layout import INDEX, SUFFIX, file_of
from scattergen.runs.schema import REMEDY, check_index

FORMAT = 2  # version of the layout, raised when older software could not read a newer folder
LAST_STAGE = "report"  # a fit ends with it


class OtherFormatError(RunFolderError):
    """A run that is whole, but of a format that this version does not know."""


@dataclass(frozen=True)
class Entry:
    """A finished stage."""

    key: str  # hash of all that its result depends on
    sha256: str | None = None  # of the file of its tensors, if it has one
    after: dict[str, str] = field(default_factory=dict)  # stages that it was made from, to their keys
    products: list[str] = field(default_factory=list)  # files for people to look at, relative to the run folder
    facts: dict[str, Any] = field(default_factory=dict)  # what was measured, such as "seconds"


@dataclass
class Record:
    """A run."""

    scattergen: str  # version that began it
    options: dict[str, Any]
    stages: dict[str, Entry] = field(default_factory=dict)  # those that are finished, in their order

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Record":
        """The run that checked JSON describes."""
        stages = {name: Entry(**entry) for name, entry in content["stages"].items()}
        return cls(content["scattergen"], content["options"], stages)

    @property
    def finished(self) -> bool:
        """Whether the fit came to its end; a model saved from Python has no measured stages."""
        of_fit = any(entry.facts for entry in self.stages.values())
        return bool(self.stages) and (LAST_STAGE in self.stages or not of_fit)

    @property
    def has_keys(self) -> bool:
        """Whether every stage says what it depends on; versions before 0.2 did not keep that."""
        return all(entry.key for entry in self.stages.values())

    def files(self) -> dict[str, str]:
        """Stage to the file of its tensors, of those that have one."""
        return {name: file_of(name, entry.key) for name, entry in self.stages.items() if entry.sha256 is not None}

    def hashes(self) -> dict[str, str | None]:
        """File to its SHA-256."""
        return {file: self.stages[name].sha256 for name, file in self.files().items()}

    def named(self) -> set[str]:
        """All files that belong to the run, relative to its folder."""
        products = {one for entry in self.stages.values() for one in entry.products}
        return products | set(self.files().values())

    def drop_outdated(self) -> None:
        """Take out the stages that were made from stages that have been replaced since."""
        keys = {name: entry.key for name, entry in self.stages.items()}
        # In the order of making, so that whatever was made from a dropped stage is dropped, too.
        for name, entry in [*self.stages.items()]:
            if any(keys.get(one) != key for one, key in entry.after.items()):
                del keys[name], self.stages[name]


@dataclass
class Index:
    """What run.json holds."""

    current: Record
    next: Record | None = None  # takes its place once it is finished

    @property
    def settled(self) -> bool:
        """Whether the folder should hold nothing but this run, which is finished."""
        return self.next is None and self.current.finished

    def named(self) -> set[str]:
        """All files that belong to one of them, relative to the folder."""
        return self.current.named() | (set() if self.next is None else self.next.named())

    def write(self, path: Path) -> None:
        """Write run.json in a folder, atomically."""
        content = asdict(self.current)
        if self.next is not None:
            content["next"] = asdict(self.next)
        write_json(path / INDEX, {"format": FORMAT, **content, "digest": _digest(content)})


def read_index(path: Path) -> Index:
    """The checked run.json of a folder; refused if it is unreadable, damaged, changed, or of a newer format."""
    file = path / INDEX
    try:
        content = read_json(file)
        digest, version = content.pop("digest"), content.pop("format")
    except OSError as error:
        raise RunFolderError(
            f"{file} cannot be read ({error.strerror}): check its permissions and the disk, then "
            "run the same command again; the run need not be damaged."
        ) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(file) from error
    if version not in (1, FORMAT) or isinstance(version, bool):
        raise OtherFormatError(
            f"{path} has run format {version!r}, but this scattergen reads formats 1 and {FORMAT}: "
            "update scattergen (pip install -U scattergen)."
        )
    if digest != _digest(content):
        raise RunFolderError(f"{file} was changed after it was written: {REMEDY}.")
    if version == 1:
        content = _from_format_1(file, content)
    check_index(file, content)
    following = content.get("next")
    return Index(Record.of(content), None if following is None else Record.of(following))


def _from_format_1(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """An index of a version before 0.2, where stages had no keys and files were named after them."""
    try:
        hashes = {
            # A file that was just being replaced had two.
            name: digest if isinstance(digest, str) else [*map(str, digest)][1]
            for name, digest in content.pop("files").items()
        }
        if not all(name.endswith(SUFFIX) for name in hashes):
            raise TypeError
        facts = content["stages"]
        names = dict.fromkeys([*(name.removesuffix(SUFFIX) for name in hashes), *facts])
        # With a new encoder everything is made again.
        after = {"encoder": ""} if "encoder" in names else {}
        stages = {
            name: Entry("", hashes.get(name + SUFFIX), {} if name == "encoder" else after, [], facts.get(name, {}))
            for name in names
        }
        return {**content, "stages": {name: asdict(entry) for name, entry in stages.items()}}
    except (KeyError, AttributeError, TypeError, IndexError) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> RunFolderError:
    return RunFolderError(f"{file} is damaged: copy the run folder again as a whole, or delete it and fit again.")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
