"""How long a fit will take and how much memory it needs, extrapolated from a few seconds of every stage."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scattergen.datasets import Dataset, ImageSource
from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.local import LinearDecoder
from scattergen.densities import make
from scattergen.display.progress import SILENT, Progress, Task
from scattergen.encoder.principal_components import passes_and_order
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError, ScattergenError
from scattergen.evaluation import default_features
from scattergen.model import DECODING_BATCH
from scattergen.pipeline.judging import FEWEST_TEST_IMAGES, LEAST_JUDGED, MOST_JUDGED
from scattergen.stages.density import choice_of_key
from scattergen.stages.fit import trial_sizes
from scattergen.stages.options import AnyDecoder, build, make_decoder

_SECONDS = 4.0  # of each stage that are tried
_SOME = 64  # images
_ORDER = 512  # of the matrix whose decomposition is timed
_TESTING = 2.5e-4  # seconds to test a code of 512 components for normality, beside all else that a report takes
_EARLY = 0.5  # part of its epochs after which a density with early stopping ends, as a rule


@dataclass(frozen=True)
class StageEstimate:
    """Seconds of one stage of a fit, and the memory that it needs beside 0.5 GB for Python and its libraries."""

    name: str
    seconds: float
    bytes: int


def estimate_fit(
    data: Dataset, options: Mapping[str, Any], device: str = "cpu", progress: Progress = SILENT
) -> list[StageEstimate]:
    """Estimate time and memory of the stages of a fit by trying each for a few seconds; nothing is written."""
    trials, sampling = 5 + len(options["densities"]), options.get("sampling", {}).get("n_components") == "auto"
    stages = []
    with progress.task("estimate", trials + sampling) as task:
        for stage in _estimates(data, options, device, sampling):
            stages.append(stage)
            task.advance(1, stage.name)
    return stages


def _estimates(data: Dataset, options: Mapping[str, Any], device: str, sampling: bool) -> Iterator[StageEstimate]:
    images, densities = data.train, options["densities"]
    encoder = build("encoder", ScatteringEncoder, options["encoder"], images.shape, device=device)
    yield from _encoder_and_codes(encoder, images)
    codes = torch.randn(len(images), encoder.whitening.n_components, generator=torch.Generator().manual_seed(0))
    linear, mirrored = _any_linear(encoder), codes if encoder.flips else None
    maps = 4 * sum(tensor.numel() for tensor in linear.state_dict().values())
    cached = min(len(images) * math.prod(images.shape), 1 << 30)  # bytes of images that are kept in memory
    watch = _Watch(lambda progress: linear.fit(codes, images, mirrored, progress=progress), 2.0)
    yield StageEstimate("linear", watch.seconds(), cached + 3 * maps)
    decoder = make_decoder(options["decoder"], _any_linear(encoder)).to(device)
    training = build("training", DecoderTraining, options["training"])
    yield _decoder(decoder, training, codes, images, encoder, cached + 2 * maps)
    some = codes[:_SOME].to(device)
    decoding = _seconds(lambda: decoder.decode(some)) / len(some)
    extract = default_features(images.shape, digits=data.is_mnist)
    seeing = _seconds(lambda: extract(images[:_SOME])) / len(some)
    if sampling:
        numbers, seen, drawn = trial_sizes(*codes.shape)
        trials = len(numbers) * drawn * (decoding + seeing) + seen * seeing
        yield StageEstimate("sampling", trials + 2.0, 4 * MOST_JUDGED * math.prod(images.shape) * 2)
    yield from (_density(key, keywords, codes, device) for key, keywords in densities.items())
    yield _report(data, len(densities), decoding, seeing)


def epochs_within(
    seconds: float, data: Dataset, options: Mapping[str, Any], device: str = "cpu", progress: Progress = SILENT
) -> int:
    """Epochs of the decoder, at most those of the options, that let a whole fit end in some seconds."""
    start = time.monotonic()
    stages = estimate_fit(data, options, device, progress)
    return _affordable(stages, DecoderTraining(**options["training"]).epochs, seconds - (time.monotonic() - start))


def shortened(stages: Sequence[StageEstimate], options: Mapping[str, Any], seconds: float) -> list[StageEstimate]:
    """What a fit's stages take if the decoder is trained for as many epochs as let it end in some seconds."""
    epochs = DecoderTraining(**options["training"]).epochs
    part = _affordable(stages, epochs, seconds) / epochs
    return [replace(one, seconds=one.seconds * (part if one.name == "decoder" else 1)) for one in stages]


def _affordable(stages: Sequence[StageEstimate], epochs: int, seconds: float) -> int:
    each = sum(stage.seconds for stage in stages if stage.name == "decoder") / epochs
    others = sum(stage.seconds for stage in stages if stage.name != "decoder")
    affordable = int((seconds - others) / each)
    if affordable < 1:
        least = f"The fit takes at least {others + each:,.0f} s with one epoch of the decoder"
        remedy = "allow more time (--max-time), or fewer images (--limit) or densities (--densities)"
        raise InputError(f"{least}: {remedy}.")
    return min(affordable, epochs)


def _encoder_and_codes(encoder: ScatteringEncoder, images: ImageSource) -> list[StageEstimate]:
    """The first two stages; the encoder has components afterwards."""
    n, n_features = len(images), encoder.n_features
    arranged = encoder.arrange(images)
    per_image = _seconds(lambda: encoder.features(images[:_SOME])) / min(_SOME, n)
    watch = _Watch(lambda progress: encoder.fit(images, progress, features=None))
    seconds = watch.seconds()
    whitening, d = encoder.whitening, encoder.whitening.n_components
    if watch.stopped:
        seconds = _components(watch, per_image, encoder, arranged.n_fit)
        # Components of the right shapes, whose values do not matter.
        whitening.mean_, whitening.components_ = torch.zeros(n_features), torch.eye(d, n_features)
        whitening.explained_variance_ = torch.ones(d, dtype=torch.float64)
        whitening.explained_variance_ratio_ = torch.ones(d, dtype=torch.float64) / d
        whitening.n_samples_ = d + 1
    # Coefficients are kept, in memory or on the disk, but for those of held-out images.
    kept = min(4 * len(arranged) * n_features, whitening.cache_bytes)
    a = torch.ones(256, 4096)
    products_per_second = 2 * 256 * 4096 * 256 / max(_seconds(lambda: a @ a.T), 1e-9)
    projecting = len(arranged) * 2 * d * n_features / products_per_second
    scattering = (len(arranged) - arranged.n_fit) * per_image
    codes = StageEstimate("codes", projecting + scattering, kept + 4 * n * d)
    return [StageEstimate("encoder", seconds, kept + 12 * d * n_features), codes]


def _components(watch: "_Watch", per_image: float, encoder: ScatteringEncoder, n_fit: int) -> float:
    """Seconds of the encoder's fit that was stopped: only its first pass scatters images."""
    passes, order = passes_and_order(n_fit, encoder.n_features, encoder.whitening.n_passes)
    elapsed, done = watch.tasks["principal components"].seen[-1]
    each = elapsed / done
    later = max(each - per_image, 0.1 * each)
    matrix = torch.eye(_ORDER, dtype=torch.float64)
    decomposition = _seconds(lambda: torch.linalg.eigh(matrix)) * (order / _ORDER) ** 3 if order else 0.0
    return n_fit * (each + (passes - 1) * later) + decomposition


def _any_linear(encoder: ScatteringEncoder) -> LinearDecoder:
    """Least squares of the right shapes, whose values do not matter."""
    linear, drawn = LinearDecoder.shaped(encoder), torch.Generator().manual_seed(0)
    state = linear.state_dict().items()
    linear.load_state_dict({name: 0.01 * torch.randn(one.shape, generator=drawn) for name, one in state})
    return linear


def _decoder(
    decoder: AnyDecoder, training: DecoderTraining, codes: Tensor, images: ImageSource, encoder: ScatteringEncoder,
    held: int,
) -> StageEstimate:  # fmt: skip
    """The decoder's training, given the bytes of images and of least squares that it holds."""
    to_the_end = partial(replace(training, patience=None).fit, decoder, codes, images, device=str(decoder.device))
    watched = partial(_Watch, lambda progress: to_the_end(encoder=encoder, mirrored=codes, progress=progress))
    watched(0.0)  # a first step, which may compile
    watch = watched(1.5 * _SECONDS)
    task = watch.tasks["decoder"]
    n, d = codes.shape
    n_validation, epochs = training.held_out(n), training.epochs
    step = task.expected() / max(task.total, 1) / min(training.batch_size, n)
    # A validation image is decoded and compared, without gradients; training images are, too.
    seen = task.completed * epochs >= task.total  # at least one epoch, with its validation
    checks = 0.0 if seen else epochs * (n_validation + min(n_validation, 1000)) * 0.4 * step
    parameters = sum(parameter.numel() for parameter in decoder.parameters())
    memory = 4 * n * d * (1 + encoder.flips) + held + 24 * parameters
    memory += 4 * DECODING_BATCH * math.prod(images.shape) * 20
    return StageEstimate("decoder", task.expected() + checks, memory)


def _density(key: str, keywords: Mapping[str, Any], codes: Tensor, device: str) -> StageEstimate:
    choice = choice_of_key(key, keywords)
    density = make(choice.name, **choice.keywords)

    def fit(progress: Progress) -> None:
        with suppress(ScattergenError):  # random codes may be no good to it
            density.fit(codes, device=device, progress=progress)

    watch = _Watch(fit)
    early = watch.stopped and getattr(density, "patience", None) is not None
    seconds = max(watch.seconds(), watch.elapsed) * (_EARLY if early else 1)
    return StageEstimate(f"densities/{key}", seconds, 4 * codes.numel() * 4)


def _report(data: Dataset, n_densities: int, decoding: float, seeing: float) -> StageEstimate:
    """The report, given the seconds that it takes to decode an image, and to compute its features."""
    n, n_test = len(data.train), 0 if data.test is None else len(data.test)
    seconds = (n_test + 64 * n_densities) * decoding
    if n_test >= FEWEST_TEST_IMAGES:
        judged, sampled = min(MOST_JUDGED, n_test), min(MOST_JUDGED, max(LEAST_JUDGED, n_test))
        rows = 3 * judged + min(MOST_JUDGED, n) + n_densities * sampled
        seconds += rows * (seeing + decoding)
    seconds += 3.0 + n_test * _TESTING
    return StageEstimate("report", seconds, 4 * MOST_JUDGED * math.prod(data.train.shape) * 6)


def _seconds(work: Callable[[], Any]) -> float:
    """Of the second of two runs; the first may compile."""
    work()
    start = time.monotonic()
    work()
    return time.monotonic() - start


class _EnoughSeenError(Exception):
    """A stage was watched for long enough."""


class _Watch(Progress):
    """Lets a stage work for some seconds, and tells how far it came."""

    def __init__(self, stage: Callable[[Progress], Any], limit: float = _SECONDS) -> None:
        super().__init__(show=False)
        self.limit, self.stopped = limit, True
        self.tasks: dict[str, _WatchedTask] = {}
        start = time.monotonic()
        with warnings.catch_warnings(), suppress(_EnoughSeenError):
            warnings.simplefilter("ignore")
            stage(self)
            self.stopped = False
        self.elapsed = time.monotonic() - start

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        """A part of the stage."""
        self.tasks[description] = _WatchedTask(description, total, self.limit)
        yield self.tasks[description]

    def seconds(self) -> float:
        """Of all that was watched, had it not been stopped."""
        return sum(task.expected() for task in self.tasks.values()) if self.stopped else self.elapsed


class _WatchedTask(Task):
    def __init__(self, description: str, total: int, limit: float) -> None:
        super().__init__(description, total)
        self.start, self.limit = time.monotonic(), limit
        self.seen: list[tuple[float, int]] = []

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        super().advance(steps, note)
        elapsed = time.monotonic() - self.start
        self.seen.append((elapsed, self.completed))
        if elapsed > self.limit and 0 < self.completed < self.total:
            raise _EnoughSeenError

    def expected(self) -> float:
        """Seconds of the whole; the first steps, which warm up, count once."""
        if not self.seen:
            return time.monotonic() - self.start
        elapsed, done = self.seen[-1]
        if done >= self.total:
            return elapsed
        early, before = self.seen[len(self.seen) // 3]
        if done <= before:
            return elapsed / max(done, 1) * self.total
        return elapsed + (elapsed - early) / (done - before) * (self.total - done)
