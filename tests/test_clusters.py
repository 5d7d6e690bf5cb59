"""What clusters and launchers leave in the environment changes nothing in a fit that they did not start."""

import os
import sys
import textwrap
import types
import warnings

import pytest
import torch
from lightning_fabric.utilities.rank_zero import _get_rank

from scattergen.densities import make
from scattergen.processes import Layout, make_fabric, supervise
from small_densities import SMALL, codes

# Of jobs in which this is one process alone, stale or incomplete.
JOBS = {
    "Slurm, several tasks": {
        "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1", "SLURM_NODELIST": "node[1-2]",
    },
    "Slurm, tasks per node": {"SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"},
    "Slurm, interactive": {"SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "2"},
    "Slurm, the number of tasks alone": {"SLURM_NTASKS": "4"},
    "Slurm, deprecated": {"SLURM_NPROCS": "4", "SLURM_JOB_NAME": "fit", "SLURM_PROCID": "0"},
    "Slurm, numbers that are none": {"SLURM_NTASKS": "many", "SLURM_PROCID": "", "SLURM_JOB_NAME": "fit"},
    "login node of Slurm": {},
    "PBS": {"PBS_JOBID": "1.host", "PBS_NODEFILE": "nowhere", "PBS_NUM_PPN": "8", "PBS_TASKNUM": "1", "NCPUS": "8"},
    "LSF": {
        "LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "nowhere", "JSM_NAMESPACE_SIZE": "4", "JSM_NAMESPACE_RANK": "1",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
    },
    "LSF, incomplete": {"LSB_JOBID": "1", "JSM_NAMESPACE_RANK": "1"},
    "Open MPI": {
        "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "PMIX_RANK": "2",
    },
    "MPICH": {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"},
    "Kubeflow": {
        "KUBERNETES_PORT": "tcp://10.0.0.1:443", "MASTER_ADDR": "master", "MASTER_PORT": "23456", "WORLD_SIZE": "4",
        "RANK": "1",
    },
    "elastic, its name alone": {"TORCHELASTIC_RUN_ID": "none"},
    "elastic, incomplete": {"TORCHELASTIC_RUN_ID": "7", "WORLD_SIZE": "4", "RANK": "3", "GROUP_RANK": "1"},
    "fabric run": {
        "LT_CLI_USED": "1", "LT_ACCELERATOR": "cuda", "LT_DEVICES": "4", "LT_NUM_NODES": "2", "LT_STRATEGY": "ddp",
        "LT_PRECISION": "64-true",
    },
    "ports and seeds that are no numbers": {"STANDALONE_PORT": "x", "MASTER_PORT": "x", "PL_GLOBAL_SEED": "x"},
    "numbers of machines that are none": {"NODE_RANK": "x", "GROUP_RANK": ""},
}  # fmt: skip


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Puts this process in a job: its variables, `srun` on the path, and an MPI of four processes."""

    def call(variables):
        for name in [name for name in os.environ if name.startswith(("SLURM_", "LT_", "JSM_")) or "RANK" in name]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        srun = tmp_path / "srun"
        srun.write_text("#!/bin/sh\n")
        srun.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        world = types.SimpleNamespace(Get_size=lambda: 4, Get_rank=lambda: 2)
        monkeypatch.setitem(sys.modules, "mpi4py", types.SimpleNamespace(MPI=types.SimpleNamespace(COMM_WORLD=world)))

    return call


def fitted():
    density = make("vae", **SMALL["vae"]).fit(codes())
    return density.sample(5, seed=0)


@pytest.fixture(scope="module")
def expected():
    return fitted()


@pytest.mark.parametrize("name", JOBS)
def test_a_network_is_trained_alone_in_a_job_of_many(job, expected, name):
    job(JOBS[name])
    before = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fabric = make_fabric("cpu", "32-true")
        assert (fabric.world_size, fabric.global_rank) == (1, 0)
        assert torch.equal(fitted(), expected)
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", ["SLURM_PROCID", "JSM_NAMESPACE_RANK"])
@pytest.mark.parametrize("value", ["3", "x", ""])
def test_lightning_reads_no_rank_of_a_job_while_it_is_imported(job, monkeypatch, name, value):
    job({name: value})
    read = []
    monkeypatch.setattr("lightning_fabric.Fabric", lambda **_: read.append(_get_rank()))
    make_fabric("cpu", "32-true")
    assert read == [None]
    assert os.environ[name] == value


def test_ranks_are_those_of_the_fit_and_not_of_the_job(job, tmp_path):
    """With --devices, which starts the processes itself."""
    job(JOBS["Slurm, several tasks"] | JOBS["LSF"] | JOBS["fabric run"] | {"TORCHELASTIC_RUN_ID": "none"})
    code = f"""
        import torch
        from scattergen.processes import Layout, join, make_fabric
        processes = join(Layout.of_environment(), "cpu")
        fabric = make_fabric("cpu", "32-true", processes)
        total = processes.all_reduce(torch.tensor([processes.rank + 1.0])).item()
        with open({str(tmp_path)!r} + f"/{{processes.rank}}", "w") as file:
            print(processes.world_size, fabric.global_rank, total, file=file)
        processes.leave()
    """
    supervise([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], Layout(2), threads=1)
    assert [(tmp_path / f"{rank}").read_text() for rank in (0, 1)] == ["2 0 3.0\n", "2 1 3.0\n"]
