"""Strictness for every test, set before JAX starts its backend.

Run under strict dtype promotion, no implicit rank promotion, eight CPU devices, no
network, and (in pyproject.toml) warnings as errors.

JAX's persistent compilation cache stays off. It would save three quarters of the
compile time, but its files are not written atomically: a test run that is interrupted
leaves a truncated entry, and every later run then fails on the warning about it.
Filtering that warning would hide a real one. To take the risk by hand, set
JAX_COMPILATION_CACHE_DIR.
"""

import ipaddress
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Charts are written to files; no display is asked for.
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Grain reads its settings from absl flags, and a flag read before anyone has parsed
# the command line raises UnparsedFlagAccessError. The command line is pytest's, so the
# flags keep their defaults.
flags.FLAGS.mark_as_parsed()

hypothesis.settings.register_profile(
    "unimod_jax",
    deadline=None,  # the first example of a shape compiles, the others do not
    derandomize=True,  # the same examples on every machine
    database=None,
    max_examples=20,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # compilation again
)
hypothesis.settings.load_profile("unimod_jax")


def _is_this_machine(host: object) -> bool:
    """True for loopback addresses, given as a name or in numbers."""
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return host in ("localhost", "", None)


def _refuse_network(event: str, arguments: tuple) -> None:
    """An audit hook: a socket of this process may only reach this machine.

    TensorFlow Datasets has its bucket switched off by default since 4.9 and needs no
    setting; this makes it a fact for every library. OSError is what an unplugged
    machine raises, so code that can work offline does.
    """
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if not _is_this_machine(host):
        raise OSError(f"tests run offline, but something asked for {host!r}")


sys.addaudithook(_refuse_network)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Relax dtype promotion, and nothing else, for tests that say why.

    optax raises a Python float to an int32 step count (Adam's bias correction, cosine
    schedules, MultiSteps), which strict promotion refuses. A test that runs optax
    directly carries `@pytest.mark.standard_promotion("optax: ...")`. Fixtures that are
    set up for such a test are covered too.
    """
    if item.get_closest_marker("standard_promotion") is None:
        return (yield)
    with jax.numpy_dtype_promotion("standard"):
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that relaxes dtype promotion without a reason."""
    marker = item.get_closest_marker("standard_promotion")
    if marker and not (marker.args and isinstance(marker.args[0], str)):
        pytest.fail(
            "standard_promotion has no reason; name the library and the place, as in "
            'standard_promotion("optax: Adam\'s bias correction").',
            pytrace=False,
        )
