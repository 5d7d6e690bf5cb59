"""Comparing the options of runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scattergen.errors import RunFolderError


def differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """Names of the options in which two nested sets differ, sorted, with "." between the levels: ["vae.beta"]."""
    old, new = _flatten(have), _flatten(want)
    return sorted(name for name in old.keys() | new.keys() if old.get(name, ...) != new.get(name, ...))


def refuse_differences(path: Path, have: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    """Refuse to continue something at a path that was started with other options."""
    names = differences(have, want)
    if names:
        old, new = _flatten(have), _flatten(want)
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
