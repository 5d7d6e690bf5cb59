"""The layout of a run folder: which files in it are scattergen's, since only those are ever deleted."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from scattergen.errors import InputError, RunFolderError
from scattergen.files import is_temporary, read_json

INDEX = "run.json"
METRICS, PREVIEW = "metrics.jsonl", "pictures/preview.png"
LOCK = ".scattergen-lock"
WORK = "work"  # holds unfinished work, in a folder named by the key of each stage
SUFFIX = ".safetensors"
DENSITIES, PAPER = "densities", "paper"  # the only folders in which run.json may name files
FEATURES = "features-"  # stages that only spare time begin with it

_KEY = "[0-9a-f]{16}"
_NAME = r"\w[\w.-]*"
_PICTURE = (
    rf"pictures/(preview|evaluation|density-{_NAME}|diagnosis-{_NAME}|densities|samples-{_NAME}|reconstructions|"
    r"eigenvalues|explained-variance|rejections-\w+|training-loss|validation-psnr|visualisation-matrix-\w+)(-\d+)?\.png"
)
# What people look at.
_PRODUCT = re.compile(
    rf"metrics\.jsonl|report\.html|evaluation\.json|diagnosis(-{_NAME})?\.json|reproduction(-quick)?\.html|{_PICTURE}"
)
_STAGE_FILE = re.compile(rf"(({DENSITIES}|{PAPER})/)?{_NAME}-{_KEY}\.safetensors")
_FOLDERS = (DENSITIES, PAPER, "pictures")
_MARKS = {"format", "scattergen", "digest"}  # keys that tell our run.json from others


def check_name(name: str, key: str = "0" * 16) -> None:
    """Refuse a name, "NAME", "densities/NAME" or "paper/NAME", and a key that no stage has."""
    if not (is_stage(name) and is_key(key)):
        raise no_name(name)


def no_name(name: str) -> InputError:
    """The error for a name that no file can have."""
    found = name.split("/", 1)[-1]
    return InputError(f'"{found}" cannot be the name of a file: use letters, digits, ".", "_" and "-".')


def _may_exist(name: str) -> bool:
    """Whether no part of a name is longer than file systems allow."""
    return all(len(part.encode()) <= 255 for part in name.split("/"))


def file_of(name: str, key: str) -> str:
    """The file of a stage's results, relative to the run folder."""
    return f"{name}-{key}{SUFFIX}"


def is_key(key: str) -> bool:
    """Whether a text is the key of a stage: 16 hexadecimal digits."""
    return re.fullmatch(_KEY, key) is not None


def is_stage(name: str) -> bool:
    """Whether a stage may have this name."""
    return is_stage_file(file_of(name, "0" * 16))


def is_stage_file(name: str) -> bool:
    """Whether a name, relative to the run folder, is one that `file_of` gives."""
    return _STAGE_FILE.fullmatch(name) is not None and _may_exist(name)


def is_product(name: str) -> bool:
    """Whether a name, relative to the run folder, is that of a file that scattergen writes for people to look at."""
    return _PRODUCT.fullmatch(name) is not None and _may_exist(name)


def products_in(folder: Path) -> dict[str, Path]:
    """Products that were made in a folder of the same layout: relative name to file."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*")}
    return {name: file for name, file in files.items() if is_product(name)}


def own_files(path: Path) -> Iterator[str]:
    """Relative names of products, files of stages, named or not, and what killed writers left; no unfinished work."""
    for file in [*path.iterdir(), *_below(path, *_FOLDERS)]:
        name = file.relative_to(path).as_posix()
        ours = is_product(name) or is_stage_file(name) or ("/" in name and is_temporary(file))
        if ours and not file.is_dir():
            yield name


def refuse_links(path: Path) -> None:
    """Refuse a run with links to folders in it, whose files it would change; it may itself be a link."""
    for one in _below(path, WORK, *_FOLDERS):
        if one.is_symlink() and one.is_dir():
            remedy = "put the folder itself there, or delete the link"
            raise RunFolderError(f"{one} is a link to another folder, whose files are not the run's: {remedy}.")


def refuse_foreign(path: Path) -> None:
    """Refuse a place that holds anything but a run; it need not exist."""
    if not path.exists():
        return
    if not path.is_dir():
        raise RunFolderError(f"{path} is a file: name a folder for the run.")
    if os.path.lexists(path / INDEX):
        try:
            ours = read_json(path / INDEX).keys() >= _MARKS
        except OSError:
            return  # the reader will say why it cannot be read
        except (ValueError, AttributeError):
            ours = False
        what = None if ours else f"{path / INDEX} is damaged or not one that scattergen wrote"
    else:
        others = [file.name for file in path.iterdir() if file.name != LOCK and not is_temporary(file)]
        what = f"{path} is not a run folder, since {INDEX} is missing, but holds {min(others)}" if others else None
    if what is not None:
        remedy = "name another folder, or copy the run folder again as a whole; nothing in it has been changed"
        raise RunFolderError(f"{what}: {remedy}.")


def remove(path: Path, names: Iterable[str]) -> None:
    """Delete files of a run, and the folders that are empty without them."""
    emptied = set()
    for name in names:
        with suppress(IsADirectoryError, NotADirectoryError):  # somebody put it there
            (path / name).unlink(missing_ok=True)
        emptied |= {*Path(name).parents}
    for folder in sorted(emptied - {Path()}, reverse=True):
        with suppress(OSError):  # not empty, or not there
            (path / folder).rmdir()


def remove_work(path: Path, key: str) -> None:
    """Delete the unfinished work of a stage."""
    shutil.rmtree(path / WORK / key, ignore_errors=True)
    with suppress(OSError):
        (path / WORK).rmdir()


def _below(path: Path, *tops: str) -> Iterator[Path]:
    """Sub-folders and all that is in them."""
    for top in tops:
        yield path / top
        # os.walk passes over what another process deletes meanwhile, and does not follow links.
        for folder, folders, files in os.walk(path / top):
            yield from (Path(folder, name) for name in (*folders, *files))
