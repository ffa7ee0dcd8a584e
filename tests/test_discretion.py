"""Nothing that lets anyone in stays in a text, and nothing else goes from it."""

import pytest

from hubconv.discretion import without_secrets


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "aB3" * 11 + "x",
        "hf_transferredtoken",
        "hf_oauth_eyJhbGciOi.abc-def_ghi",
        "hf_jwt_abc.def",
        "Bearer abc.def",
        "eyJhbGciOiJSUzI1.eyJzdWIiOiJy.c2lnbmF0dXJl",
    ],
)
def test_whatever_lets_in_goes(secret):
    shown = without_secrets(f"before {secret} after")
    assert secret.removeprefix("Bearer ") not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize("word", ["hf_transfer", "hf_xet", "HF_TOKEN", "HF_HUB_OFFLINE"])
def test_names_of_libraries_and_variables_stay(word):
    text = f"model.safetensors: {word}, 199.1 MB"
    assert without_secrets(text) == text
