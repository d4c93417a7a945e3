"""Which process this is: given, from the environment, or alone."""

import pytest

from unimod_jax.training import ALONE, ProcessOptions, processes, start_processes
from unimod_jax.training.processes import Place, find_place

VARIABLES = (
    *("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    *("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"),
)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_a_process_that_is_told_nothing_is_alone():
    assert start_processes(ProcessOptions()) is ALONE
    assert ALONE.is_first and ALONE.gather("x", 3) == [3]


def test_options_say_which_process_this_is():
    options = ProcessOptions("host-a:8476", 4, 3)
    assert find_place(options) == Place("host-a:8476", 4, 3)


def test_the_environment_says_what_options_do_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host-a:8476")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    assert find_place(ProcessOptions()) == Place("host-a:8476", 4, 1)
    assert find_place(ProcessOptions(index=2)) == Place("host-a:8476", 4, 2)


def test_slurm_says_it_through_jax(monkeypatch: pytest.MonkeyPatch):
    for variable, value in {
        "SLURM_JOB_ID": "4096",
        "SLURM_STEP_NODELIST": "node[007-010]",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "1",
    }.items():
        monkeypatch.setenv(variable, value)
    assert find_place(ProcessOptions()) == Place("node007:61440", 4, 2, (1,))
    assert find_place(ProcessOptions(detect=False)) is None


def test_a_single_task_of_slurm_keeps_all_its_devices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert find_place(ProcessOptions()) is None


def test_a_later_pod_does_not_train_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    with pytest.raises(ValueError, match=r"not the first pod .* --processes"):
        find_place(ProcessOptions())


@pytest.mark.parametrize(
    "options",
    [
        ProcessOptions("host-a:8476", 4),
        ProcessOptions("host-a:8476", index=1),
        ProcessOptions("host-a", 4, 1),
        ProcessOptions("host-a:8476", 4, 4),
    ],
    ids=["no index", "no count", "no port", "index too large"],
)
def test_half_an_answer_is_refused(options: ProcessOptions):
    with pytest.raises(ValueError, match="do not name a process"):
        find_place(options)


def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "four")
    with pytest.raises(ValueError, match=r"\$JAX_NUM_PROCESSES is 'four'"):
        find_place(ProcessOptions("host-a:8476", index=1))


@pytest.mark.parametrize(
    "options", [{"silence_timeout": 1.0}, {"start_timeout": 0.0}], ids=str
)
def test_timeouts_must_be_long_enough(options: dict[str, float]):
    with pytest.raises(ValueError, match="timeout"):
        ProcessOptions(**options)


def test_a_port_in_use_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    import socket

    with (
        socket.create_server(("", 0)) as taken,
        pytest.raises(processes.RunError, match="cannot be opened"),
    ):
        processes._listen(taken.getsockname()[1], deadline=0.0)
