"""The options of a fit in a TOML file, which people write, or `scattergen info RUN --config`."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scattergen.errors import InputError
from scattergen.stages.presets import CELEBA_PRESETS

_SECTIONS = ("encoder", "decoder", "training", "sampling", "densities")
_NOTHING = "null"  # what stands for None, which TOML lacks


def read_config(path: Path, known: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a fit by their names, which are among the known ones, and changes such as {"densities.vae.beta": 1}.

    The densities that have a section are an argument, too, unless the file has it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a TOML file.") from error
    except (ValueError, RecursionError) as error:  # of TOML or UTF-8
        raise InputError(f"{path} is no TOML file ({' '.join(str(error).split())}): see docs/commands.md.") from error
    sections = {name: content.pop(name) for name in _SECTIONS if isinstance(content.get(name), dict)}
    arguments = {name.replace("-", "_"): value for name, value in content.items()}
    for name in arguments.keys() - {*known}:
        what = f'{path} has "{name}", which is no argument of fit'
        raise InputError(f"{what}: its sections are {', '.join(_SECTIONS)}, and its arguments {', '.join(known)}.")
    arguments = ({"densities": [*sections["densities"]]} if sections.get("densities") else {}) | arguments
    if isinstance(arguments.get("densities"), list):
        arguments["densities"] = ",".join(map(str, arguments["densities"]))
    parts = {f"densities.{key}": options for key, options in sections.pop("densities", {}).items()} | sections
    changes: dict[str, Any] = {}
    for part, options in parts.items():
        if not isinstance(options, dict):
            raise InputError(f"{path} has {part} = {options!r}: make it a section, [{part}], of options.")
        changes |= {f"{part}.{name}": None if value == _NOTHING else value for name, value in options.items()}
    return arguments, changes


def config_of(options: Mapping[str, Any], n_channels: int | None = None) -> dict[str, Any]:
    """Arguments and sections of a file with which `fit` does as a run with these options and so many channels."""
    data, of_celeba = options.get("data", {}), options.get("preset") in CELEBA_PRESETS  # which crop by themselves
    top = {name: options[name] for name in ("preset", "seed") if name in options}
    top |= {name: data[name] for name in ("limit", "crop") if name in data and not (name == "crop" and of_celeba)}
    if data.get("size") is not None:
        top["size"] = data["size"]
    if "mode" in data.get("converted", []) and n_channels is not None and not of_celeba:
        top["mode"] = "L" if n_channels == 1 else "RGB"
    return top | {section: options[section] for section in _SECTIONS if section in options}


def to_toml(config: Mapping[str, Any]) -> str:
    """The text of such a file."""
    parts = {name: value for name, value in config.items() if name in _SECTIONS}
    lines = [f"{name} = {_to_toml(value)}" for name, value in config.items() if name not in parts]
    parts |= {f"densities.{_key(key)}": keywords for key, keywords in parts.pop("densities", {}).items()}
    for part, values in parts.items():
        lines += ["", f"[{part}]", *(f"{_key(name)} = {_to_toml(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else _to_toml(name)


def _to_toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_to_toml(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_to_toml, value)) + "]"
    text = json.dumps(_NOTHING if value is None else value, ensure_ascii=False)  # in numbers and texts as TOML
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in text)  # a terminal will show it
