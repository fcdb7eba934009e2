"""Small checkpoints that no training has to write."""

import torch
from omegaconf import OmegaConf

from lambdanets.config import experiments
from lambdanets.config.build import ImageSpec, build_model
from tests.configs import composing

CLASSES = [str(digit) for digit in range(10)]
# Overrides of model=tiny: one layer per stage.
SHALLOW = ("model=tiny", "model.depth=[1,1]", "model.layout=LL", "model.strides=[1,2]")


def write_checkpoint(folder, overrides):
    """Write best.ckpt, with weights and statistics as no initialization has them.

    Returns:
        The config, whose ckpt is that file, the network in evaluation mode, and five images for it.
    """
    with composing():
        config = experiments.compose_config(overrides)
    torch.manual_seed(0)
    size = config.data.get("image_size", 8)
    channels = 3 if config.data.get("image_size") else 1
    network = build_model(config, ImageSpec(channels, (size, size), len(CLASSES)))
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand_like(tensor) if "running_var" in name else 0.05 * torch.randn_like(tensor))
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    file = folder / "best.ckpt"
    labels = {"classes": CLASSES}
    torch.save({"state_dict": state, "config": OmegaConf.to_container(config), "labels": labels}, file)
    config.ckpt = str(file)
    return config, network.eval(), torch.randn(5, channels, size, size)
