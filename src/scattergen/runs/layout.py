"""The layout of a run folder: which files in it are scattergen's, and which it must not touch.

Only files that scattergen made are ever deleted, whatever a folder holds.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from scattergen.errors import RunFolderError
from scattergen.files import is_temporary, read_json
from scattergen.runs.options import is_name, no_name

INDEX = "run.json"
METRICS, PREVIEW = "metrics.jsonl", "pictures/preview.png"
LOCK = ".scattergen-lock"
WORK = "work"
"""Folder of unfinished work, with a sub-folder named by the key of each stage."""

SUFFIX = ".safetensors"
DENSITIES, PAPER = "densities", "paper"
"""The only sub-folders that run.json may name files in."""

_KEY = "[0-9a-f]{16}"
_PICTURE = r"""
    pictures/(
        preview | evaluation | density-NAME | diagnosis-NAME | densities | samples-NAME |
        reconstructions | eigenvalues | explained-variance | rejections-\w+ | training-loss |
        validation-psnr | visualisation-matrix-\w+
    )(-\d+)?\.png
"""
# What people look at; NAME is what `is_name` allows.
_PRODUCT = re.compile(
    rf"""
    metrics\.jsonl | report\.html | evaluation\.json | diagnosis(-NAME)?\.json |
    reproduction(-quick)?\.html | {_PICTURE}
    """.replace("NAME", r"\w[\w.-]*"),
    re.VERBOSE,
)
# What only versions before 0.2 wrote, and a benchmark.
_OLD = re.compile(
    rf"""
    benchmark\.jsonl | reproduction/\w+/NAME\.safetensors |
    reproduction/\w+/unfinished/(NAME/)+NAME\.(safetensors|json) |
    checkpoints/(NAME/){{1,2}}({_KEY}[\w.-]*(/NAME)? | mirrored\.safetensors)
    """.replace("NAME", r"\w[\w.-]*"),
    re.VERBOSE,
)
_FOLDERS = ("checkpoints", DENSITIES, PAPER, "pictures", "reproduction")
_MARKS = {"format", "scattergen", "digest"}  # keys by which our run.json is told from others


def file_of(name: str, key: str) -> str:
    """The file of a stage's results.

    Args:
        name: Of the stage, such as "densities/vae".
        key: Hash of all that it depends on; empty in runs of versions before 0.2.

    Returns:
        A name relative to the run folder.

    Example:
        >>> file_of("encoder", "0123456789abcdef")
        'encoder-0123456789abcdef.safetensors'
    """
    return f"{name}-{key}{SUFFIX}" if key else f"{name}{SUFFIX}"


def is_key(key: str) -> bool:
    """Whether a text is the key of a stage.

    Args:
        key: The text.

    Returns:
        True for 16 hexadecimal digits.

    Example:
        >>> is_key("0123456789abcdef"), is_key("../0123456789ab")
        (True, False)
    """
    return re.fullmatch(_KEY, key) is not None


def is_stage(name: str) -> bool:
    """Whether run.json may name a stage so.

    Args:
        name: "NAME", "densities/NAME" or "paper/NAME".

    Returns:
        False for every other name.

    Example:
        >>> is_stage("densities/vae"), is_stage("pictures/vae"), is_stage("../vae")
        (True, False, False)
    """
    known = is_name(name) and name.rpartition("/")[0] in ("", DENSITIES, PAPER)
    return known and _may_exist(file_of(name, "0" * 16))


def check_stage(name: str, key: str) -> None:
    """Refuse names and keys that no stage has.

    Args:
        name: Of the stage.
        key: Of the stage.

    Raises:
        InputError: If run.json may not name it so.
    """
    if not (is_stage(name) and is_key(key)):
        raise no_name(name)


def is_product(name: str) -> bool:
    """Whether a file is one that scattergen writes for people to look at.

    Args:
        name: Relative to the run folder.

    Returns:
        True for pages, pictures and scores.

    Example:
        >>> is_product("pictures/samples-vae.png"), is_product("pictures/holiday.png")
        (True, False)
    """
    return _PRODUCT.fullmatch(name) is not None and _may_exist(name)


def _may_exist(name: str) -> bool:
    """Whether no part of a name is longer than file systems allow."""
    return all(len(part.encode()) <= 255 for part in name.split("/"))


def products_in(folder: Path) -> dict[str, Path]:
    """Products that have been made in another folder first.

    Args:
        folder: In the layout of a run folder.

    Returns:
        Name relative to the folder, to the file.
    """
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*")}
    return {name: file for name, file in files.items() if is_product(name)}


def refuse_links(path: Path) -> None:
    """Refuse a run with links to other folders in it, whose files it would change.

    Args:
        path: The folder of a run; it may itself be a link.

    Raises:
        RunFolderError: If there is one.
    """
    for one in _below(path, WORK, *_FOLDERS):
        if one.is_symlink() and one.is_dir():
            raise RunFolderError(
                f"{one} is a link to another folder, whose files are not the run's: put the folder "
                "itself there, or delete the link."
            )


def refuse_foreign(path: Path) -> None:
    """Refuse a place that holds anything but a run.

    Args:
        path: Where a run shall be made; it need not exist.

    Raises:
        RunFolderError: If it is a file, or a folder with other things in it.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file: name a folder for the run.")
    if not path.is_dir():
        return
    if os.path.lexists(path / INDEX):
        try:
            ours = read_json(path / INDEX).keys() >= _MARKS
        except OSError:
            return  # whoever reads it says why it cannot be read
        except (ValueError, AttributeError):
            ours = False
        if not ours:
            raise RunFolderError(
                f"{path / INDEX} is damaged or not one that scattergen wrote: name another folder, "
                "or copy the run folder again as a whole; nothing in it has been changed."
            )
        return
    others = [file.name for file in path.iterdir() if file.name != LOCK and not is_temporary(file)]
    if others:
        raise RunFolderError(
            f"{path} is not a run folder, since {INDEX} is missing, but holds {min(others)}: name "
            "another folder, or copy the run folder again as a whole; nothing in it has been "
            "changed."
        )


def own_files(path: Path) -> Iterator[str]:
    """Files in a run folder that scattergen made, besides run.json and unfinished work.

    Args:
        path: The folder.

    Yields:
        Names relative to it: products, and files of stages, whether run.json names them or not,
        and what killed writers left in its folders.
    """
    for file in [*path.iterdir(), *_below(path, *_FOLDERS)]:
        name = file.relative_to(path).as_posix()
        left = "/" in name and is_temporary(file)
        known = is_product(name) or is_stage_file(name) or _OLD.fullmatch(name)
        if (known or left) and not file.is_dir():
            yield name


def is_stage_file(name: str) -> bool:
    """Whether a file has a name as `file_of` gives it.

    Args:
        name: Relative to the run folder.

    Returns:
        True if so.

    Example:
        >>> is_stage_file("codes-0123456789abcdef.safetensors"), is_stage_file("mine.safetensors")
        (True, False)
    """
    stem, _, key = name.removesuffix(SUFFIX).rpartition("-")
    return name.endswith(SUFFIX) and is_stage(stem) and is_key(key)


def remove(path: Path, names: Iterable[str]) -> None:
    """Delete files of a run, and the folders that are empty without them.

    Args:
        path: The folder of the run.
        names: Relative to it.
    """
    emptied = set()
    for name in names:
        with suppress(IsADirectoryError, NotADirectoryError):  # put there by somebody
            (path / name).unlink(missing_ok=True)
        emptied |= {*Path(name).parents}
    for folder in sorted(emptied - {Path()}, reverse=True):
        with suppress(OSError):  # it is not empty, or not there
            (path / folder).rmdir()


def remove_work(path: Path, key: str) -> None:
    """Delete the unfinished work of a stage.

    Args:
        path: The folder of the run.
        key: Of the stage.
    """
    shutil.rmtree(path / WORK / key, ignore_errors=True)
    with suppress(OSError):
        (path / WORK).rmdir()


def _below(path: Path, *tops: str) -> Iterator[Path]:
    """Sub-folders and all that is in them."""
    for top in tops:
        yield path / top
        # Which passes over what another process deletes meanwhile, and does not enter links.
        for folder, folders, files in os.walk(path / top):
            yield from (Path(folder, name) for name in (*folders, *files))
