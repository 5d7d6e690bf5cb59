"""Comparing the options of runs, and checking the names under which things are stored in them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scattergen.errors import InputError, RunFolderError


def is_name(name: str) -> bool:
    """Whether tensors can be stored under a name.

    Args:
        name: "NAME" or "FOLDER/NAME".

    Returns:
        False if a part is empty, starts with a dot or a hyphen, or holds other characters than
        letters, digits, ".", "_" and "-".

    Example:
        >>> is_name("densities/vae-0.01"), is_name("../vae")
        (True, False)
    """
    return re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name) is not None


def check_name(name: str) -> None:
    """Refuse names of stored tensors that are not those of a file in the run folder.

    Args:
        name: "NAME" or "FOLDER/NAME".

    Raises:
        InputError: If `is_name` is false.

    Example:
        >>> check_name("densities/vae-0.01")
    """
    if not is_name(name):
        raise no_name(name)


def no_name(name: str) -> InputError:
    """What to say of a name that no file can have."""
    return InputError(
        f'"{name.partition("/")[2] if "/" in name else name}" cannot be the name of a file: '
        'use letters, digits, ".", "_" and "-".'
    )


def differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """Names of the options that two sets of options do not share.

    Args:
        have: Some options, nested or not.
        want: Others.

    Returns:
        Names with "." between the levels, sorted.

    Example:
        >>> differences({"seed": 0, "vae": {"beta": 1}}, {"seed": 0, "vae": {"beta": 2}})
        ['vae.beta']
    """
    old, new = _flatten(have), _flatten(want)
    return sorted(name for name in old.keys() | new.keys() if old.get(name, ...) != new.get(name, ...))


def refuse_differences(path: Path, have: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    """Refuse to continue something that was started with other options.

    Args:
        path: What was started, for the message.
        have: Its options.
        want: The options asked for now.

    Raises:
        RunFolderError: If they differ; it names each difference.

    Example:
        >>> refuse_differences(Path("runs/a"), {"seed": 0}, {"seed": 1})
        Traceback (most recent call last):
        ...
        scattergen.errors.RunFolderError: runs/a was fitted with other options (seed=0 there, 1
        now): ...
    """
    old, new = _flatten(have), _flatten(want)
    names = differences(have, want)
    if names:
        found = "; ".join(f"{name}={_show(old, name)} there, {_show(new, name)} now" for name in names)
        raise RunFolderError(
            f"{path} was fitted with other options ({found}): use the same ones, another name, or "
            "--overwrite to replace it."
        )


def _flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _show(options: Mapping[str, Any], name: str) -> str:
    text = json.dumps(options[name]) if name in options else "unset"
    return text if len(text) <= 40 else text[:37] + "..."
