"""Arguments that commands share, and reading them; without PyTorch, so that help and typos answer at once."""

import inspect
import json
import math
import re
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import typer
from typer import Argument, Option

from scattergen.display.words import say
from scattergen.errors import InputError


def path(text: str) -> Path:
    """A path that a user wrote; an empty one, from an unset variable, would mean this folder."""
    if not text:
        raise typer.BadParameter('it is empty: name a file or folder, or "." for this one.')
    return Path(text).expanduser()


Run = Annotated[Path, Argument(metavar="RUN", parser=path,
    help="Run folder made by `scattergen fit`, or hf:USER/NAME of the Hugging Face Hub.")]  # fmt: skip
Source = Annotated[str, Argument(metavar="IMAGES",
    help='"mnist", a .npy or .npz file, a folder of images, or hf:NAME of Hugging Face.')]  # fmt: skip
ImagesOut = Annotated[Path, Option("--out", metavar="PATH", parser=path,
    help="grid.png (or .jpg, .webp), animation.gif, folder/, images.npz or images.npy.")]  # fmt: skip
Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="Of everything random.")]
Set = Annotated[list[str] | None, Option("--set", metavar="NAME=VALUE", help="Change one option; repeatable.")]
PresetName = Literal["mnist", "celeba", "celeba-light", "celeba-2019", "auto"]
Preset = Annotated[PresetName | None, Option(help="Options to start from.", show_default="mnist for MNIST, else auto")]
Density = Annotated[str | None, Option(help="Which density draws samples.", show_default="the best by measurement")]
Features = Annotated[Literal["digits", "scattering", "perceptual", "inception"] | None,
    Option(help="Features of images.", show_default="digits for MNIST, else scattering")]  # fmt: skip
Part = Annotated[Literal["train", "test"] | None, Option(help="train: what the fit trained on; test: what it held out.",
    show_default="the data's own test set, else all images")]  # fmt: skip
Strict = Annotated[bool, Option("--strict/--no-strict", help="Refuse unreadable files, or leave them out.")]
Steps = Annotated[int | None, Option(min=2, max=10_000, help="Images, both ends included; 32 by default in a .gif.")]
BatchSize = Annotated[int, Option(min=1, help="Images decoded together; affects time only.")]


def config(context: typer.Context, file: Path | None) -> Any:
    """Changes of options by their names from a TOML file, whose other values stand for arguments that are not given."""
    if file is None or context.resilient_parsing:
        return {}
    from scattergen.stages.config import read_config

    known = {parameter.name for parameter in context.command.params} - {"config", "options", *Common._fields}
    context.default_map, changes = read_config(file, sorted(map(str, known)))
    return changes


Log = Annotated[Literal["tensorboard"] | None,
    Option(help="Where to tell of trainings, too, while they go on: RUN/tensorboard/.")]  # fmt: skip
Config = Annotated[Any, Option("--config", metavar="FILE", parser=path, callback=config, is_eager=True,
    help="A TOML file with any of these arguments and options, as of `scattergen info RUN --config`.")]  # fmt: skip


class Reading(NamedTuple):
    """Options that say how image files are read."""

    size: Annotated[int | None, Option(min=1, help="Resize image files and crop them to this square.")] = None
    crop: Annotated[int | None, Option(min=1, help="Cut this central square from image files before resizing.")] = None
    mode: Annotated[Literal["L", "RGB"] | None, Option(help="Convert image files to grey or colour.")] = None
    strict: Strict = True


class Ends(NamedTuple):
    """Options that say which two images of a data set are meant."""

    start: Annotated[
        str | None, Option("--from", metavar="IMAGE", help="First image: its number or file name.", show_default="0")
    ] = None
    stop: Annotated[
        str | None, Option("--to", metavar="IMAGE", help="Last image: its number or file name.", show_default="1")
    ] = None
    from_label: Annotated[str | None, Option(metavar="CLASS", help="Begin with the first image of a class.")] = None
    to_label: Annotated[str | None, Option(metavar="CLASS", help="End with the first image of a class.")] = None


class Common(NamedTuple):
    """Options of every command."""

    device: Annotated[str, Option(help='"cpu", "cuda", or one of several, as "cuda:1".')] = "cpu"
    threads: Annotated[int | None, Option(min=1, max=1024, help="Processor threads.")] = None
    quiet: Annotated[bool, Option("--quiet", "-q", help="No progress.")] = False
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False


READING, ENDS, COMMON = Reading(), Ends(), Common()


def unfolded(command: Callable[..., None]) -> Callable[..., None]:
    """A command as typer knows them: each parameter that is a group of options becomes these, one by one."""
    parameters: list[inspect.Parameter] = []
    runs: list[str] = []
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = parameter.annotation
        if kind not in (Reading, Ends, Common):
            parameters.append(parameter)
            continue
        groups[name] = kind
        for option, annotation in get_type_hints(kind, include_extras=True).items():
            default = kind._field_defaults[option]
            parameters.append(parameter.replace(name=option, default=default, annotation=annotation))

    @wraps(command)
    def unfolding(**given: Any) -> None:
        for name in runs:
            given[name] = [*map(_fetched, given[name])] if isinstance(given[name], list) else _fetched(given[name])
        made = {name: kind(**{one: given.pop(one) for one in kind._fields}) for name, kind in groups.items()}
        command(**given, **made)

    for parameter in parameters:  # numbers are N, not INTEGER RANGE
        kind, said = get_args(parameter.annotation)
        if str(said.metavar).startswith("RUN"):
            runs.append(parameter.name)
        for number, letter in ((int, "N"), (float, "X")):
            if number in (kind, *get_args(kind)):
                said.metavar = said.metavar or letter
    # Paragraphs break where the terminal ends; examples, after a backspace, keep their lines.
    unfolding.__doc__ = re.sub(r"(?m)^(?=Examples?:$)", "\b\n", inspect.getdoc(command) or "")
    unfolding.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    unfolding.__annotations__ = {one.name: one.annotation for one in parameters}
    return unfolding


def _fetched(run: Path | None) -> Path | None:
    if not str(run).startswith("hf:"):
        return run
    from scattergen.sharing.hub import fetch

    return fetch(str(run))


def parse_options(options: list[str] | None) -> dict[str, Any]:
    """Options from NAME=VALUE pairs; a value is JSON, or else a string."""
    parsed: dict[str, Any] = {}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise InputError(f'"{option}" sets nothing: write --set NAME=VALUE, as in --set beta=0.01.')
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def parse_names(text: str) -> list[str]:
    """Names separated by commas."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f'"{text}" lacks a name: separate densities by commas, as in gaussian,vae.')
    return names


def parse_time(text: str) -> float:
    """Seconds of a time such as 90s, 10m or 1.5h; a bare number is seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f'"{text}" is no time: write 90s, 10m or 1.5h.')
    return seconds


def parse_labels(options: list[str], classes: Collection[str]) -> list[str]:
    """Classes from options that each hold one or several, separated by commas, which names may hold, too."""
    labels = []
    for option in options:
        parts = option.split(",")
        while parts:
            starts = [",".join(parts[:k]) for k in range(len(parts), 0, -1)]
            labels.append(next((s for one in starts for s in (one, one.strip()) if s in classes), parts[0].strip()))
            del parts[: labels[-1].count(",") + 1]
    if not all(labels):
        raise InputError(f'--label "{",".join(options)}" lacks a class: separate classes by commas, as in --label 3,5.')
    return labels


def parse_changes(options: list[str]) -> dict[int, float]:
    """Components, from 1, and by how much each is changed, from NUMBER=CHANGE."""
    changes = {}
    for option in options:
        found = re.fullmatch(
            r"\s*(\d{1,9})\s*=\s*([+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)\s*", option, re.IGNORECASE | re.ASCII
        )
        if found is None:
            raise InputError(f'--component "{option}" changes nothing: write NUMBER=CHANGE, as in --component 3=+2.')
        changes[int(found[1])] = float(found[2])
    return changes


def tell(common: Common, facts: object, *lines: object) -> None:
    """Print what came of a command: facts as JSON, or lines for people."""
    if common.as_json:
        print(json.dumps(facts))
    else:
        say(*lines)


def tell_written(common: Common, path: Path, n: int, **facts: Any) -> None:
    """Print where results are and what was measured; as JSON also how they were made."""
    measured = [f"PSNR: {facts['psnr']:.2f} dB"] if "psnr" in facts else []
    if seen := facts.get("trained_on"):
        measured.append(f"The model was trained on {seen:,} of these; --part test has images that it has not seen.")
    written = f"{path}: {n:,} {'item' if n == 1 else 'items'}."
    tell(common, {"out": str(path), "n": n, **facts}, written, *measured)
