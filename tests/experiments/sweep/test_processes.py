"""Several processes at once, none of which stops the rest or outlives the sweep."""

import contextlib
import os
import sys
import time
from pathlib import Path

import pytest

from experiments.sweep.processes import Ended, Limits, Task, run_tasks

WRITES_ITS_PID = "import os; open('{}', 'w').write(str(os.getpid()))\n"


def never() -> int:
    return 0


def task(name: str, tmp_path: Path, code: str) -> Task:
    """A Python process that first writes its id into NAME.pid."""
    pid_file = tmp_path / f"{name}.pid"
    code = WRITES_ITS_PID.format(pid_file) + code
    return Task(name, [sys.executable, "-c", code], tmp_path / f"{name}.log")


def wait_for(path: Path) -> None:
    until = time.monotonic() + 20
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until, f"{path} was never written"
        time.sleep(0.01)


def is_alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def ends(tasks: list[Task], limits: Limits, stops=never) -> dict[str, Ended]:
    return {task.name: ended for task, ended in run_tasks(tasks, limits, stops)}


def test_each_task_ends_as_it_ends(tmp_path: Path):
    tasks = [
        task("well", tmp_path, "print('out')"),
        task("broken", tmp_path, "raise SystemExit(7)"),
        task("killed", tmp_path, "os.kill(os.getpid(), 9)"),
        Task("absent", [str(tmp_path / "no_such_program")], tmp_path / "absent.log"),
        task("last", tmp_path, "import sys; assert not sys.stdin.read()"),
    ]
    ended = ends(tasks, Limits(jobs=2, timeout=60))
    assert {name: end.exit_code for name, end in ended.items()} == {
        "well": 0,
        "broken": 7,
        "killed": -9,
        "absent": 127,
        "last": 0,
    }
    assert (tmp_path / "well.log").read_text() == "out\n"
    assert "cannot be started" in (tmp_path / "absent.log").read_text()
    assert not any(end.timed_out or end.interrupted for end in ended.values())


@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_run_at_once(tmp_path: Path, jobs: int):
    log = tmp_path / "events"
    # None ends before so many have begun.
    code = (
        "import time\n"
        f"log = open({str(log)!r}, 'a', buffering=1)\n"
        "log.write('+'); log.flush()\n"
        f"while open({str(log)!r}).read().count('+') < {jobs}: time.sleep(0.01)\n"
        "time.sleep(0.1); log.write('-'); log.flush()"
    )
    tasks = [task(str(number), tmp_path, code) for number in range(4)]
    ends(tasks, Limits(jobs, timeout=60))
    running = most = 0
    for event in log.read_text():
        running += 1 if event == "+" else -1
        most = max(most, running)
    assert most == jobs and running == 0


def test_a_task_that_takes_too_long_is_stopped_and_the_next_one_runs(tmp_path: Path):
    stubborn = (
        "import signal, time; signal.signal(15, signal.SIG_IGN)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    tasks = [task("stubborn", tmp_path, stubborn), task("next", tmp_path, "")]
    ended = ends(tasks, Limits(jobs=1, timeout=3.0, grace=0.2))
    assert ended["stubborn"].timed_out and ended["stubborn"].exit_code == -9
    assert (tmp_path / "stubborn.log").read_text() == "ready\n"
    assert ended["next"] == Ended(0, ended["next"].seconds)


def test_asked_once_running_tasks_may_finish_what_they_save(tmp_path: Path):
    saves = (
        "import signal, time\n"
        "signal.signal(15, lambda *_: exit(75))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    tasks = [task("saves", tmp_path, saves), task("waiting", tmp_path, "")]

    def stops() -> int:
        log = tmp_path / "saves.log"
        return int(log.exists() and log.read_text() == "ready\n")

    ended = ends(tasks, Limits(jobs=1, timeout=60), stops)
    assert set(ended) == {"saves"}
    assert ended["saves"].exit_code == 75 and ended["saves"].interrupted


def test_asked_twice_running_tasks_are_ended(tmp_path: Path):
    ignores = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    pid_file = tmp_path / "ignores.pid"

    def stops() -> int:
        return 2 if pid_file.exists() else 0

    start = time.monotonic()
    ended = ends([task("ignores", tmp_path, ignores)], Limits(1, 60), stops)
    assert ended["ignores"].exit_code in (-9, -15)
    assert time.monotonic() - start < 20
    assert not is_alive(pid_file)


def test_an_error_in_whoever_listens_ends_all_processes(tmp_path: Path):
    slow = task("slow", tmp_path, "import time; time.sleep(60)")
    pid_file = tmp_path / "slow.pid"
    quick = task(
        "quick",
        tmp_path,
        f"import time\nwhile not os.path.exists('{pid_file}'): time.sleep(0.01)",
    )
    tasks = run_tasks([slow, quick], Limits(2, 60), never)
    with pytest.raises(OSError, match="disk is full"), contextlib.closing(tasks):
        for _ in tasks:
            raise OSError("disk is full")
    wait_for(pid_file)
    assert not is_alive(pid_file)


def test_a_process_holds_open_what_it_is_given(tmp_path: Path):
    with (tmp_path / "lock").open("w") as lock:
        code = f"os.write({lock.fileno()}, b'held')"
        ended = ends(
            [task("holds", tmp_path, code)], Limits(1, 60, kept_open=(lock.fileno(),))
        )
    assert ended["holds"].exit_code == 0
    assert (tmp_path / "lock").read_text() == "held"


def test_the_terminal_does_not_interrupt_processes_itself(tmp_path: Path):
    """Ctrl-C goes to the whole group of a process; theirs is another one."""
    ends([task("own", tmp_path, "print(os.getpgrp())")], Limits(1, 60))
    assert int((tmp_path / "own.log").read_text()) != os.getpgrp()
