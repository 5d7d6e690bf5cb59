"""Models on the Hugging Face Hub: fetched, and published with a card."""

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scattergen.datasets.huggingface import PREFIX
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, ScattergenError, one_line
from scattergen.runs import RunFolder
from scattergen.runs.index import read_index
from scattergen.runs.layout import INDEX, SUFFIX, is_stage_file
from scattergen.sharing.card import CARD, is_celeba
from scattergen.sharing.folder import export_folder


def parse_name(text: str) -> tuple[str, str | None]:
    """Repository and revision (a branch, tag or commit, or None) of "hf:USER/NAME@REVISION", "hf:" or not."""
    found = re.fullmatch(rf"(?:{PREFIX})?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text)
    if found is None:
        remedy = "write USER/NAME, as on huggingface.co, and perhaps @REVISION"
        raise InputError(f'"{text}" names no model on the Hugging Face Hub: {remedy}.')
    return found[1], found[2]


def fetch(text: str) -> Path:
    """The run folder of a model on the Hub, downloaded unless it is here: run.json, and the files that it names.

    It lies in Hugging Face's cache (`HF_HOME`). Where there is no network, or `HF_HUB_OFFLINE` is set, it is the one
    that was fetched before. Only safetensors and JSON are fetched, and nothing is executed.
    """
    repository, revision = parse_name(text)
    with _client(f"{text} cannot be fetched", "check name and network, or log in by `hf auth login`") as hub:
        # A folder of real files, since those of a run are no links.
        name = f"{repository}/{revision or 'main'}".replace("/", "--")
        folder = Path(hub.constants.HF_HOME, "scattergen", name)
        hub.hf_hub_download(repository, INDEX, revision=revision, local_dir=folder)
        named = sorted(file for file in read_index(folder).current.named() if file.endswith((SUFFIX, ".json")))
        hub.snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=[INDEX, *named])
        return folder


def push(
    run: RunFolder, name: str, *, private: bool = False, dry_run: bool = False, licence: str | None = None,
    progress: Progress = SILENT,
) -> tuple[str, str, dict[str, int]]:  # fmt: skip
    """Publish a finished run without its training codes as "USER/NAME": its address, its card, and sizes of its files.

    A `dry_run` sends nothing. An `InputError` for models of CelebA, and if a repository of that name holds something
    else, or is public where a private one is asked for; a `ScattergenError` if the Hub does not take it.
    """
    repository, revision = parse_name(name)
    if revision is not None:
        raise InputError(f'"{name}" names a revision, but a model is pushed as the newest one: leave out @{revision}.')
    if is_celeba(run):
        terms = "whose terms are research without commerce, and that no part of it be published"
        remedy = "`scattergen export RUN --to folder` makes a small copy for yourself"
        raise InputError(f"{run.path} was fitted to CelebA, {terms}: its models stay here; {remedy}.")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "model")
        card = export_folder(run, folder, name=repository, licence=licence, progress=progress)
        sizes = {one.relative_to(folder).as_posix(): one.stat().st_size for one in folder.rglob("*") if one.is_file()}
        address = f"https://huggingface.co/{repository}" if dry_run else _upload(folder, repository, private)
    return address, card, sizes


def _upload(folder: Path, repository: str, private: bool) -> str:
    remedy = "log in by `hf auth login` with a token that may write, and check name and network"
    with _client(f"{repository} cannot be pushed", remedy) as hub:
        # Whether it is public does not change if it is there already.
        address = str(hub.create_repo(repository, private=private or None, exist_ok=True))
        if private and not hub.model_info(repository).private:
            remedy = "make it private in its settings, or leave out --private"
            raise InputError(f"{address} is there already and public: {remedy}.")
        there = hub.list_repo_files(repository)
        if INDEX not in there and {*there} - {".gitattributes", CARD}:
            raise InputError(f"{address} holds something else ({min(there)}): choose another name.")
        old = [file for file in there if is_stage_file(file)]  # deleted, unless they are of this model, too
        message = "Model of scattergen"
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, delete_patterns=old)
    return address


@contextmanager
def _client(failure: str, remedy: str) -> Iterator[Any]:
    """The Hub's client, whose failures become a sentence."""
    try:
        import huggingface_hub as hub
        import huggingface_hub.constants
        import huggingface_hub.file_download  # which sets the level of its messages as it is imported
    except ImportError as error:
        how = "install the package huggingface_hub by pip install 'scattergen[hub]'"
        raise InputError(f"{failure}: {how}.") from error
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL)  # each of its tries would be told before the sentence
    try:
        yield hub
    except ScattergenError:
        raise
    except Exception as error:  # its own, of its network library, OSError, ValueError, …
        reason = f"{type(error).__name__}: {one_line(error).rstrip('.')}"
        raise ScattergenError(f"{failure} ({reason}): {remedy}.") from error
    finally:
        log.setLevel(level)
