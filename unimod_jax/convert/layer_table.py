"""The pieces that all tables of language models are made of.

Parameters are called as in `models.parameter_path`.
"""

import dataclasses

from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.weight_map import AS_IS, TRANSPOSED, FileTensor
from unimod_jax.models import ModelConfig
from unimod_jax.models.parameter_path import DENSE_TOWER, LAYERS, Path

type MutableTable = dict[Path, FileTensor]

EMBEDDING: Path = ("embedding", "table")
HEAD: Path = ("vocabulary_head",)
FINAL_NORM: Path = ("final_norm", DENSE_TOWER)


def block(layer: int, *names: str) -> Path:
    """The path of a module of one layer's block."""
    return (LAYERS, str(layer), "block", *names)


def tower(layer: int, component: str) -> Path:
    """The path of a component's one tower in a layer."""
    return block(layer, component, DENSE_TOWER)


def linear(path: Path, name: str, sizes: tuple[int, int], bias: bool) -> MutableTable:
    """A projection: PyTorch's `weight` [out, in] and `bias`, our kernel [in, out].

    Args:
      path: of our module.
      name: of PyTorch's module.
      sizes: (in, out).
      bias: whether it has one.
    """
    table = {(*path, "kernel"): FileTensor(f"{name}.weight", sizes[::-1], TRANSPOSED)}
    if bias:
        table[*path, "bias"] = FileTensor(f"{name}.bias", sizes[1:])
    return table


def norm(path: Path, name: str, shape: tuple[int, ...], bias: bool) -> MutableTable:
    """A norm: PyTorch's `weight` is our scale; layer norms have a bias."""
    table = {(*path, "scale"): FileTensor(f"{name}.weight", shape)}
    if bias:
        table[*path, "bias"] = FileTensor(f"{name}.bias", shape)
    return table


@dataclasses.dataclass(frozen=True)
class Ends:
    """Names of what stands before and behind the layers.

    Attributes:
      embedding: of the embedding's tensor.
      norm: of the final norm's module.
      head: of the vocabulary head's module.
    """

    embedding: str
    norm: str
    head: str


def ends(config: ModelConfig, names: Ends) -> MutableTable:
    """Embedding, final norm and head."""
    rows, width = config.vocabulary_size, config.width
    table = {EMBEDDING: FileTensor(names.embedding, (rows, width), AS_IS)}
    table |= norm(FINAL_NORM, names.norm, (width,), config.norm == "layer")
    if not config.tied_head:
        table |= linear(HEAD, names.head, (width, rows), config.biases)
    return table


def swiglu(layer: int, config: ModelConfig, name: str) -> MutableTable:
    """Llama's feed-forward network, as transformers calls it."""
    path, width, hidden = tower(layer, "feed_forward"), config.width, config.hidden
    return {
        **linear((*path, "gate"), f"{name}.gate_proj", (width, hidden), False),
        **linear((*path, "up"), f"{name}.up_proj", (width, hidden), False),
        **linear((*path, "down"), f"{name}.down_proj", (hidden, width), False),
    }


def attention(
    layer: int, config: ModelConfig, name: str, output: str = "o_proj"
) -> MutableTable:
    """The four projections of attention, as transformers calls them."""
    c = config
    query, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    return {
        **linear(tower(layer, "query"), f"{name}.q_proj", (c.width, query), c.biases),
        **linear(tower(layer, "key"), f"{name}.k_proj", (c.width, kv), c.biases),
        **linear(tower(layer, "value"), f"{name}.v_proj", (c.width, kv), c.biases),
        **linear(
            tower(layer, "output"), f"{name}.{output}", (query, c.width), c.biases
        ),
    }


def norms_of_llama(layer: int, config: ModelConfig, name: str) -> MutableTable:
    """The two RMS norms of a layer; behind the branches they keep their names."""
    shape = (config.width,)
    post = f"{name}.post_attention_layernorm"
    return {
        **norm(tower(layer, "attention_norm"), f"{name}.input_layernorm", shape, False),
        **norm(tower(layer, "feed_forward_norm"), post, shape, False),
    }


def require(config: ModelConfig, family: str, **fields: object) -> None:
    """Refuses an architecture that the family's files do not hold.

    Raises:
      ConversionError: naming the first field that differs.
    """
    for name, value in fields.items():
        if (given := getattr(config, name)) != value:
            raise ConversionError(
                f"{name} is {given!r}, but published weights of {family} have "
                f"{value!r}; start from one of {family}'s presets."
            )
