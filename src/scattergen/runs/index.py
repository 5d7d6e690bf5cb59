"""run.json: which results belong to a run and to the one that will take its place, and in what options runs differ."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scattergen.errors import RunFolderError
from scattergen.files import read_json, write_json
from scattergen.runs.layout import INDEX, file_of
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

    @property
    def finished(self) -> bool:
        """Whether the fit came to its end; nobody knows how long the encoder of a model saved from Python took."""
        of_fit = "encoder" not in self.stages or "seconds" in self.stages["encoder"].facts
        return bool(self.stages) and (LAST_STAGE in self.stages or not of_fit)

    def files(self) -> dict[str, str]:
        """Stage to the file of its tensors, of those that have one."""
        return {name: file_of(name, entry.key) for name, entry in self.stages.items() if entry.sha256 is not None}

    def named(self) -> set[str]:
        """All files that belong to the run, relative to its folder."""
        return {one for entry in self.stages.values() for one in entry.products} | set(self.files().values())

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

    def write(self, path: Path) -> None:
        """Write run.json in a folder, atomically."""
        content = asdict(self.current)
        if self.next is not None:
            content["next"] = asdict(self.next)
        write_json(path / INDEX, {"format": FORMAT, **content, "digest": _digest(content)})


def read_index(path: Path) -> Index:
    """The checked run.json of a folder; refused if it is unreadable, damaged, changed, or of another format."""
    file = path / INDEX
    try:
        content = read_json(file)
        digest, version = content.pop("digest"), content.pop("format")
    except OSError as error:
        remedy = "check its permissions and the disk, then run the same command again; the run need not be damaged"
        raise RunFolderError(f"{file} cannot be read ({error.strerror}): {remedy}.") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        remedy = "copy the run folder again as a whole, or delete it and fit again"
        raise RunFolderError(f"{file} is damaged: {remedy}.") from error
    if version != FORMAT:
        older = isinstance(version, int) and version < FORMAT
        remedy = "fit its images again in another folder" if older else "update scattergen"
        raise OtherFormatError(f"{path} has run format {version!r}, but this scattergen reads {FORMAT}: {remedy}.")
    if digest != _digest(content):
        raise RunFolderError(f"{file} was changed after it was written: {REMEDY}.")
    check_index(file, content)
    return Index(_record(content), _record(content["next"]) if content.get("next") is not None else None)


def _record(content: Mapping[str, Any]) -> Record:
    stages = {name: Entry(**entry) for name, entry in content["stages"].items()}
    return Record(content["scattergen"], content["options"], stages)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """Names of the options in which two nested sets differ, sorted, with "." between the levels: ["vae.beta"]."""
    old, new = flatten(have), flatten(want)
    return sorted(name for name in old.keys() | new.keys() if old.get(name, ...) != new.get(name, ...))


def refuse_differences(path: Path, have: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    """Refuse to continue something at a path that was started with other options."""
    old, new = flatten(have), flatten(want)
    names = sorted({*differences(old, new)} - {"data.marks", "data.converted"})  # of images the fingerprint says enough
    if names:
        found = "; ".join(f"{name}={_show(old, name)} there, {_show(new, name)} now" for name in names)
        remedy = "use the same ones, another name, or --overwrite to replace it"
        raise RunFolderError(f"{path} was fitted with other options ({found}): {remedy}.")


def flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one level, with "." between the names."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {prefix + name: value}
    return flat


def _show(options: Mapping[str, Any], name: str) -> str:
    text = json.dumps(options[name]) if name in options else "unset"
    return text if len(text) <= 40 else text[:37] + "..."
