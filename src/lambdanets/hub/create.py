"""Networks of the configs and published networks as Python objects."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from lambdanets.config.build import ImageSpec, build_data, build_model
from lambdanets.error_messages import error_message
from lambdanets.errors import UserError
from lambdanets.hub.compose import compose_packaged, list_choices
from lambdanets.hub.load import validated_config
from lambdanets.hub.pretrained import load_pretrained
from lambdanets.runs.checkpoints import read_checkpoint
from lambdanets.runs.published import published_file, published_names, suggest_names


def create(
    model: str = "lambda_resnet50",
    *,
    mixer: str | None = None,
    pretrained: str | Path | bool | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    num_classes: int | None = None,
    overrides: Sequence[str] = (),
) -> nn.Module:
    """Create a network, (B, in_channels, H, W) → (B, num_classes), with new or trained weights.

    `create("resnet50", mixer="lambda_conv", overrides=["mixer.scope=23", "model.layout=CCLL"])` creates the network
    that `python run.py model=resnet50 mixer=lambda_conv mixer.scope=23 model.layout=CCLL` trains, and
    `create("cifar10/lambda_u1", pretrained=True)` a published one with its weights. It is in training mode.

    Args:
        model: a choice of configs/model, or the name of published weights; `list_models` has all of them.
        mixer: a choice of configs/mixer; None: lambda. Published networks have their own.
        pretrained: True: the published weights of that name. Or the source of the weights: a run's folder, a
            checkpoint, a folder of job=export, the name of published weights, `<user>/<name>` on the Hugging Face hub,
            or a network of timm's there, such as `timm/lambda_resnet26t.c1_in1k` for model="lambda_resnet26t". A
            classifier of another number of classes keeps its new weights. None or False: new weights.
        image_size: side of square images, or (H, W); mixers with a global scope are built for it. None: 224, or as
            published.
        in_channels: channels of the images. None: 3, or as published.
        num_classes: number of logits. None: 1000, or as published.
        overrides: keys of the config and their values, as on the command line; not for published networks.

    Raises:
        UserError: a name or a key is not known, or the weights don't match the network.
    """
    published = published_file(model)
    if published is not None:
        if mixer is not None or overrides:
            raise UserError(
                f"'{model}' is published with a mixer and options of its own: leave out mixer and overrides, or create "
                f"another model with pretrained='{model}'."
            )
        config, images = read_published(published)
        if pretrained is True and in_channels not in (None, images.channels):
            raise UserError(
                f"'{model}' has weights for in_channels={images.channels}, not {in_channels}: leave out in_channels or "
                "set pretrained=False."
            )
    elif "/" in model:
        raise UserError(f"'{model}' is not known.{suggest_names(model)} lambdanets.list_models() has all names.")
    elif pretrained is True:
        names = ", ".join(published_names()) or "none yet"
        raise UserError(
            f"'{model}' has no published weights; pretrained=True works with {names}. To load others, "
            "name their source: pretrained='<a run, a file or an exported folder>'."
        )
    else:
        config, images = compose_model(model, mixer or "lambda", overrides), ImageSpec(3, (224, 224), 1000)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    classes = images.classes if num_classes is None else num_classes
    try:
        network = build_model(config, ImageSpec(in_channels or images.channels, size or images.size, classes))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(error_message(error) or str(error)) from error
    if pretrained not in (None, False):
        load_pretrained(network, str(published if pretrained is True else pretrained))
    return network


def compose_model(model: str, mixer: str, overrides: Sequence[str]) -> DictConfig:
    """Return the config of a model and a mixer.

    Raises:
        UserError: a name or a key is not known.
    """
    try:
        return compose_packaged([f"model={model}", f"mixer={mixer}", *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(error_message(error) or str(error)) from error


def read_published(file: Path) -> tuple[DictConfig, ImageSpec]:
    """Return the config of published weights, and the images and classes that they are for."""
    checkpoint = read_checkpoint(file)
    config = validated_config(OmegaConf.create(checkpoint["config"]), ())
    data = build_data(config)
    return config, ImageSpec(data.channels, data.image_size, len(checkpoint["labels"]["classes"]))


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """List the names that `create` accepts, sorted: the models of configs/model, and the published weights.

    Args:
        pattern: of the names, such as "lambda_resnet*" or "cifar10/*".
        pretrained: list the published weights only, which `create(name, pretrained=True)` and `load(name)` open.
    """
    names = published_names() if pretrained else [*list_choices("model"), *published_names()]
    return [name for name in names if fnmatchcase(name, pattern)]
