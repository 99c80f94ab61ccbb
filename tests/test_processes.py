"""What torchrun and Slurm say of a process."""

import pytest

from densenet_suite.errors import ConfigError
from densenet_suite.processes import Launch, is_first_process

TORCHRUN = {  # torchrun --nnodes 2 --nproc-per-node 4, the second process of the second machine
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node-a",
    "MASTER_PORT": "29500",
}
SLURM = {  # sbatch --nodes 2 --ntasks-per-node 4, and srun in it
    "SLURM_JOB_ID": "1234567",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def test_torchrun_is_understood():
    launch = Launch.read(TORCHRUN)
    assert launch == Launch("torchrun", 5, 1, 1, 8, 4, "node-a", 29500)
    assert launch.nodes == 2


def test_slurm_is_understood():
    launch = Launch.read(SLURM)
    assert launch == Launch("Slurm", 5, 1, 1, 8, 4, "gpu003", 15_000 + 4567)
    assert launch.variables() == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "NODE_RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu003",
        "MASTER_PORT": "19567",
    }
    named = Launch.read(SLURM | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7"})
    assert (named.address, named.port) == ("10.0.0.1", 7)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu[1-4]", "gpu1"),
        ("gpu[003,007-009],cpu[1-2]", "gpu003"),
        ("a-b-01,a-b-02", "a-b-01"),
        ("rack[2-3]-gpu.site", "rack2-gpu.site"),
    ],
)
def test_the_first_host_of_a_list_is_found(hosts, first):
    assert Launch.read(SLURM | {"SLURM_STEP_NODELIST": hosts}).address == first


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LOCAL_RANK": "1", "NODE_RANK": "0"},  # Lightning has started it
        TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # a job's script, without srun
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},  # a shell that salloc has opened
    ],
)
def test_a_process_that_is_no_launchers_is_alone(environ):
    assert Launch.read(environ) is None


@pytest.mark.parametrize(
    ("environ", "what"),
    [
        (TORCHRUN | {"WORLD_SIZE": ""}, "WORLD_SIZE is '', where torchrun sets a number"),
        (SLURM | {"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x', where Slurm sets a number"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4,3"}, "4,3 processes on its machines: not the same on each"),
        (SLURM | {"SLURM_PROCID": "3"}, "process 3 of Slurm is number 1 of machine 1, which has 4"),
    ],
)
def test_what_cannot_be_is_refused(environ, what):
    with pytest.raises(ConfigError, match=what.replace("(", r"\(")):
        Launch.read(environ)


@pytest.mark.parametrize("environ", [TORCHRUN, SLURM, {"LOCAL_RANK": "1"}])
def test_one_process_is_the_first(environ, monkeypatch):
    assert is_first_process()
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert not is_first_process()
    for name in environ:
        if name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
            monkeypatch.setenv(name, "0")
    assert is_first_process()
