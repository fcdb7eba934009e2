"""Models that are compiled."""

import pytest
import torch

from lambdanets.config.build import compile_model
from lambdanets.config.experiments import compose_config
from lambdanets.errors import UserError
from tests.configs import composing


def compile_with(*overrides):
    """Compile a model that records the mode and return the modes it was compiled in."""
    modes = []
    model = torch.nn.Identity()
    model.compile = lambda mode: modes.append(mode)
    with composing():
        compile_model(compose_config(list(overrides)), model)
    return modes


@pytest.mark.parametrize(
    ("value", "mode"), [("true", "default"), ("default", "default"), ("reduce-overhead", "reduce-overhead")]
)
def test_a_model_is_compiled_in_the_mode_of_the_config(value, mode):
    assert compile_with(f"compile={value}") == [mode]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compile=fast"], "compile=fast is not known: choose true, false or one of default, reduce-overhead"),
        (["compile=max-autotune", "trainer.accumulate_grad_batches=2"], "set trainer.accumulate_grad_batches=1"),
        (["compile=reduce-overhead", "task=detection", "data.root=x"], "images differ in size here: set compile=true"),
    ],
)
def test_modes_that_cannot_work_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        compile_with(*overrides)


def test_gradients_may_accumulate_and_sizes_differ_without_cuda_graphs():
    assert compile_with("compile=max-autotune-no-cudagraphs", "trainer.accumulate_grad_batches=2") == [
        "max-autotune-no-cudagraphs"
    ]
    assert compile_with("compile=true", "task=detection", "data.root=x") == ["default"]
