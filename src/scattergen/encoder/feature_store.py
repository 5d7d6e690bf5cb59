"""Features of all images in numbered chunks: kept in memory or on disk, or computed anew."""

import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scattergen.errors import ScattergenError
from scattergen.files import FULL, free_bytes, gigabytes
from scattergen.files.tensors import read_tensors_if_whole, write_tensors
from scattergen.processes import ALONE, Processes

Keep = Literal["auto", "memory", "disk", "recompute"]
Precision = Literal["float16", "float32"]

_DTYPES = {"float16": torch.float16, "float32": torch.float32}
# Left free on the disk for the state of the principal components, the codes and the decoder's checkpoints.
_SPARE_BYTES = 1 << 30


class FeatureStore:
    """Features of N samples in chunks of a fixed size, computed once where there is room for them.

    `compute` gives those of a range of samples, (n, D) float32; process r computes and keeps chunks i with
    i mod world_size = r. "auto" keeps them in memory up to `cache_bytes`, else in the folder, if it has space, else
    nowhere. A file has the `identity` of its samples: one that is damaged or of other data is made again. In float16 it
    has deviations from the mean of the first chunk, which lose less to rounding than features.
    """

    def __init__(
        self, compute: Callable[[slice], Tensor], n_samples: int, n_features: int, chunk_size: int, *,
        keep: Keep = "auto", precision: Precision = "float16", cache_bytes: int = 1 << 31, folder: Path | None = None,
        identity: Callable[[slice], str] = lambda rows: "", processes: Processes = ALONE,
    ) -> None:  # fmt: skip
        self.compute = compute
        self.n_samples, self.n_features, self.chunk_size = n_samples, n_features, chunk_size
        self.keep, self.precision, self.cache_bytes = keep, precision, cache_bytes
        self.folder, self.identity, self.processes = folder, identity, processes
        self.n_chunks = -(-n_samples // chunk_size)  # of all processes
        self._kept: dict[int, Tensor] = {}
        self._place: str | None = None
        self._shift: Tensor | None = None

    @property
    def place(self) -> str:
        """Where chunks are kept, as the first process decides for all: "memory", "disk" or "recompute" for nowhere."""
        if self._place is None:
            self._place = self.processes.broadcast(self._decide() if self.processes.rank == 0 else "")
            if self._place == "disk" and self.processes.rank == 0:
                self._delete(f"*-{other}" for other in _DTYPES if other != self.precision)
        return self._place

    def shift(self) -> Tensor:
        """Mean of the first chunk, (D,) float32; all processes ask for it together."""
        self.reopen()
        place = self.place  # asked for by all here; later only by those whose chunks are missing
        if self._shift is None:
            first = self.processes.rank == 0
            features = self.compute(self.rows(0)) if first else torch.zeros(1, self.n_features)
            shift = features.mean(0, dtype=torch.float64).float()
            if first and place == "disk":
                self._write("shift", shift)
            self._shift = self.processes.broadcast(shift)
            if first:
                self._keep_chunk(0, features)
        return self._shift

    def reopen(self) -> None:
        """Find what is on the disk; all processes do so together before they read chunks."""
        if self._shift is None and self.folder is not None:
            found = self._read("shift") if self.processes.rank == 0 else None
            # It stays if the first chunk is of other images, since all go by it, but not if none can be used.
            if found is not None and not any(self._stored(i, found) is not None for i in range(self.n_chunks)):
                found = None
            self._shift = self.processes.broadcast(found)

    def own(self, start: int = 0) -> range:
        """Numbers of this process's chunks, without the `start` first ones."""
        size = self.processes.world_size
        return range(self.processes.rank + start * size, self.n_chunks, size)

    def chunk(self, i: int) -> Tensor:
        """Features of chunk i, (n, D) float32, from where they are, else computed and not kept.

        On a disk whose `shift` is known they are the same, bit for bit, whether they were found or not.
        """
        found = self._found(i)
        if found is None:
            found = self.compute(self.rows(i))
            if self._shift is not None and self._place == "disk":  # as decided; to ask would need all processes
                found = self._rounded(found, self._shift)
        if found.dtype == torch.float32:
            return found
        assert self._shift is not None  # or nothing would have been found
        return found.float() + self._shift

    def deviations(self, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """This process's chunks from its `start`-th on, kept from now on: first row and deviations (n, D), float32."""
        shift = self.shift()
        for i in self.own(start):
            found = self._found(i)
            if found is None:
                found = self._keep_chunk(i, self.compute(self.rows(i)))
            yield i * self.chunk_size, found.float() if found.dtype == torch.float16 else found - shift

    def rows(self, i: int) -> slice:
        """Numbers of the samples of chunk i."""
        return slice(i * self.chunk_size, min((i + 1) * self.chunk_size, self.n_samples))

    def remove(self) -> None:
        """Delete the chunks on disk and in memory, and nothing else that the folder may hold."""
        self._kept.clear()
        if self.folder is not None and self.processes.rank == 0:
            self._delete(["shift", *(f"*-{precision}" for precision in _DTYPES)])
            with suppress(OSError):  # it is not empty, or not there
                self.folder.rmdir()

    def _found(self, i: int) -> Tensor | None:
        """Chunk i as it is kept: features in float32 or deviations in float16."""
        if i in self._kept or self.folder is None or self._shift is None:
            return self._kept.get(i)
        return self._stored(i, self._shift)

    def _stored(self, i: int, shift: Tensor) -> Tensor | None:
        return self._read(self._name(i), self.rows(i), shift)

    def _keep_chunk(self, i: int, features: Tensor) -> Tensor:
        """Keep a chunk where there is room; what `_found` will give from now on."""
        if self.place == "memory":
            self._kept[i] = features
        if self.place != "disk":
            return features
        shift = self.shift()
        stored = self._rounded(features, shift)
        self._write(self._name(i), stored, self.rows(i), shift)
        return stored

    def _rounded(self, features: Tensor, shift: Tensor) -> Tensor:
        """Features as the disk has them."""
        return (features - shift).half() if self.precision == "float16" else features

    def _name(self, i: int) -> str:
        return f"{i:08d}-{self.precision}"

    def _path(self, name: str) -> Path:
        assert self.folder is not None  # or nothing would be on a disk
        return self.folder / f"{name}.safetensors"

    def _write(self, name: str, tensor: Tensor, rows: slice = slice(0), shift: Tensor | None = None) -> None:
        try:
            write_tensors(self._path(name), {"values": tensor}, self._metadata(name, rows, shift))
        except ScattergenError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in FULL:
                raise
            needed = gigabytes(self._missing_bytes())
            full = f"The disk of {self.folder} is full, and the coefficients need {needed} more"
            remedy = "free some space, or let the rest be computed anew in every pass (--set encoder.store=recompute)"
            then = "then run the same command again, which continues where it stopped"
            raise ScattergenError(f"{full}: {remedy}; {then}.") from error

    def _read(self, name: str, rows: slice = slice(0), shift: Tensor | None = None) -> Tensor | None:
        """The tensor of a file, or None if there is none that can be used."""
        path = self._path(name)
        if not path.exists():
            return None
        tensors, metadata = read_tensors_if_whole(path) or ({}, None)
        is_shift = shift is None  # else a chunk, from which that was taken
        shape = (self.n_features,) if is_shift else (rows.stop - rows.start, self.n_features)
        dtype = torch.float32 if is_shift else _DTYPES[self.precision]
        found, reason = tensors.get("values"), "belongs to other images or options"
        if metadata is None or found is None or found.dtype != dtype or not torch.isfinite(found).all():
            reason = "is damaged"
        elif found.shape == shape and metadata == self._metadata(name, rows, shift):
            return found
        warnings.warn(f"{path} {reason}: it is made again.", stacklevel=2)
        path.unlink(missing_ok=True)
        return None

    def _metadata(self, name: str, rows: slice, shift: Tensor | None) -> dict[str, Any]:
        base = 0 if shift is None else zlib.crc32(shift.numpy().data)
        return {"identity": self.identity(rows), "name": name, "base": base}

    def _delete(self, names: Iterable[str]) -> None:
        """Delete files by name, where * stands for the number of a chunk."""
        for name in names:
            pattern = self._path(name.replace("*", "[0-9]" * 8))
            for path in pattern.parent.glob(pattern.name):
                path.unlink(missing_ok=True)

    def _missing_bytes(self) -> int:
        """What the chunks that are not on the disk yet will take there."""
        missing = [self.rows(i) for i in range(self.n_chunks) if not self._path(self._name(i)).exists()]
        return sum(rows.stop - rows.start for rows in missing) * self.n_features * _DTYPES[self.precision].itemsize

    def _decide(self) -> str:
        if self.keep in ("memory", "recompute"):
            return self.keep
        if self.keep == "auto" and self.n_samples * self.n_features * 4 <= self.cache_bytes:
            return "memory"
        if self.folder is None and self.keep == "auto":
            return "recompute"
        if self.folder is None:
            needs = 'encoder.store="disk" needs a run folder to keep the coefficients in'
            raise ScattergenError(f'{needs}: fit in one, or use "auto".')
        needed, free = self._missing_bytes(), free_bytes(self.folder)
        if needed == 0 or needed + _SPARE_BYTES <= free:
            return "disk"
        lacking = (
            f"The coefficients of {self.n_samples:,} images need {gigabytes(needed)} in {self.folder}, and "
            f"{gigabytes(_SPARE_BYTES)} for the rest of the run, but {gigabytes(free)} are free"
        )
        if self.keep == "disk":
            anew = "let the coefficients be computed anew in every pass (--set encoder.store=recompute)"
            raise ScattergenError(f"{lacking}: free some space or choose another place, or {anew}.")
        anew = "they are computed anew in every pass, which takes longer but gives the same result"
        warnings.warn(f"{lacking}: {anew}.", stacklevel=2)
        return "recompute"
