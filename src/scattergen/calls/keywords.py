"""Checking keywords that a user wrote, by the signature of what they are for."""

import difflib
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from scattergen.errors import InputError


def check_keywords(
    owner: str, make: Callable[..., Any], keywords: Mapping[str, Any], own: Collection[str] = ()
) -> None:
    """Refuse keywords that `make` lacks or has for itself (`own`), and values of another type than is annotated."""
    parameters = inspect.signature(make).parameters
    known = {name: parameters[name] for name in parameters if name not in own}
    hints = typing.get_type_hints(inspect.getattr_static(make, "__init__") if isinstance(make, type) else make)
    for name, value in keywords.items():
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise InputError(f'{owner[:1].upper()}{owner[1:]} has no option "{name}": {has}.')
        value = json_value(value)
        if name in hints and not (_is_a(value, hints[name]) and _is_bounded(value)):
            remedy = f"give {_in_words(hints[name])}, such as {known[name].default!r}"
            raise InputError(f"{name}={value!r} does not suit {owner}: {remedy}.")


def check_values(model: Any, **least: float) -> None:
    """Refuse keywords that a model keeps as attributes: values of other types than annotated, numbers less than given.

    They become what JSON holds. Of a user's own subclass only texts, None and choices are looked at.
    """
    hints: dict[str, tuple[Any, bool]] = {}
    for owner in reversed(type(model).__mro__):  # a subclass may have a constructor of its own
        if "__init__" in vars(owner):
            ours = owner.__module__.startswith(f"{__package__.partition('.')[0]}.")
            hints |= {name: (hint, ours) for name, hint in typing.get_type_hints(vars(owner)["__init__"]).items()}
    for name, (hint, ours) in hints.items():
        if not hasattr(model, name):
            continue
        value = getattr(model, name)
        if ours:
            value = json_value(value)
            setattr(model, name, value)
        looked_at = ours or value is None or isinstance(value, str) or typing.get_origin(hint) is typing.Literal
        if looked_at and not _is_a(value, hint):
            raise InputError(f"{name}={value!r}: give {_in_words(hint)}.")
        if name in least and not isinstance(value, str | None) and not value >= least[name]:
            raise InputError(f"{name}={value}: give a number of at least {least[name]}.")


def json_value(value: Any) -> Any:
    """A value as JSON gives it back: numbers and arrays of NumPy as Python's, tuples and ranges as lists."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):  # not imported here: commands begin sooner
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: json_value(one) for name, one in value.items()}
    if isinstance(value, list | tuple | range):
        return [json_value(one) for one in value]
    return value


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that somebody who misspelt it may have meant."""
    return next(iter(difflib.get_close_matches(name, [*known], 1)), None)


def whole_number(name: str, value: Any, *, least: int = 0, most: int = 2**62) -> int:
    """The value, if it is a whole number in range, NumPy's integers included."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most or isinstance(value, bool):
        bounds = f"of at least {least}" if number < least else f"of at most {most}"
        raise InputError(f"{name}={value!r}: give a whole number {bounds}.")
    return number


def check_seed(seed: Any) -> int:
    """The seed, if it is a whole number from 0 to 2³² − 1, the range that every generator has."""
    return whole_number("seed", seed, most=2**32 - 1)


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value, perhaps from JSON, has the annotated type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin in (Sequence, list, tuple):
        fixed = origin is tuple and Ellipsis not in arguments
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(arguments)):
            return False
        return all(_is_a(one, arguments[0] if arguments else Any) for one in value)
    if hint is Any:
        return True
    if isinstance(value, bool):  # which Python counts among the integers
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    kind = origin or hint
    return not isinstance(kind, type) or getattr(kind, "_is_protocol", False) or isinstance(value, kind)


def _is_bounded(value: Any) -> bool:
    """Whether numbers are finite, and below 2³¹ if whole: beyond that there are no sizes, only typing errors."""
    if isinstance(value, list | tuple):
        return all(map(_is_bounded, value))
    return not isinstance(value, int | float) or abs(value) < (2**31 if isinstance(value, int) else math.inf)


def _in_words(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(one) for one in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}, each {_in_words(arguments[0])}"
    if origin in (Sequence, list, tuple):
        return "a list, each element " + _in_words(arguments[0])
    if origin is Mapping:
        return "an object of names and values"
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    return words.get(hint, str(hint))
