# mypy: ignore-errors
# Numba compiles these functions: what they compute with has no Python types.
"""Bilinear upsampling of mixed channels, and its gradient, as sums of the few terms that are not zero (needs Numba)."""

import numpy as np
import torch

from scattergen.scattering.kernel_cache import kept
from scattergen.scattering.plan import LANES
from scattergen.scattering.simd import inlined, load, pointer_to, spread, store, zero
from scattergen.scattering.threads import in_threads

_CACHED_BYTES = 900_000  # of mixed channels


@inlined
def _pointers(terms):
    start, offsets, weights = terms
    return pointer_to(start), pointer_to(offsets), pointer_to(weights)


@inlined
def _combine(source, s, target, d, length, terms, row):
    """target[d : d + length] = Σ_t weights[t] source[s + offsets[t] :], over the terms t of a row."""
    start, offsets, weights = terms
    first, last = start[row], start[row + 1]
    done = 0
    while done + 4 * LANES <= length:
        u0 = u1 = u2 = u3 = zero(source)
        for t in range(first, last):
            at, weight = s + done + offsets[t], spread(weights, t)
            u0 += weight * load(source, at)
            u1 += weight * load(source, at + LANES)
            u2 += weight * load(source, at + 2 * LANES)
            u3 += weight * load(source, at + 3 * LANES)
        store(target, d + done, u0)
        store(target, d + done + LANES, u1)
        store(target, d + done + 2 * LANES, u2)
        store(target, d + done + 3 * LANES, u3)
        done += 4 * LANES
    while done + LANES <= length:
        u0 = zero(source)
        for t in range(first, last):
            u0 += spread(weights, t) * load(source, s + done + offsets[t])
        store(target, d + done, u0)
        done += LANES
    while done < length:
        target[d + done] = 0
        for t in range(first, last):
            target[d + done] += weights[t] * source[s + done + offsets[t]]
        done += 1


@kept
def _upsample(mixed, out, rows, columns):
    """From mixed channels (B, h, w, k, k, outputs) to (B, H, W, outputs)."""
    _, h, w, k, _, outputs = mixed.shape
    B, H, W, _ = out.shape
    line = np.empty(w * k * outputs, mixed.dtype)
    source, between, target = pointer_to(mixed), pointer_to(line), pointer_to(out)
    rows, columns, wide = _pointers(rows), _pointers(columns), k * outputs
    for image in range(B):
        for y in range(H):
            for x in range(w):
                _combine(source, (image * h * w + x) * k * wide, between, x * wide, wide, rows, y)
            for x in range(W):
                _combine(between, 0, target, ((image * H + y) * W + x) * outputs, outputs, columns, x)
    line[0] = 0  # the memory is needed until here


@kept
def _gather(gradient, mixed, rows, columns):
    """The gradient of mixed channels from that of `_upsample`'s result."""
    _, h, w, k, _, outputs = mixed.shape
    B, H, W, _ = gradient.shape
    lines = np.empty(H * w * k * outputs, mixed.dtype)
    source, between, target = pointer_to(gradient), pointer_to(lines), pointer_to(mixed)
    rows, columns, wide = _pointers(rows), _pointers(columns), k * outputs
    for image in range(B):
        for y in range(H):
            for x in range(w * k):
                at = (y * w * k + x) * outputs
                _combine(source, (image * H + y) * W * outputs, between, at, outputs, columns, x)
        for y in range(h):
            for x in range(w):
                for a in range(k):
                    at = (((image * h + y) * w + x) * k + a) * wide
                    _combine(between, x * wide, target, at, wide, rows, y * k + a)
    lines[0] = 0  # the memory is needed until here


def _in_shares(work, *tensors):
    n = torch.get_num_threads()
    left = iter([*zip(*(tensor.tensor_split(n) for tensor in tensors), strict=True)])

    def take():
        for share in left:
            work(*share)

    in_threads(take, n)


def _parts(x, taps):
    """Parts of a share, and room for the mixed channels of one of them in the cache of a processor."""
    _, h, w, _ = x.shape
    size = max(1, _CACHED_BYTES // (h * w * taps[0].numel() * x.element_size()))
    mixed = x.new_empty(min(size, len(x)), h, w, *taps.shape[1:])
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield part, mixed[: len(x[part])]


def convolve(x, taps, out, rows, columns):
    """Mix channels of x (B, h, w, in) by taps (in, k, k, outputs), and upsample them to `out`, (B, H, W, outputs)."""

    def work(x, out):
        for part, mixed in _parts(x, taps):
            torch.mm(x[part].view(-1, len(taps)), taps.flatten(1), out=mixed.view(-1, taps[0].numel()))
            _upsample(mixed.numpy(), out[part].numpy(), rows, columns)

    _in_shares(work, x, out)


def gradients(x, taps, gradient, rows, columns):
    """Gradients of x and of the taps, by that of what `convolve` makes of them."""
    x_gradient = torch.empty_like(x)
    # One sum for each share, so that a result does not depend on which thread was the first.
    sums = taps.new_zeros(torch.get_num_threads(), *taps.shape)

    def work(x, gradient, x_gradient, total):
        for part, mixed in _parts(x, taps):
            _gather(gradient[part].numpy(), mixed.numpy(), rows, columns)
            mixed = mixed.view(-1, taps[0].numel())
            torch.mm(mixed, taps.flatten(1).T, out=x_gradient[part].view(-1, len(taps)))
            total[0].flatten(1).addmm_(x[part].view(-1, len(taps)).T, mixed)

    _in_shares(work, x, gradient, x_gradient, sums)
    return x_gradient, sums.sum(0)
