"""Several processes: the same encoder and gradients as one, one writer, and no silent deaths."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import distributed_work
from scattergen import GenerativeScatteringNetwork
from scattergen.display.progress import SILENT
from scattergen.errors import InputError, ScattergenError
from scattergen.files.tensors import read_tensors
from scattergen.processes import ALONE, Layout, supervise
from scattergen.runs import RunFolder, Stages
from scattergen.runs.index import read_index
from scattergen.runs.remains import is_free
from small_trainings import assert_same_bits, data, one_module, train

WORK = Path(distributed_work.__file__)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return distributed_work.results(distributed_work.SAME_ALONE, ALONE, folder)


@pytest.fixture(scope="module", params=[2, 3])
def shared(request, tmp_path_factory):
    """Results of every rank of several processes; shares of three need not be equal."""
    folder = tmp_path_factory.mktemp(f"shared-{request.param}")
    supervise([sys.executable, str(WORK), str(folder)], Layout(request.param), threads=1)
    results = [read_tensors(folder / f"{rank}.safetensors")[0] for rank in range(request.param)]
    return Shared(results, folder)


class Shared(list):
    """Results by rank, and the folder that the processes worked in."""

    def __init__(self, results, folder):
        super().__init__(results)
        self.folder = folder


def part(results, name):
    """The results of one part of the work."""
    start = f"{name}: "
    return {key[len(start) :]: t for key, t in results.items() if key.startswith(start)}


def test_all_ranks_end_with_the_same_bits(shared):
    for results in shared[1:]:
        assert_same_bits(results, shared[0])


@pytest.mark.parametrize("method", ["gram", "covariance", "subspace_iteration"])
def test_several_processes_find_the_encoder_of_one(shared, alone, method):
    found, expected = (part_of(part(r, "encoders"), f"{method}/") for r in (shared[0], alone))
    # Sums in another order change the operator by float32 rounding, eps of its largest eigenvalue;
    # an eigenvector turns by that over the distance to the next eigenvalue (Davis, Kahan).
    eps, variances = torch.finfo(torch.float32).eps, expected["explained_variance"]
    turn = eps * variances[0].item() / -variances.diff().max().item()
    total = (variances[0] / expected["explained_variance_ratio"][0]).item()
    # A code is a deviation, of norm below 4 root mean squares, times a component, over sigma.
    atol = {
        "mean": eps,
        "components": turn,
        "explained_variance": eps * variances[0].item(),
        "explained_variance_ratio": eps,
        "codes": turn * 4 * (total / variances[-1].item()) ** 0.5,
        "n_samples": 0,
    }
    assert max(atol.values()) < 1e-3
    assert found.keys() == atol.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol[name])
    assert found["codes"].std(0).sub(1).abs().max() < 0.05  # whitened, so none was left out


def test_several_processes_take_the_steps_of_one(shared, alone):
    found, expected = part(shared[0], "shared_gradients"), part(alone, "shared_gradients")
    assert found.keys() == expected.keys()
    assert found["losses"][-1] < 0.9 * found["losses"][0]
    for name, tensor in expected.items():
        # Sums in another order differ by 1e-16 relative; 15 steps of Adam of size 0.05, each of
        # which divides a gradient by its root mean square (here above 1e-3), make that < 1e-11.
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-11)


def test_a_shared_training_resumes_with_the_same_bits(shared):
    found = part(shared[0], "noisy_training")
    whole, parts = part_of(found, "whole/"), part_of(found, "parts/")
    assert whole
    assert_same_bits(parts, whole)


def test_one_process_continues_the_training_of_several(shared, tmp_path):
    checkpoint = shutil.copy(shared.folder / "unfinished", tmp_path)
    modules, losses = one_module(seed=1)
    rest = data()
    settings = distributed_work.SETTINGS
    history = train(modules, losses, rest, checkpoint=Path(checkpoint), **settings)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert len(rest.indices) == 16 - 6  # 4 steps per epoch, of which six were done


def part_of(tensors, start):
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def test_early_stopping_is_decided_by_rank_0(shared, alone):
    for results in (*shared, alone):
        assert part(results, "early_stopping")["epochs"] == 4


def test_what_one_rank_cannot_do_stops_all_with_one_message(shared):
    messages = {name: bytes(t.tolist()).decode() for name, t in part(shared[0], "refusals").items()}
    assert "loss of the net became inf in step 1" in messages["infinite"]
    assert f"leave nothing for some of {len(shared)} processes" in messages["small batch"]
    assert "one module with one loss" in messages["two modules"]
    assert "do not all see the same images" in messages["other images"]


def test_what_rank_0_finds_all_find(shared):
    # Made twice, found twice, made again for damage, found: the same in all, as is tested above.
    found = part(shared[0], "stages")["calls"].tolist()
    assert found == [[1, 0], [1, 1], [2, 0], [1, 1], [3, 0], [3, 1]]


def test_sums_and_broadcasts(shared):
    found, w = part(shared[0], "messages_between"), len(shared)
    assert found["sum"].tolist() == [0.0, w * (w + 1) / 2, w * (w + 1.0)]
    assert found["columns"].tolist() == [[w, w]] * 3
    assert found["tensor"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["number"] == 7


# The command line -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def fit(digits):
    """Arguments of a fit without its run folder; rank 0 computes with two threads in the end."""
    chosen = (
        "encoder.n_components=16", "encoder.flips=false", "encoder.store=disk", "decoder.kind=generator",
        "decoder.channels=[16,8,4]", "training.epochs=4", "training.flips=true",
        "densities.vae.epochs=2", "densities.vae.widths=[32,16]",
    )  # fmt: skip
    options = [word for option in chosen for word in ("--set", option)]
    return ["fit", str(digits), "--densities", "gaussian,vae", "--threads", "2", *options]


def start(*arguments, launcher=("-m", "scattergen"), **environment):
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finish(process, code=0):
    """Both outputs of a process that ends with an exit code."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def wait_for(process, words):
    """Read the progress of a fit up to a line."""
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"it ended without saying {words!r}")


def ranks_of(process):
    """Process numbers of the ranks, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes() for pid in children}
    ranks = {
        int(environment.split(b"LOCAL_RANK=")[1].split(b"\0")[0]): pid for pid, environment in environments.items()
    }
    return [ranks[i] for i in range(len(ranks))]


def wait_for_ranks(process, n, within=60.0):
    """Process numbers of the ranks, as soon as all are there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if len(pids := children.read_text().split()) == n:
            return [int(pid) for pid in pids]
        time.sleep(0.02)
    raise AssertionError(f"there are not {n} processes")


def assert_gone(pids, within=5.0):
    """No process is left, not even for a while; a zombie waits for whoever adopted it only."""
    deadline = time.monotonic() + within
    left = set(pids)
    while left and time.monotonic() < deadline:
        for pid in set(left):
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                state = "Z"
            if state == "Z":
                left.remove(pid)
        time.sleep(0.02)
    assert not left


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes through /proc")


@pytest.fixture(scope="session")
def uninterrupted(fit, tmp_path_factory):
    """A run fitted by two processes that torchrun started, and what they printed."""
    run = tmp_path_factory.mktemp("shared") / "run"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(*fit, "--out", run, "--json", launcher=(*torchrun, "-m", "scattergen"))
    return run, finish(process)[0]


@pytest.mark.slow
def test_torchrun_makes_one_whole_run(uninterrupted, scattergen, tmp_path):
    run, out = uninterrupted
    assert json.loads(out)["finished_before"] is False  # printed by one process only
    RunFolder.open(run).check()
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in epochs if "epoch" in row] == [*range(1, 5)]
    scattergen("sample", run, "-n", "4", "--out", tmp_path / "samples.npz", "-q")


@pytest.mark.slow
@needs_proc
def test_a_killed_rank_ends_the_fit_and_the_same_command_continues(uninterrupted, fit, assert_same_model, tmp_path):
    run = tmp_path / "run"
    deaths = [(1, "encoder", "encoder"), (0, "validation", "decoder")]
    for rank, moment, stage in deaths:
        process = start(*fit, "--out", run, "--devices", "2")
        wait_for(process, moment)
        pids = ranks_of(process)
        os.kill(pids[rank], signal.SIGKILL)
        err = finish(process, 2)[1]
        assert_gone(pids)
        assert err.splitlines()[-1] == (
            f"error: Process {rank} of 2 was ended by the signal SIGKILL, perhaps for lack of "
            "memory, so the others were stopped: run the same command again; finished parts are "
            "kept."
        )
        assert err.count("error:") == 1
        assert "Traceback" not in err
        assert stage not in RunFolder.open(run).stages
    out, err = finish(start(*fit, "--out", run, "--devices", "2"))
    assert "encoder: done before" in err
    assert "warning:" not in err
    assert "Unseen images come back" in out
    assert_same_model(run, uninterrupted[0])
    again = finish(start(*fit, "--out", run, "--devices", "2", "-q"))[0]
    assert "nothing to do" in again


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_fit_leaves_no_process(fit, tmp_path, number, code):
    run = tmp_path / "run"
    process = start(*fit, "--out", run, "--devices", "2", "--set", "training.epochs=2000")
    wait_for(process, "validation")
    pids = ranks_of(process)
    process.send_signal(number)
    err = finish(process, code)[1]
    assert_gone(pids)
    assert "Traceback" not in err
    assert ("interrupted: the same command continues" in err) == (number == signal.SIGINT)
    locks = [*run.glob("work/*/lock"), run / ".scattergen-lock"]
    assert len(locks) > 1
    assert all(is_free(lock) for lock in locks)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("stage", ["codes", "decoder"])
def test_a_stage_that_another_fit_makes_stops_all_processes(uninterrupted, fit, tmp_path, stage):
    whole, run = RunFolder.open(uninterrupted[0]), tmp_path / "run"
    key = whole.key(stage)
    if stage == "codes":  # whose work is that on the coefficients
        encoder = GenerativeScatteringNetwork.load(whole.path).encoder
        arranged = {"n": whole.options["data"]["n"], "flips": encoder.flips, "held_out": encoder.held_out}
        depends = {**encoder.hyperparameters, **arranged, "images": ""}
        key = Stages(None, SILENT).key("coefficients", depends)
    other = RunFolder.start(run, whole.options)
    with other.working(stage, key):
        process = start(*fit, "--out", run, "--devices", "2")
        pids = wait_for_ranks(process, 2)
        err = finish(process, 2)[1]
        assert_gone(pids)
        assert err.splitlines()[-1] == (
            f"error: Another process is writing to {run} (it makes {stage}): wait for it to finish, or stop it."
        )
        assert err.count("error:") == 1
        assert "Traceback" not in err
        # What the other one needs is still there, and so is what was finished before.
        other.write("made", "0" * 16, {}, None)
    expected = ["encoder", "codes", "linear"] if stage == "decoder" else []
    assert [*RunFolder.open(run).stages] == expected


@pytest.mark.slow
@needs_proc
def test_stages_that_run_json_does_not_name_are_found_for_all(uninterrupted, fit, tmp_path):
    run = shutil.copytree(uninterrupted[0], tmp_path / "run")
    index = read_index(run)
    index.current.stages.clear()
    index.write(run)
    process = start(*fit, "--out", run, "--devices", "2")
    for name in ("encoder", "codes", "linear", "decoder"):
        wait_for(process, f"{name}: done before")
    wait_for(process, "sampling")  # which rank 0 begins when the others have left
    process.send_signal(signal.SIGINT)
    finish(process, 130)
    found, before = RunFolder.open(run), RunFolder.open(uninterrupted[0])
    assert [*found.stages][:4] == ["encoder", "codes", "linear", "decoder"]
    assert all(found.digest(name) == before.digest(name) for name in found.stages)


def test_an_error_of_all_ranks_is_printed_once(tmp_path):
    err = finish(start("fit", tmp_path / "none.npz", "--out", tmp_path, "--devices", "2"), 2)[1]
    assert err.startswith(f"error: {tmp_path / 'none.npz'}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "2", "--device", "mps"], 'cannot share the device "mps"'),
        (["--devices", "2", "--device", "cuda:1"], 'cannot share the device "cuda:1"'),
        (["--devices", "1000", "--device", "cuda"], "asks for 1000 GPUs, but there are"),
        (["--nodes", "2"], "needs NODE_RANK, MASTER_ADDR, MASTER_PORT in the environment"),
    ],
)
def test_processes_that_cannot_be_are_refused(scattergen, digits, tmp_path, monkeypatch, options, message):
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert message in scattergen("fit", digits, "--out", tmp_path / "run", *options, code=2).err


def test_the_launcher_and_the_options_must_agree(monkeypatch):
    variables = {
        "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3", "LOCAL_RANK": "2", "GROUP_RANK": "1",
        "MASTER_ADDR": "node0", "MASTER_PORT": "29500",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    layout = Layout.asked_for(3, None, "cpu")
    assert (layout.nodes, layout.world_size, layout.rank) == (2, 6, 5)
    with pytest.raises(InputError, match="--devices 4 contradicts the launcher"):
        Layout.asked_for(4, None, "cpu")


def test_the_environment_of_several_machines_is_checked(monkeypatch):
    for name, value in {"NODE_RANK": "2", "MASTER_ADDR": "::1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r'--nodes 2 needs NODE_RANK.*, not "2".*number of each machine, 0 to 1'):
        supervise(["true"], Layout(1, nodes=2), threads=1)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("raise SystemExit(3)", ScattergenError, "Process 0 of 1 failed"),
        ("import os; os.abort()", ScattergenError, "Process 0 of 1 was ended by the signal SIGABRT"),
    ],
)
def test_ranks_that_die_without_a_word(code, error, message, capfd):
    with pytest.raises(error, match=message):
        supervise([sys.executable, "-c", code], Layout(1), threads=1)
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_rank_is_the_cause_of_others_that_abort():
    # Rank 0 aborts at once, rank 1 is killed a little later.
    code = (
        "import os, signal, time; rank = int(os.environ['LOCAL_RANK']); time.sleep(0.3 * rank);"
        "os.kill(os.getpid(), signal.SIGKILL) if rank else os.abort()"
    )
    with pytest.raises(ScattergenError, match="Process 1 of 2 was ended by the signal SIGKILL"):
        supervise([sys.executable, "-c", code], Layout(2), threads=2)
