"""Reading a published config.json, in which defaults may be left out."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.models import ModelConfig

_COMPARED = (
    *("width", "num_layers", "num_heads", "num_kv_heads", "head_dim", "feed_forward"),
    *("hidden", "norm", "norm_order", "qk_norm", "norm_epsilon", "biases"),
    *("tied_head", "rotary_theta", "rotary_share", "vocabulary_size"),
)
"""What fixes the parameters of a model and what it computes with them."""


CONFIG_FILES = ("config.json", "params.json")
"""What published configs are called; the second is Meta's own."""


def read_config(directory: Path | str) -> dict[str, Any] | None:
    """The config that lies beside published weights, or None where there is none.

    Raises:
      ConversionError: for a file that holds no fields.
    """
    for name in CONFIG_FILES:
        path = Path(directory) / name
        if not path.is_file():
            continue
        try:
            published = json.loads(path.read_text("utf-8"))
        except ValueError:
            published = None
        if not isinstance(published, dict):
            raise ConversionError(
                f"{path} holds no JSON object, so it is damaged; download it again."
            )
        return published
    return None


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of a config.json.

    Attributes:
      published: all of them.
      family: whose they are, for messages.
    """

    published: Mapping[str, Any]
    family: str

    def number(self, name: str, default: float | None = None) -> Any:
        """A number; the default where it is left out.

        Raises:
          ConversionError: for what is no number, or left out without a default.
        """
        value = self.published.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConversionError(
                f"{name} of {self.family}'s config.json is {value!r}, which is no "
                "number; take the config.json that was published with the weights."
            )
        return value

    def size(self, name: str, default: int | None = None) -> int:
        """A positive whole number; the default where it is left out or null."""
        held = self.published.get(name)
        value = default if held is None else self.number(name)
        if not isinstance(value, int) or value < 1:
            raise ConversionError(
                f"{name} of {self.family}'s config.json is {value!r} and no positive "
                "whole number; take the config.json published with the weights."
            )
        return value

    def rotary(self, name: str, default: float) -> float:
        """A number of rotary positions, by itself or in `rope_parameters`."""
        nested = Fields(self.published.get("rope_parameters") or {}, self.family)
        return float(nested.number(name, self.number(name, default)))

    def rotary_theta(self, default: float) -> float:
        """The base of the rotary wavelengths.

        Raises:
          ConversionError: for scaled rotary positions, which no model of ours has.
        """
        nested = self.published.get("rope_parameters") or {}
        scaled = self.published.get("rope_scaling") or nested.get("rope_type")
        if scaled not in (None, "default"):
            raise ConversionError(
                f"{self.family}'s config.json scales rotary positions ({scaled!r}), "
                "which is not supported; use weights with plain rotary positions."
            )
        return self.rotary("rope_theta", default)

    def llama(self, base: ModelConfig) -> ModelConfig:
        """The architecture of a Llama-like config.json.

        Args:
          base: what is taken where a field is left out, and what no field tells
            (dropout, compute dtype): the family's released model.
        """
        self.require(hidden_act="silu", attention_bias=False, mlp_bias=False)
        heads = self.size("num_attention_heads", base.num_heads)
        width = self.size("hidden_size", base.width)
        return dataclasses.replace(
            base,
            width=width,
            num_layers=self.size("num_hidden_layers", base.num_layers),
            num_heads=heads,
            num_kv_heads=self.size("num_key_value_heads", base.num_kv_heads),
            head_dim=width // heads,
            feed_forward_hidden=self.size("intermediate_size", base.hidden),
            norm_epsilon=self.number("rms_norm_eps", base.norm_epsilon),
            rotary_theta=self.rotary_theta(base.rotary_theta),
            tied_head=bool(self.published.get("tie_word_embeddings", False)),
            vocabulary_size=self.size("vocab_size", base.vocabulary_size),
        )

    def require(self, **values: object) -> None:
        """Refuses other values than these; left out is right."""
        for name, value in values.items():
            if (given := self.published.get(name, value)) != value:
                raise ConversionError(
                    f"{name} of {self.family}'s config.json is {given!r}, but only "
                    f"{value!r} is supported; use weights of the published models."
                )


def check_config(config: ModelConfig, published: ModelConfig) -> None:
    """Refuses a config that computes something else than the published one.

    Args:
      config: the model's.
      published: from the `model_config` of the family.

    Raises:
      ConversionError: naming the first field that differs.
    """
    for name in _COMPARED:
        ours, theirs = getattr(config, name), getattr(published, name)
        if ours != theirs:
            raise ConversionError(
                f"{name} is {ours!r}, but the published config.json says {theirs!r}; "
                "choose the preset of these weights."
            )
