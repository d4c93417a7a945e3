"""Keys and values of a row's earlier tokens, layer by layer.

A dense layer caches every token of a row; a routed layer only those it keeps, in as
many places as its static capacity. Cached tokens keep their absolute positions, so the
windows of later queries find them wherever they are stored.
"""

import jax
import jax.numpy as jnp

from unimod_jax import mod
from unimod_jax.layout import RowLayout
from unimod_jax.models.unified import ModelSpec
from unimod_jax.mot import LayerCache

type Caches = list[LayerCache | None]
"""One per run of equal layers, stacked over them; None where the task skips them."""


def empty_caches(spec: ModelSpec, layout: RowLayout, num_rows: int) -> Caches:
    """Caches for whole rows of a layout, with nothing in them.

    Args:
      spec: the model.
      layout: of the rows; a routed layer's places follow from its slots.
      num_rows: B.
    """
    c = spec.config
    dtype = jnp.dtype(c.compute_dtype)
    caches: Caches = []
    for design, length in mod.runs(spec.designs):
        regions = _regions(design.route_of(layout.task), layout)
        if not regions:
            caches.append(None)
            continue
        one = LayerCache.empty(regions, num_rows, c.num_kv_heads, c.head_dim, dtype)
        caches.append(
            jax.tree.map(lambda x, n=length: jnp.broadcast_to(x, (n, *x.shape)), one)
        )
    return caches


def _regions(route: mod.Route | None, layout: RowLayout) -> tuple[tuple[str, int], ...]:
    """(stream, places per row) of one layer."""
    if route is None:
        return tuple((name, layout.num_tokens(name)) for name in layout.stream_names)
    if route.skips_layer:
        return ()
    return tuple(
        (name, mod.capacity(route.keep_ratio_of(name), layout.num_tokens(name)))
        for name in layout.stream_names
    )


def cache_bytes(spec: ModelSpec, layout: RowLayout) -> int:
    """Bytes of keys and values that one row of a layout needs, in the compute dtype."""
    c = spec.config
    per_place = 2 * c.num_kv_heads * c.head_dim * jnp.dtype(c.compute_dtype).itemsize
    places = sum(
        size
        for design in spec.designs
        for _, size in _regions(design.route_of(layout.task), layout)
    )
    return places * per_place
