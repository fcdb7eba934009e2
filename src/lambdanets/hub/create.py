"""Networks of the configs as Python objects."""

from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from lambdanets.config.build import ImageSpec, build_model
from lambdanets.error_messages import error_message
from lambdanets.errors import UserError
from lambdanets.hub.compose import compose_packaged
from lambdanets.hub.pretrained import load_pretrained


def create(
    model: str = "lambda_resnet50",
    *,
    mixer: str = "lambda",
    pretrained: str | None = None,
    image_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    num_classes: int = 1000,
    overrides: Sequence[str] = (),
) -> nn.Module:
    """Create a network of the configs, (B, in_channels, H, W) → (B, num_classes), with new or trained weights.

    `create("resnet50", mixer="lambda_conv", overrides=["mixer.scope=23", "model.layout=CCLL"])` creates the network
    that `python run.py model=resnet50 mixer=lambda_conv mixer.scope=23 model.layout=CCLL` trains.

    Args:
        model: a choice of configs/model.
        mixer: a choice of configs/mixer.
        pretrained: source of the weights: a run's folder, a checkpoint, a folder of job=export, `<user>/<name>` on the
            Hugging Face hub, or a network of timm's there, such as `timm/lambda_resnet26t.c1_in1k` for
            model="lambda_resnet26t". A classifier of another number of classes keeps its new weights.
        image_size: side of square images, or (H, W); mixers with a global scope are built for it.
        in_channels: channels of the images.
        num_classes: number of logits.
        overrides: keys of the config and their values, as on the command line.

    Raises:
        UserError: a name or a key is not known, or the weights don't match the network.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    try:
        config = compose_packaged([f"model={model}", f"mixer={mixer}", *overrides])
        network = build_model(config, ImageSpec(in_channels, size, num_classes))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(error_message(error) or str(error)) from error
    if pretrained is not None:
        load_pretrained(network, pretrained)
    return network
