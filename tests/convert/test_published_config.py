"""A config.json becomes an architecture, or one sentence."""

import dataclasses

import pytest

from tests.convert.golden_models import config, published
from unimod_jax.convert import LAYOUTS, ConversionError, check_config, read_config
from unimod_jax.presets import preset


def test_released_configs_are_the_presets():
    # What the released files' config.json say where they differ from the defaults.
    assert (
        LAYOUTS["chameleon"].model_config({}) == preset("chameleon_7b_released").model
    )
    large = {
        **{"hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 48},
        **{"num_attention_heads": 64, "num_key_value_heads": 8, "swin_norm": True},
    }
    expected = preset("chameleon_34b_released").model
    assert LAYOUTS["chameleon"].model_config(large) == expected
    assert LAYOUTS["emu3"].model_config({}) == preset("emu3").model
    assert LAYOUTS["emu3_hf"].model_config({"text_config": {}}) == preset("emu3").model
    show_o = {"vocab_size": 58498, "llm_vocab_size": 50295, "w_clip_vit": False}
    assert LAYOUTS["show_o"].model_config(show_o) == preset("show_o_512").model
    phi = {
        **{"vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192},
        **{"num_hidden_layers": 24, "num_attention_heads": 32, "rope_theta": 10000.0},
        **{"num_key_value_heads": None, "partial_rotary_factor": 0.5},
    }
    found = LAYOUTS["phi"].model_config(phi)
    assert found == dataclasses.replace(
        preset("show_o_512").model, qk_norm="none", vocabulary_size=51200
    )


def test_the_original_chameleon_tells_its_sizes_in_its_own_words():
    # params.json of the 34B: Llama's rule with a multiplier gives its 22,016.
    sizes = {"dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8}
    more = {"ffn_dim_multiplier": 1.0, "multiple_of": 256, "norm_eps": 1e-5}
    published = {"model": {**sizes, **more, "swin_norm": True}}
    found = LAYOUTS["chameleon_original"].model_config(published)
    assert found == preset("chameleon_34b_released").model


def test_a_config_is_found_beside_the_weights(tmp_path):
    assert read_config(tmp_path) is None
    (tmp_path / "params.json").write_text('{"model": {"dim": 8}}')
    assert read_config(tmp_path) == {"model": {"dim": 8}}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConversionError, match=r"config\.json holds no JSON object"):
        read_config(tmp_path)


def test_a_config_that_computes_something_else_is_named():
    given = config("emu3")
    check_config(dataclasses.replace(given, residual_dropout=0.0), given)
    with pytest.raises(ConversionError, match=r"rotary_theta is 10000\.0, but .* says"):
        check_config(dataclasses.replace(given, rotary_theta=1e4), given)


@pytest.mark.parametrize(
    ("layout", "wrong", "words"),
    [
        ("emu3", {"hidden_act": "gelu"}, "hidden_act .* is 'gelu', but only 'silu'"),
        ("emu3", {"hidden_size": "wide"}, "hidden_size .* is 'wide', which is no"),
        ("chameleon", {"vocab_size": -1}, "vocab_size .* is -1 and no positive"),
        ("chameleon", {"attention_bias": True}, "attention_bias .* is True, but only"),
        ("emu3", {"rope_scaling": {"type": "yarn"}}, "scales rotary positions"),
        ("phi", {"hidden_size": None}, "hidden_size .* is None"),
        (
            "chameleon_original",
            {"qk_normalization": False},
            "qk_normalization .* False",
        ),
    ],
)
def test_what_no_model_of_ours_computes_is_refused(layout, wrong, words):
    name = {"phi": "show_o", "chameleon_original": "chameleon"}.get(layout, layout)
    with pytest.raises(ConversionError, match=words):
        LAYOUTS[layout].model_config(published(name) | wrong)
