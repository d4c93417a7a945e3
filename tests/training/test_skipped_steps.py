"""A step that would spoil the parameters leaves them as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unimod_jax.training import RunError, TrainingConfig, TrainState
from unimod_jax.training.skipped_steps import METRIC, SkipBudget, keep_unless_good


def state(step: int, value: float) -> TrainState:
    return TrainState(
        step=jnp.int32(step),
        params={"kernel": jnp.full((2, 2), value)},
        router_state={"threshold": jnp.float32(value)},
        optimizer_state=(jnp.int32(value), {"mean": jnp.full(2, value)}),
        key=jax.random.key(3),
    )


def metrics(loss: float, norm: float) -> dict[str, jax.Array]:
    return {"loss": jnp.float32(loss), "gradient_norm": jnp.float32(norm)}


def kept(loss: float, norm: float, skip_above: float = 0.0) -> tuple[bool, float]:
    """Whether the new values are kept, all of them; and the metric."""
    after, found = jax.jit(keep_unless_good, static_argnums=3)(
        state(4, 1.0), state(5, 2.0), metrics(loss, norm), skip_above
    )
    assert int(after.step) == 5
    changing = (after.params, after.router_state, after.optimizer_state)
    values = {float(v) for leaf in jax.tree.leaves(changing) for v in leaf.reshape(-1)}
    assert values in ({1.0}, {2.0})
    return values == {2.0}, float(found[METRIC])


def test_a_good_step_is_kept():
    assert kept(3.0, 1.0) == (True, 0.0)


@pytest.mark.parametrize(
    ("loss", "norm"), [(np.nan, 1.0), (np.inf, 1.0), (3.0, np.nan), (3.0, np.inf)]
)
def test_a_step_that_is_not_finite_is_skipped_but_counted_as_taken(loss, norm):
    assert kept(loss, norm) == (False, 1.0)


def test_a_norm_beyond_the_bound_is_skipped():
    assert kept(3.0, 5.0, skip_above=5.0) == (True, 0.0)
    assert kept(3.0, 5.1, skip_above=5.0) == (False, 1.0)


# --- The budget -----------------------------------------------------------------------


def skipped(loss: float = np.nan, norm: float = 1.0) -> dict[str, jax.Array]:
    return metrics(loss, norm) | {METRIC: jnp.float32(1)}


GOOD = metrics(3.0, 1.0) | {METRIC: jnp.float32(0)}


def test_without_a_budget_the_first_skipped_step_stops_the_run():
    budget = SkipBudget(0, 0.0)
    budget.step_started(7, GOOD)
    budget.step_started(8, skipped())
    with pytest.raises(RunError, match=r"loss became nan at step 8 .*checkpoint 6 is"):
        budget.take(6)


def test_a_budget_is_spent_between_two_checkpoints():
    budget = SkipBudget(2, 5.0)
    for step in (1, 2):
        budget.step_started(step, skipped())
    assert budget.take(None) == 2
    budget.step_started(3, GOOD)
    assert budget.take(None) == 0
    budget.saved()
    for step in (4, 5):
        budget.step_started(step, skipped())
    assert budget.take(3) == 2
    budget.step_started(6, skipped(loss=3.0, norm=9.0))
    with pytest.raises(
        RunError, match=r"gradient_norm 9 exceeded training.skip_above 5 at step 6"
    ):
        budget.take(3)


def test_what_is_not_saved_yet_is_said():
    budget = SkipBudget(0, 0.0)
    budget.step_started(1, skipped(loss=1.0, norm=np.inf))
    with pytest.raises(RunError, match=r"gradient_norm became inf .* nothing is saved"):
        budget.take(None)


@pytest.mark.parametrize("option", ["skip_above", "skip_budget"])
def test_a_negative_option_is_refused(option: str):
    with pytest.raises(ValueError, match=f"training.{option} is -1; give 0 or more"):
        TrainingConfig(**{option: -1})
