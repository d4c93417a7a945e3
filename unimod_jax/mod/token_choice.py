"""Token choice: from hidden states to which tokens a layer processes, and how strongly.

A scorer ranks tokens and a rule picks some. Where a stream is there as a whole (an
image span, a prompt), the rule is top-k. Tokens of causal streams come one by one, and
top-k would let a later token push out an earlier one, so `Route.causal_rule` is one of:

  following_threshold  the causal gate: one rule for training, prefill and decoding.
  trained_threshold    training picks by top-k and pulls the router's scores towards
                       membership by cross-entropy; everywhere else a token is kept
                       whose score passes a threshold (2404.02258, section 3.5, fix i).
  predictor            training picks by top-k and teaches a small network, apart from
                       the task, to predict membership; everywhere else a token is kept
                       whose prediction passes a threshold (fix ii).
  top_k                the papers' rule everywhere. LEAKS in causal streams: later
                       tokens decide over earlier ones, and a token decoded alone is
                       always among the best of its row.

Thresholds are calibrated to the keep ratio, not set at a probability of one half: they
are the gate's state and follow the quantile of the scores that they are compared with,
whenever the state is mutable. A step is a training step where the state is mutable.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax.layout import AttentionGeometry
from unimod_jax.mod.capacity import capacity
from unimod_jax.mod.causal_gate import CausalGate, is_training
from unimod_jax.mod.membership_predictor import MembershipPredictor, membership_loss
from unimod_jax.mod.random_scorer import RandomScorer
from unimod_jax.mod.route import Route
from unimod_jax.mod.score_weight import SCORE_WEIGHTS
from unimod_jax.mod.selection import Selection, select_above, select_top_k
from unimod_jax.mod.task_router import JITTER, TaskRouter, jitter
from unimod_jax.parallel import constrain

type _Streams = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chosen:
    """What a layer does with the tokens of one stream.

    Attributes:
      selection: which tokens it gathers; None keeps the stream as it stands.
      weight_BT: float32, what the layer's delta is multiplied by.
      kept_BT: boolean, the valid tokens that the layer processes.
      auxiliary_loss: float32 scalar, of the rule that learns to choose when decoding,
        mean over valid tokens and before any coefficient; 0 outside training.
      disagreement: float32 scalar, share of valid tokens over which this step's
        selection and the decoding rule differ; 0 where they are one rule.
    """

    selection: Selection | None
    weight_BT: jax.Array
    kept_BT: jax.Array
    auxiliary_loss: jax.Array
    disagreement: jax.Array


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """The tokens of one stream that compete for its places, as a rule sees them.

    Attributes:
      stream: its name.
      ranked_BT: float32, what top-k ranks.
      decisive_BT: float32, what the threshold is compared with.
      logit_BT: float32, what learns membership; None where nothing does.
      valid_BT: boolean, false in empty slots.
      keep_ratio: share to keep.
      num_places: C, static.
      room_B: as for `selection.pack`.
    """

    stream: str
    ranked_BT: jax.Array
    decisive_BT: jax.Array
    logit_BT: jax.Array | None
    valid_BT: jax.Array
    keep_ratio: float
    num_places: int
    room_B: jax.Array | None

    def best(self) -> Selection:
        """The highest scores of each row."""
        return select_top_k(
            self.ranked_BT, self.valid_BT, self.keep_ratio, self.num_places, self.room_B
        )

    def above(self, threshold: jax.Array) -> Selection:
        """The tokens that pass a threshold."""
        return select_above(
            self.decisive_BT, self.valid_BT, threshold, self.num_places, self.room_B
        )


class TokenChoice(nn.Module):
    """Chooses the tokens of one task in one layer.

    Attributes:
      route: how the task is routed here; a task with keep ratio 0 skips the layer, and
        whoever holds the layer leaves it out instead of calling this.
      streams: names of the streams it may see.
      width: D.
      router: the linear router, given from outside so that tasks can share one; None
        for other scorers.
    """

    route: Route
    streams: tuple[str, ...]
    width: int
    router: TaskRouter | None = None

    def setup(self) -> None:
        """Makes what the route's scorer and rule need."""
        route = self.route
        if route.skips_layer:
            raise ValueError(
                f"task {route.task!r} has keep_ratio 0, so there is nothing to choose; "
                f"let the task pass the layer by."
            )
        if route.scorer == "linear" and self.router is None:
            raise ValueError(
                f"task {route.task!r} has a linear scorer but no router; give a "
                f"TaskRouter."
            )
        if route.scorer == "random":
            self.random_scorer = RandomScorer(self.streams)
        if route.causal_rule != "top_k":
            self.gate = CausalGate(self.streams)
        if route.causal_rule == "predictor":
            self.predictor = MembershipPredictor(self.streams, self.width)

    def stay(self) -> None:
        """Writes the thresholds as they stand, if there are any; see `CausalGate`."""
        if self.route.causal_rule != "top_k":
            self.gate.stay()

    def __call__(
        self,
        streams: _Streams,
        geometry: dict[str, AttentionGeometry],
        *,
        causal: Mapping[str, bool],
        num_slots: Mapping[str, int],
        room: _Streams | None = None,
        received: _Streams | None = None,
        route: Route | None = None,
    ) -> dict[str, Chosen]:
        """Chooses tokens of each stream.

        Args:
          streams: stream -> [B, T, D], whole rows or the next tokens of them.
          geometry: stream -> geometry of the same tokens.
          causal: stream -> whether its tokens come one by one.
          num_slots: stream -> slots of a whole row, which fix the capacity.
          room: stream -> int32 [B], how many more tokens each row may keep, where a
            cache holds those kept before; None for whole rows.
          received: stream -> float [B, T], attention received, for that scorer. Sums
            over later queries look ahead, whatever the rule.
          route: its keep ratios are followed, where layers that differ in nothing else
            share this choice's parameters; None follows the choice's own.

        Returns:
          stream -> what to do with it.

        Raises:
          ValueError: for an attention scorer without attention, a skipped layer, or a
            linear scorer without a router.
        """
        score = _of_whole_rows(self._score(streams, geometry, received))
        logits = _of_whole_rows(self._membership_logits(streams))
        weigh = SCORE_WEIGHTS[self.route.score_weight]
        chosen = {}
        for name in streams:
            position_BT = geometry[name].position_BT
            keep_ratio = (route or self.route).keep_ratio_of(name)
            if keep_ratio == 1.0:
                selection, kept_BT = None, position_BT >= 0
                loss = differing = jnp.zeros((), jnp.float32)
            else:
                candidates = self._candidates(
                    name,
                    score[name],
                    logits.get(name),
                    position_BT,
                    keep_ratio,
                    num_slots[name],
                    None if room is None else room[name],
                )
                selection, loss, differing = self._select(candidates, causal[name])
                kept_BT = selection.kept_BT
            weight_BT = weigh(score[name])
            chosen[name] = Chosen(selection, weight_BT, kept_BT, loss, differing)
        return chosen

    def _score(
        self,
        streams: _Streams,
        geometry: dict[str, AttentionGeometry],
        received: _Streams | None,
    ) -> _Streams:
        """Stream -> float32 [B, T], without jitter."""
        if self.route.scorer == "random":
            return self.random_scorer(
                {name: geometry[name].position_BT for name in streams}
            )
        if self.router is not None and self.route.scorer == "linear":
            return self.router(streams)
        if received is None:
            raise ValueError(
                f"task {self.route.task!r} ranks tokens by the attention they receive, "
                f"but none was given; pass received, an array [B, T] per stream."
            )
        return {
            name: jax.lax.stop_gradient(received[name].astype(jnp.float32))
            for name in streams
        }

    def _membership_logits(self, streams: _Streams) -> _Streams:
        """What cross-entropy trains, on inputs it does not reach; {} without it."""
        if self.route.causal_rule == "predictor":
            return self.predictor(streams)
        if self.route.causal_rule == "trained_threshold" and self.router is not None:
            return self.router(jax.lax.stop_gradient(streams))
        return {}

    def _candidates(
        self,
        stream: str,
        score_BT: jax.Array,
        logit_BT: jax.Array | None,
        position_BT: jax.Array,
        keep_ratio: float,
        num_slots: int,
        room_B: jax.Array | None,
    ) -> _Candidates:
        """Scores as the rules compare them: learned ones may tie and get a jitter."""
        tie_break_BT = jitter(position_BT)
        learned = self.route.scorer == "linear"
        ranked_BT = score_BT + tie_break_BT if learned else score_BT
        decisive_BT = ranked_BT
        if self.route.causal_rule == "predictor" and logit_BT is not None:
            decisive_BT = logit_BT + tie_break_BT
        return _Candidates(
            stream=stream,
            ranked_BT=ranked_BT,
            decisive_BT=decisive_BT,
            logit_BT=logit_BT,
            valid_BT=position_BT >= 0,
            keep_ratio=keep_ratio,
            num_places=min(capacity(keep_ratio, num_slots), position_BT.shape[1]),
            room_B=room_B,
        )

    def _select(
        self, candidates: _Candidates, causal: bool
    ) -> tuple[Selection, jax.Array, jax.Array]:
        """(selection, auxiliary loss, disagreement) of one stream."""
        zero = jnp.zeros((), jnp.float32)
        if not causal or self.route.causal_rule == "top_k":
            return candidates.best(), zero, zero
        stream, keep_ratio = candidates.stream, candidates.keep_ratio
        valid_BT, logit_BT = candidates.valid_BT, candidates.logit_BT
        threshold = self.gate.threshold(stream, self._initial_threshold(keep_ratio))
        self.gate.follow(stream, candidates.decisive_BT, valid_BT, keep_ratio)
        above = candidates.above(threshold)
        if logit_BT is None or not is_training(self):
            return above, zero, zero
        best = candidates.best()
        loss = membership_loss(logit_BT, best.kept_BT, valid_BT)
        return best, loss, disagreement(best.kept_BT, above.kept_BT, valid_BT)

    def _initial_threshold(self, keep_ratio: float) -> float:
        """What a keep_ratio share of the scores passes before anything is learned.

        Maps that start at zero leave the jitter alone, which is spread evenly, and so
        are random scores. The scale of received attention is unknown: everything passes
        until the first step.
        """
        if self.route.causal_rule == "predictor" or self.route.scorer == "linear":
            return JITTER * (1.0 - keep_ratio)
        return 1.0 - keep_ratio if self.route.scorer == "random" else 0.0


def _of_whole_rows(score: _Streams) -> _Streams:
    """Scores, stream -> [B, T], gathered where devices share the tokens of a row.

    Rules rank all of them.
    """
    return {name: constrain(x_BT, "batch", None) for name, x_BT in score.items()}


def disagreement(
    one_BT: jax.Array, other_BT: jax.Array, valid_BT: jax.Array
) -> jax.Array:
    """Share of the valid tokens that only one of two selections keeps; float32 scalar.

    Args:
      one_BT, other_BT: boolean, the tokens that each keeps.
      valid_BT: boolean, false in empty slots.
    """
    differ = jnp.sum((valid_BT & (one_BT != other_BT)).astype(jnp.float32))
    num_valid = jnp.sum(valid_BT.astype(jnp.float32))
    return differ / jnp.maximum(num_valid, 1.0)
