"""How a run can end before its last step, and the exit code that says so.

0   done
2   something the user can solve, told in one sentence (`RunError`)
75  told to stop (SIGTERM, a preemption notice), and saved: run the same command again
76  another process died, fell silent or never joined: run the same command again

75 is EX_TEMPFAIL of sysexits.h, "the user is invited to retry"; 76 is the number next
to it. A script that keeps a run alive starts it again after both.
"""

from unimod_jax.training.run_directory import RunError

STOPPED = 75
PEER_LOST = 76


class Preempted(RunError):
    """The run was told to stop and has saved its state."""

    exit_code = STOPPED


class PeerLost(RunError):
    """Another process of the run is missing."""

    exit_code = PEER_LOST
