"""Damage to one file of a run: drawn as a plan, with values of Hypothesis, and done to a copy of the run."""

import hashlib
import json
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from scattergen.files import sha256
from scattergen.files.tensors import read_tensors, write_tensors
from scattergen.runs.layout import file_of

NAMES = (
    "", ".", "..", "../thesis", "../../thesis.txt", "/etc/passwd", "a/b", "densities/../../victim", "x" * 300,
    "\x1b[2Jgone", "two\nlines", "nul\0byte", "\u202eright to left", "con", "-rf", "__class__", "é" * 200, "%s{0}$HOME",
)  # fmt: skip
_PLAIN = (
    st.none() | st.booleans() | st.integers() | st.integers(2**62, 2**70) | st.floats() | st.text(max_size=12)
    | st.sampled_from(NAMES)
)  # fmt: skip
VALUES = st.recursive(
    _PLAIN,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.sampled_from(NAMES), one, max_size=3),
    max_leaves=6,
)
BYTES = ("bit flips", "cut short", "zeros", "longer", "empty", "noise", "doubled")
PLACES = (
    "missing", "link to a file", "link to nothing", "link to a device", "pipe", "folder", "folder of the user's",
    "no permission", "another file",
)  # fmt: skip
JSON = ("another value", "one less", "another name", "nested", "deep")
HEADERS = ("header length", "header", "offsets", "dtype", "shape", "tensor name")
TENSORS = ("not a number", "tensor missing", "tensor more", "other type", "other shape", "huge values", "metadata")

GROUPS = {"bytes": BYTES, "places": PLACES, "JSON": JSON, "headers": HEADERS, "tensors": TENSORS}


def kinds_for(name: str) -> tuple[str, ...]:
    """The kinds of damage that make sense for a file of this name."""
    if name.endswith(".json") or name.endswith(".jsonl"):
        return BYTES + PLACES + JSON
    return BYTES + PLACES + (HEADERS + TENSORS if name.endswith(".safetensors") else ())


def draw_values(n: int) -> list[Any]:
    """So many values for JSON, always the same."""
    found: list[Any] = []

    @seeded(0)
    @settings(
        max_examples=n, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(VALUES)
    def draw(value: Any) -> None:
        found.append(value)

    draw()
    return found


def plans(
    state: str, name: str, n: int, values: list[Any], readers: tuple[str, ...], writers: tuple[str, ...]
) -> list[dict[str, Any]]:
    """So many plans of damage to a file, always the same: what to do, where, and which commands follow."""
    kinds = random.Random(f"{state} {name}").sample(kinds_for(name), len(kinds_for(name)))
    found = []
    for number in range(n):
        chance = random.Random(f"{state} {name} {number}")
        drawn = {
            "at": chance.randrange(2**32), "value": chance.choice(values), "sealed": chance.random() < 0.5,
            "read": chance.choice(readers), "write": chance.choice(writers),
        }  # fmt: skip
        found.append({"state": state, "file": name, "kind": kinds[number % len(kinds)], **drawn})
    return found


def do(plan: dict[str, Any], run: Path, victim: Path) -> bool:
    """Damage a run as planned; whether hashes were made to fit, as somebody who tampers would."""
    path, kind, chance = run / plan["file"], plan["kind"], random.Random(plan["at"])
    if kind in PLACES:
        _replace(kind, path, run, victim, chance)
        return False
    if kind in BYTES:
        path.write_bytes(_other_bytes(kind, path.read_bytes(), chance))
    elif kind in JSON:
        return _change_json(kind, path, plan, chance)
    elif kind in HEADERS:
        path.write_bytes(_other_header(kind, path.read_bytes(), plan["value"], chance))
    else:
        _rewrite(kind, path, plan["value"], chance)
        if plan["file"].startswith("work/"):  # which nothing knows but the checksum in it, and that fits
            return True
    if plan["sealed"] and path.name != "run.json":
        return _rehash(run, plan["file"])
    return False


def _replace(kind: str, path: Path, run: Path, victim: Path, chance: random.Random) -> None:
    if kind == "no permission":
        path.chmod(0)
        return
    if kind == "another file":
        others = sorted(one for one in run.rglob("*") if one.is_file() and one != path)
        shutil.copy(chance.choice(others), path)
        return
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind.startswith("folder"):
        path.mkdir()
        if kind != "folder":
            (path / "thesis.txt").write_text("years of work")
    elif kind != "missing":
        targets = {"link to a file": victim / path.name, "link to a device": Path("/dev/zero")}
        path.symlink_to(targets.get(kind, victim / "nothing"))


def _other_bytes(kind: str, content: bytes, chance: random.Random) -> bytes:
    found = bytearray(content)
    if kind == "bit flips" and found:
        for _ in range(chance.choice((1, 1, 2, 8, 100))):
            found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    start = chance.randrange(len(found) + 1)
    stop = chance.randrange(start, len(found) + 1)
    if kind == "zeros":
        found[start:stop] = bytes(stop - start)
    made = {
        "cut short": found[:start], "longer": found + chance.randbytes(chance.choice((1, 8, 5000))), "empty": b"",
        "noise": chance.randbytes(len(found)), "doubled": found * 2,
    }  # fmt: skip
    return bytes(made.get(kind, found))


def _nodes(content: Any) -> list[tuple[Any, Any]]:
    """Every place in JSON: the list or object, and the index or name in it."""
    found: list[tuple[Any, Any]] = []
    parts = [content]
    while parts:
        part = parts.pop()
        if isinstance(part, dict | list):
            keys = [*part] if isinstance(part, dict) else [*range(len(part))]
            found += [(part, key) for key in keys]
            parts += [part[key] for key in keys]
    return found


def change(kind: str, content: Any, value: Any, chance: random.Random) -> Any:
    """JSON with a change somewhere in it."""
    nodes = _nodes(content)
    if not nodes:
        return value
    part, key = chance.choice(nodes)
    old = part[key]
    if kind == "another value":
        part[key] = value
    elif kind == "one less":
        del part[key]
    elif kind == "another name" and isinstance(part, dict):
        part[chance.choice(NAMES)] = part.pop(key)
    else:
        part[key] = [old] if kind != "nested" else {"x": old, **{chance.choice(NAMES): value}}
    return content


def _change_json(kind: str, path: Path, plan: dict[str, Any], chance: random.Random) -> bool:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = chance.randrange(len(lines) or 1)
    content = json.loads(lines[number]) if lines else {}
    if kind == "deep":  # deeper than Python's own stack
        depth = chance.choice((60, 2_000, 200_000))
        lines[number : number + 1] = ["[" * depth + "]" * depth]
        path.write_text("\n".join(lines))
        return False
    sealed = plan["sealed"] and path.name == "run.json"
    if sealed:
        content.pop("digest")
    content = change(kind, content, plan["value"], chance)
    lines[number : number + 1] = [json.dumps(_seal(content) if sealed else content)]
    path.write_text("\n".join(lines))
    return sealed


def _seal(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    kept = {name: value for name, value in content.items() if name not in ("format", "digest")}
    return {**content, "digest": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()}


def _rehash(run: Path, name: str) -> bool:
    """Let run.json name the hash that a file has now; False if it does not name the file."""
    content = json.loads((run / "run.json").read_text())
    for stage, entry in content["stages"].items():
        if name == file_of(stage, entry["key"]) and entry["sha256"] is not None:
            entry["sha256"] = sha256(run / name)
            (run / "run.json").write_text(json.dumps(_seal(content)))
            return True
    return False


def _other_header(kind: str, content: bytes, value: Any, chance: random.Random) -> bytes:
    """A safetensors file with something else in its header, which is JSON after its length."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if kind == "header length":
        size = chance.choice((0, 1, length - 1, length + 1, 10**8, 2**31, 2**63, 2**64 - 1))
        return struct.pack("<Q", size) + content[8:]
    tensors = [name for name in header if name != "__metadata__"] or ["more"]  # of some stages there are none
    entry = header.setdefault(chance.choice(tensors), {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})
    if kind == "offsets":
        low, high = entry["data_offsets"]
        others = ([high, low], [low, high + 4], [-4, high], [low, 2**63], [0, 0], [low + 1, high + 1], value)
        entry["data_offsets"] = chance.choice(others)
    elif kind == "dtype":
        entry["dtype"] = chance.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "C64", "F8_E4M3", "OBJECT", value))
    elif kind == "shape":
        entry["shape"] = chance.choice(([], [0], [2**62, 4], [-1], [1] * 70, [*entry["shape"], 1], value))
    elif kind == "tensor name":
        header[chance.choice(NAMES)] = header.pop(chance.choice([*header]))
    else:
        header = change(chance.choice(JSON[:4]), header, value, chance)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _rewrite(kind: str, path: Path, value: Any, chance: random.Random) -> None:
    """A file as scattergen writes it, checksum and all, but with another content."""
    tensors, kept = read_tensors(path)
    name = chance.choice(sorted(tensors) or ["more"])  # of some stages there are none
    old = tensors.get(name, torch.ones(2))
    if kind == "metadata":
        kept = change(chance.choice(JSON[:4]), kept, value, chance)
    elif kind == "tensor missing":
        tensors.pop(name, None)
    elif kind == "tensor more":
        tensors[chance.choice(NAMES[3:])] = torch.zeros(2, 2)
    elif kind == "other type":
        types = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)
        tensors[name] = old.to(chance.choice(types))
    elif kind == "other shape":
        shapes = (old[..., None], old.reshape(-1), old.reshape(-1)[:1], old.reshape(-1)[:0], torch.stack([old, old]))
        tensors[name] = chance.choice(shapes)
    else:
        wrong = (float("nan"), float("inf")) if kind == "not a number" else (3e38, -3e38, 1e-40, 0.0)
        tensors[name] = torch.full_like(old.float(), chance.choice(wrong)).to(
            old.dtype if kind != "not a number" else torch.float32
        )
    write_tensors(path, tensors, kept)
