"""A run as a folder to pass on: the model, its scores, a card and new images; no training codes, nor real images."""

import os
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from scattergen.datasets.image_files import check_place, save_image_grid
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, RunFolderError
from scattergen.files import atomic_path, check_space, is_temporary, open_regular
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.judging import REFERENCE
from scattergen.runs import RunFolder
from scattergen.runs.index import Index, Record, read_index
from scattergen.runs.layout import FEATURES, PAPER
from scattergen.sharing.card import CARD, NOBODY, SAMPLES, card_of
from scattergen.stages.density import density_to_sample

_OF_IMAGES = ("codes", REFERENCE)  # stages that keep the images that a model was fitted to, or tested on


def export_folder(
    run: RunFolder, out: Path, *, name: str | None = None, licence: str | None = None, progress: Progress = SILENT
) -> str:
    """Write a finished run without its training codes as a new folder that can be loaded; return the text of its card.

    Left out are also the report and the pictures, which show real images, and what `reproduce` has added. On the Hub
    the model has a `name`, "USER/NAME", and a `licence`, such as "cc-by-4.0". A card in the run is kept, unless a
    licence is given.
    """
    if not run.finished:
        raise RunFolderError(f"{run.path} is unfinished: run the same `scattergen fit` command again first.")
    check_place(out)
    record, files = _what_is_passed_on(run)
    _refuse_foreign(out, files)
    run.check()
    density = density_to_sample(run, None, by_class=False) if run.names("densities") else None
    model = GenerativeScatteringNetwork.load(run, densities=() if density is None else (density,))
    own = run.path / CARD
    if own.is_file() and licence is None:  # of a folder that was exported, and perhaps edited
        try:
            with open_regular(own) as written:
                card = written.read().decode().replace(NOBODY, name or NOBODY)
        except UnicodeDecodeError as error:
            raise InputError(f"{own} is no text in UTF-8: save it again as such.") from error
    else:
        card = card_of(run, model, density, name=name, licence=licence)
    check_space(out, sum((run.path / file).stat().st_size for file in files))
    for file in files:
        with atomic_path(out / file) as temporary:
            shutil.copyfile(run.path / file, temporary)
    if density is not None:
        save_image_grid(model.sample(64, density, progress=progress), out / SAMPLES, columns=8)
    with atomic_path(out / CARD) as temporary:
        temporary.write_text(card, encoding="utf-8")
    Index(record).write(out)
    return card


def _what_is_passed_on(run: RunFolder) -> tuple[Record, list[str]]:
    """The record of a run without what keeps images, and the files that it still names."""
    record = read_index(run.path).current
    for stage, entry in [*record.stages.items()]:
        if stage in _OF_IMAGES or stage.startswith((FEATURES, f"{PAPER}/")):
            del record.stages[stage]
            continue
        after = {one: key for one, key in entry.after.items() if one not in _OF_IMAGES}
        scores = [one for one in entry.products if one.endswith(".json")]
        record.stages[stage] = replace(entry, after=after, products=scores)
    record.drop_outdated()  # what was made from others that are left out
    return record, [file for file in sorted(record.named()) if (run.path / file).is_file()]


def _refuse_foreign(out: Path, files: Collection[str]) -> None:
    """Refuse a place where anything is but what was left of this work when it was killed."""
    if not os.path.lexists(out):
        return
    ours = {*files, SAMPLES, CARD}
    folders = {parent.as_posix() for file in ours for parent in Path(file).parents}
    places, begun, foreign = [out], False, not out.is_dir()
    while places and not foreign:
        for one in places.pop().iterdir():
            name = one.relative_to(out).as_posix()
            if name in folders and one.is_dir() and not one.is_symlink():
                places.append(one)
            else:
                begun |= name in files or is_temporary(one)
                foreign |= not (name in ours or is_temporary(one))
    if foreign or (not begun and any(out.iterdir())):
        raise InputError(f"{out} is there already: name a new folder.")
