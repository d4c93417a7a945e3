"""AdamW with warm-up, a schedule, clipping, and routers' own learning rate."""

import jax
import optax

from unimod_jax.models.parameter_path import (
    Path,
    chooses_tokens,
    decays,
    map_with_path,
)
from unimod_jax.training.experiment import TrainingConfig


def learning_rate(config: TrainingConfig) -> optax.Schedule:
    """Linear warm-up to the peak, then the schedule down to its end."""
    warmup = min(config.warmup_steps, config.steps - 1)
    peak, end, decay_steps = (
        config.learning_rate,
        config.final_learning_rate,
        config.steps - warmup,
    )
    after = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, decay_steps, end / peak),
        "exponential": lambda: optax.exponential_decay(
            peak, decay_steps, end / peak, end_value=end
        ),
        "constant": lambda: optax.constant_schedule(peak),
    }
    rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, after[config.schedule]()], [warmup])


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """The optimiser of an experiment.

    Matrices are decayed; norms, biases and everything of a router are not.
    """

    def adamw(learning_rate_ratio: float, weight_decay: float):
        schedule = learning_rate(config)
        return optax.adamw(
            lambda step: learning_rate_ratio * schedule(step),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            mu_dtype=config.momentum_dtype,
            weight_decay=weight_decay,
            mask=_is_matrix,
        )

    router_ratio = config.router_learning_rate_ratio
    by_part = optax.partition(
        {
            "router": adamw(router_ratio, 0.0),
            "rest": adamw(1.0, config.weight_decay),
        },
        _part_of,
    )
    clip = (
        optax.clip_by_global_norm(config.clip_norm)
        if config.clip_norm
        else optax.identity()
    )
    return _with_optax_promotion(optax.chain(clip, by_part))


def _part_of(params: object) -> object:
    """ "router" for what chooses tokens, "rest" for all other parameters."""

    def part(path: Path, _: object) -> str:
        return "router" if chooses_tokens(path) else "rest"

    return map_with_path(part, params)


def _is_matrix(params: object) -> object:
    """True for kernels and tables, by their path: stacked layers add an axis."""
    return map_with_path(lambda path, _: decays(path), params)


def _with_optax_promotion(
    transform: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Optax mixes float32 with its int32 step count; let it, under strict promotion."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params)

    return optax.GradientTransformation(transform.init, update)
