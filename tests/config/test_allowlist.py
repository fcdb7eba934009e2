"""What a config may call."""

import pytest
from omegaconf import OmegaConf

from lambdanets.config.allowlist import check_targets
from lambdanets.config.overrides import apply_overrides
from lambdanets.errors import UserError


@pytest.mark.parametrize(
    "target",
    [
        "lambdanets.mixers.LambdaLayer",
        "lambdanets.data.Digits",
        "torch.optim.AdamW",
        "torch.nn.Linear",
        "torchvision.transforms.v2.RandomErasing",
        "torchmetrics.Accuracy",
        "pytorch_lightning.Trainer",
    ],
)
def test_known_packages_may_be_called(target):
    check_targets(OmegaConf.create({"a": [{"_target_": target}]}))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "torch.os.system",
        "lambdanets.runs.provenance.subprocess.run",
        "lambdanets.cli.main",
        "torch.hub.load",
        "torch.load",
        "torch.utils.cpp_extension.load_inline",
        "torchvision.datasets.folder.os.remove",
        "torchx.anything",
        "lambdanets.ops.compiler.compiled",
    ],
)
def test_others_are_refused_with_a_sentence(target):
    config = OmegaConf.create({"model": {"block": [{"_target_": target}]}})
    with pytest.raises(UserError, match=r"model.block.0._target_=\S+ is refused"):
        check_targets(config)
    config.allow_targets = [target]
    check_targets(config)


def test_a_stored_config_cannot_allow_itself_anything():
    stored = OmegaConf.create({"allow_targets": ["os"], "model": {"_target_": "os.system"}})
    with pytest.raises(UserError, match="is refused"):
        check_targets(apply_overrides(stored, OmegaConf.create({"allow_targets": None}), [], source="r"))
