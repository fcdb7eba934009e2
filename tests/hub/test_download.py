"""Downloads that fail."""

import sys

import pytest

import lambdanets
from lambdanets.errors import UserError


def test_a_model_that_the_hub_lacks(hub):
    with pytest.raises(UserError, match="'no/such' could not be downloaded from the Hugging Face hub"):
        lambdanets.load("hf-hub:no/such")


def test_a_missing_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="huggingface-hub is not installed: pip install"):
        lambdanets.load("hf-hub:no/such")
