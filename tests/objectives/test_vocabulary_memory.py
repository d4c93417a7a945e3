"""What a training step over a large vocabulary holds, by XLA's memory analysis."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from tests.models.tiny_model import tiny_spec
from tests.task_rows import layouts
from unimod_jax.layout import PartSizes
from unimod_jax.models import ModelSpec, UnifiedModel
from unimod_jax.models.accounting import abstract_rows
from unimod_jax.objectives import NextToken, total_loss

VOCABULARY_SIZE = 184_622  # Emu3's
SIZES = PartSizes(text_tokens=20, image_codes=1056)
NUM_ROWS = 4
OBJECTIVE = NextToken(z_loss=1e-5)


def emu3_spec() -> ModelSpec:
    """A model of one narrow layer, with all the ids."""
    narrow = tiny_spec((), num_layers=1, width=32)
    return dataclasses.replace(narrow, vocabulary_size=VOCABULARY_SIZE)


def temporary_bytes(spec, batch, loss_of):
    """Of loss and gradients, compiled from shapes alone."""
    model = UnifiedModel(spec)
    variables = jax.eval_shape(
        lambda batch: nn.unbox(model.init(jax.random.key(0), batch)), batch
    )

    def loss(variables, batch):
        return loss_of(batch, model.apply(variables, batch)[0])

    step = jax.jit(jax.value_and_grad(loss))
    options = {"xla_backend_optimization_level": 0}
    memory = step.lower(variables, batch).compile(options).memory_analysis()
    return memory.temp_size_in_bytes


def test_a_step_at_emu3s_vocabulary_never_holds_its_logits():
    spec = emu3_spec()
    layout = layouts(OBJECTIVE, SIZES, spec.streams)["text_to_image"]
    num_tokens = NUM_ROWS * layout.row_length
    assert num_tokens >= 4_300
    batch = {"text_to_image": abstract_rows(spec, layout, NUM_ROWS)}

    def in_chunks(batch, outputs):
        return total_loss(OBJECTIVE, batch, {}, outputs, {"text_to_image": 1.0})[0]

    def at_once(batch, outputs):
        loss = jnp.zeros(())
        for name, logits_BTV in outputs["text_to_image"].logits.items():
            target_BT1 = batch["text_to_image"].streams[name].target_id_BT[..., None]
            log_share_BTV = jax.nn.log_softmax(logits_BTV)
            loss -= jnp.mean(jnp.take_along_axis(log_share_BTV, target_BT1, axis=-1))
        return loss

    logits_bytes = 4 * num_tokens * VOCABULARY_SIZE
    assert temporary_bytes(spec, batch, in_chunks) < 0.25 * logits_bytes
    assert temporary_bytes(spec, batch, at_once) > logits_bytes
