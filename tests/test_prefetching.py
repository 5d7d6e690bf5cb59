"""Reading ahead and decoding in other processes: same images, and nothing left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from scattergen.datasets import ImageFolder, open_dataset, prefetched
from scattergen.datasets.reading import WorkerProcesses
from scattergen.errors import InputError, ScattergenError
from small_trainings import assert_same_bits, data, one_module, parameters, train


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetched")]


def alive(pid):
    """Whether a process runs; one that has ended may wait for its parent as a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second when it ends between opening and reading
        return False


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(40):
        pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number:02}.png")
    return tmp_path / "pictures"


# Reading ahead


@pytest.mark.parametrize("ahead", [1, 2, 50])
def test_the_same_batches_in_the_same_order(pictures, ahead):
    images = ImageFolder(pictures, cache_bytes=0)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(7)
    for batch, expected in zip(prefetched((images[r] for r in rows), ahead), rows, strict=True):
        assert torch.equal(batch, images[expected])
    assert not readers()


def test_batches_are_read_while_the_caller_computes():
    read, computing = threading.Event(), threading.Event()

    def values():
        yield 0
        assert computing.wait(10)  # asked for while the caller still has the first
        read.set()
        yield 1

    for value in prefetched(values()):
        computing.set()
        assert read.wait(10), value


def test_no_more_than_asked_for_is_read_ahead():
    made = []

    def values():
        for number in range(100):
            made.append(number)
            yield number

    iterator = prefetched(values(), ahead=3)
    assert next(iterator) == 0
    assert wait_until(lambda: len(made) == 5)  # one given out, three waiting, one in the making
    time.sleep(0.2)
    assert len(made) == 5
    iterator.close()
    assert not readers()


def test_an_error_comes_after_the_values_before_it(pictures):
    (pictures / "05.png").write_bytes(b"")
    images = ImageFolder(pictures, strict=False)
    images.files[20].unlink()
    found = []
    with pytest.raises(InputError, match=r"21\.png cannot be read as an image \(No such file"):
        found.extend(prefetched(images[i : i + 1] for i in range(39)))
    assert len(found) == 20
    assert not readers()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_reader_ends_when_the_caller_fails(error):
    def use():
        for value in prefetched(iter(range(1000))):
            if value == 3:
                raise error

    with pytest.raises(error):
        use()
    assert wait_until(lambda: not readers())


def test_a_training_has_the_same_bits():
    class ReadAhead:
        """Batches in the order of a training, whatever index it then asks for."""

        def __init__(self, source, order):
            self.source = source
            self.batches = prefetched(source[rows] for rows in order)

        def __len__(self):
            return len(self.source)

        def __getitem__(self, index):
            return next(self.batches)

    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01}
    modules, losses = one_module()
    recorded = data()
    train(modules, losses, recorded, **settings)
    expected = parameters(modules)
    order = [torch.tensor(index) for index in recorded.indices]
    modules, losses = one_module()
    train(modules, losses, ReadAhead(data(), order), **settings)
    assert_same_bits(parameters(modules), expected)


# Processes


def test_processes_decode_the_same_images(pictures):
    one, several = (ImageFolder(pictures, size=8, cache_bytes=0, workers=n) for n in (0, 2))
    assert torch.equal(several[:], one[:])
    assert torch.equal(several[torch.tensor([31, 2, 2])], one[torch.tensor([31, 2, 2])])
    assert several[:0].shape == (0, 3, 8, 8)
    assert several.fingerprint == one.fingerprint
    assert open_dataset(pictures, workers=1).train.shape == (3, 12, 10)


def test_errors_of_processes_are_those_of_threads(pictures):
    images = ImageFolder(pictures, cache_bytes=0, workers=1)
    (pictures / "07.png").unlink()
    with pytest.raises(InputError, match=r"07\.png cannot be read as an image \(No such file"):
        images[:]
    assert images[:3].shape == (3, 3, 12, 10)  # the process goes on
    with pytest.raises(InputError, match="workers=-1: give a number of processes"):
        ImageFolder(pictures, workers=-1)


def test_processes_end_when_they_are_no_longer_used():
    workers = WorkerProcesses(1)
    (pid,) = set(workers.map(_pid, range(3)))
    del workers
    assert wait_until(lambda: not alive(pid))


def test_a_killed_process_is_a_sentence_and_others_take_its_place():
    workers = WorkerProcesses(1)
    (pid,) = workers.map(_pid, [0])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ScattergenError, match=r"was killed, .* fewer of them \(--workers\)"):
        list(workers.map(time.sleep, [0.5, 0.5]))
    (other,) = workers.map(_pid, [0])
    workers.close()
    assert other != pid
    assert wait_until(lambda: not alive(other))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_no_process_outlives_the_program(pictures, tmp_path, number):
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(f"""
            import os
            from scattergen.datasets import ImageFolder, prefetched

            if __name__ == "__main__":
                images = ImageFolder({str(pictures)!r}, cache_bytes=0, workers=1)
                images[:2]
                print(*images._workers._pool._processes, flush=True)
                for _ in prefetched(images[:2] for _ in range(10**9)):
                    pass
        """)
    )
    program = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True,
        stderr=subprocess.PIPE,
        # As at a terminal: shells start background jobs, such as this test run, with it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    pids = [int(word) for word in program.stdout.readline().split()]
    assert pids
    assert all(map(alive, pids))
    if number == signal.SIGINT:
        os.killpg(program.pid, number)  # a terminal sends Ctrl-C to all of them
    else:
        os.kill(program.pid, number)
    _, said = program.communicate(timeout=60)
    assert said.count("Traceback") == (1 if number == signal.SIGINT else 0)
    assert wait_until(lambda: not any(map(alive, pids)))


def _pid(_):
    return os.getpid()
