"""The block in float64 with loops, one modality after the other: the oracle."""

import math

import jax
import numpy as np

from tests.mot.tiny_block import THETA

EPSILON = 1e-5


def norm(kind, x, weights):
    """`weights` broadcast against the last axes of x: [E], or [heads, E]."""
    if kind == "rms":
        return (
            x / np.sqrt(np.mean(x**2, -1, keepdims=True) + EPSILON) * weights["scale"]
        )
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt(np.mean(centred**2, -1, keepdims=True) + EPSILON)
    return centred / spread * weights["scale"] + weights["bias"]


def linear(x, weights):
    return x @ weights["kernel"] + weights.get("bias", 0.0)


def rotated(x_THE, position_T, rotated_dim):
    half = rotated_dim // 2
    angle_TR = np.asarray(position_T)[:, None] * THETA ** -(np.arange(half) / half)
    pair = x_THE[..., :half] + 1j * x_THE[..., half:rotated_dim]
    turned = pair * np.exp(1j * angle_TR[:, None])
    return np.concatenate([turned.real, turned.imag, x_THE[..., rotated_dim:]], -1)


def attention(q_THE, k_SHE, v_SHE, position, window_end):
    """Softmax over the visible keys; also the probabilities [T, H, S]."""
    out, weights = np.zeros_like(q_THE), np.zeros((*q_THE.shape[:2], len(k_SHE)))
    for t, end in enumerate(window_end):
        visible = [s for s, p in enumerate(position) if 0 <= p < end]
        for head in range(q_THE.shape[1] if visible else 0):
            score = k_SHE[visible, head] @ q_THE[t, head] / np.sqrt(q_THE.shape[-1])
            weight = np.exp(score - score.max())
            weights[t, head, visible] = weight / weight.sum()
            out[t, head] = weights[t, head] @ v_SHE[:, head]
    return out, weights


def feed_forward(kind, x, weights):
    up = linear(x, weights["up"])
    if kind == "swiglu":
        gate = linear(x, weights["gate"])
        hidden = gate / (1 + np.exp(-gate)) * up
    else:
        inner = math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)
        hidden = 0.5 * up * (1 + np.tanh(inner))
    return linear(hidden, weights["down"])


class NumpyBlock:
    """One row; every modality has towers of its own."""

    def __init__(self, config, params, position, window_end, rotated_dim):
        self.config = config
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        self.position, self.window_end = position, window_end
        self.rotated_dim = rotated_dim

    def normed(self, component, x):
        p = self.params[component]
        return {name: norm(self.config.norm, x[name], p[name]) for name in x}

    def heads(self, component, x, norm_component=None):
        p, c, split = self.params, self.config, {}
        for name in x:
            heads = linear(x[name], p[component][name])
            heads = heads.reshape(len(heads), -1, c.head_dim)
            if norm_component is not None and c.qk_norm != "none":
                kind = "rms" if c.qk_norm == "rms" else "layer"
                heads = norm(kind, heads, p[norm_component][name])
            if norm_component is not None:
                heads = rotated(heads, self.position[name], self.rotated_dim)
            split[name] = heads
        return split

    def attended(self, x):
        """Attention branch, and the probabilities stream -> [T, H, S]."""
        c = self.config
        q = self.heads("query", x, "query_norm")
        k = self.heads("key", x, "key_norm")
        v = self.heads("value", x)
        # Each key head serves the same number of query heads in a row.
        share = c.num_heads // c.num_kv_heads
        keys = np.repeat(np.concatenate([*k.values()]), share, axis=1)
        values = np.repeat(np.concatenate([*v.values()]), share, axis=1)
        positions = [p for name in x for p in self.position[name]]
        out, weights = {}, {}
        for name in x:
            mixed, weights[name] = attention(
                q[name], keys, values, positions, self.window_end[name]
            )
            flat = mixed.reshape(len(mixed), -1)
            out[name] = linear(flat, self.params["output"][name])
        return out, weights

    def fed(self, x):
        p = self.params["feed_forward"]
        return {n: feed_forward(self.config.feed_forward, x[n], p[n]) for n in x}

    def delta(self, streams):
        """stream -> [T, D]; the new residual stream less the old one."""
        x = {n: np.asarray(rows[0], np.float64) for n, rows in streams.items()}

        def plus(a, b):
            return {n: a[n] + b[n] for n in a}

        if self.config.norm_order == "pre":
            middle = plus(x, self.attended(self.normed("attention_norm", x))[0])
            y = plus(middle, self.fed(self.normed("feed_forward_norm", middle)))
        elif self.config.norm_order == "swin":
            middle = plus(x, self.normed("attention_norm", self.attended(x)[0]))
            y = plus(middle, self.normed("feed_forward_norm", self.fed(middle)))
        else:
            normed = self.normed("attention_norm", x)
            y = plus(x, plus(self.attended(normed)[0], self.fed(normed)))
        return {n: y[n] - x[n] for n in x}
