"""Which models cannot generate token by token: those that choose over whole rows.

Expert choice, the papers' top-k and scores of received attention are known when a row
is complete. They train, and their losses can be measured, but decoding alone each token
would be chosen as if it were all there is.
"""

from unimod_jax.layout import RowLayout
from unimod_jax.mod import Route
from unimod_jax.models import ModelSpec


def why_not_token_by_token(spec: ModelSpec, layout: RowLayout) -> str:
    """A sentence on what looks ahead in rows of a layout; "" where nothing does."""
    if spec.towers.expert_towers:
        return (
            f"experts of towers {spec.towers.expert_towers} choose among the tokens of "
            f"whole rows, so this model cannot generate token by token; evaluate its "
            f"losses, or train one without experts."
        )
    for design in spec.designs:
        route = design.route_of(layout.task)
        if route is not None and (culprit := _what_looks_ahead(route, layout)):
            return (
                f"task {layout.task!r} is routed with {culprit}, which looks at later "
                f"tokens of its rows, so it cannot be generated token by token; train "
                f"with another."
            )
    return ""


def _what_looks_ahead(route: Route, layout: RowLayout) -> str:
    """The setting of a route that needs whole rows; "" if there is none."""
    routed = [n for n in layout.stream_names if 0.0 < route.keep_ratio_of(n) < 1.0]
    if route.skips_layer or not routed:
        return ""
    # Later queries see images too: what those receive is known at the row's end only.
    if route.scorer == "attention":
        return "scorer 'attention'"
    if route.causal_rule == "top_k" and any(map(layout.is_causal, routed)):
        return "causal_rule 'top_k'"
    return ""
