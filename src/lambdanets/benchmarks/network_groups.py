"""benchmark=networks: whole networks in training and inference."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from lambdanets.benchmarks.candidates import LambdaNetworksMixer, import_peer, make_available
from lambdanets.benchmarks.measure import Setting, measure_matrix_rate
from lambdanets.benchmarks.result import Result
from lambdanets.benchmarks.roofline import count_multiply_adds
from lambdanets.mixers import Attention, Conv, LambdaLayer
from lambdanets.models import ResNet
from lambdanets.peers import timm_network
from lambdanets.progress import progress_bar
from lambdanets.table import format_percentage


def compare_networks(setting: Setting, *, batch: int, compare: list[str]) -> Result:
    """Compare the networks of each group, which compute the same or similar functions.

    Args:
        setting: the conditions of the measurement.
        batch: images.
        compare: keys of GROUPS.

    Returns:
        One row per network; ratios are to the first network of its group.
    """
    columns = ["group", "network", "image", "M parameters", "train img/s", "infer img/s", "peak MiB"]
    columns += ["train ratio", "infer ratio", "train of the rate", "infer of the rate"]
    plot = {"kind": "bars", "x": "group", "y": "train img/s", "line": "network"}
    result = Result("Whole networks", columns, setting=setting, plot=plot)
    with setting.apply():
        rate = measure_matrix_rate(setting)
        for group in progress_bar(compare, "groups"):
            side, network_factories = GROUPS[group]
            x = setting.make_images(batch, 3, (side, side))
            models, missing = make_available(network_factories(side))
            models = {name: setting.place(model) for name, model in models.items()}
            result.notes += missing
            train, infer, peak = setting.measure_modules(models, x)
            first = next(iter(models))
            for name, model in models.items():
                with torch.autocast(x.device.type, torch.bfloat16, enabled=setting.precision == "bfloat16"):
                    multiply_adds = count_multiply_adds(model.eval(), x)
                result.rows.append(
                    {
                        "group": group,
                        "network": name,
                        "image": f"{side}²",
                        "M parameters": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
                        "train img/s": batch / train[name],
                        "infer img/s": batch / infer[name],
                        "peak MiB": peak[name],
                        "train ratio": train[first] / train[name],
                        "infer ratio": infer[first] / infer[name],
                        "train of the rate": format_percentage(3 * multiply_adds / train[name] / rate),
                        "infer of the rate": format_percentage(multiply_adds / infer[name] / rate),
                    }
                )
    result.notes.append("Ratios: images/s of a network over those of the first network of its group.")
    result.notes.append(
        f"Of the rate: the multiply-adds that the operators of a forward pass count, three times as many in "
        f"training, as part of the {2e-12 * rate:,.3g} TFLOP/s of a large matrix product."
    )
    return result


def make_lambda_resnets(layout: str, side: int) -> dict[str, Callable[[], nn.Module]]:
    size: dict[str, Any] = {"layout": layout, "image_size": (side, side)}
    return {
        f"{layout} 23×23, lambda-networks' layer": lambda: ResNet(partial(LambdaNetworksMixer, scope=23), **size),
        f"{layout} 23×23, ours": lambda: ResNet(partial(LambdaLayer, scope=23), **size),
    }


def make_timm_pair(name: str, side: int) -> dict[str, Callable[[], nn.Module]]:
    make_theirs = cache(lambda: import_peer("timm").create_model(name))
    return {f"timm {name}": make_theirs, f"ours, as {name}": lambda: timm_network(name, make_theirs().state_dict())}


def make_baselines(side: int) -> dict[str, Callable[[], nn.Module]]:
    size: dict[str, Any] = {"image_size": (side, side)}
    return {
        "ResNet-50": lambda: ResNet(Conv, **size),
        "BoTNet-50 (attention in c5)": lambda: ResNet(Attention, layout="CCCL", **size),
        "LambdaResNet-50 CCLL, global": lambda: ResNet(partial(LambdaLayer, scope="global"), layout="CCLL", **size),
        "LambdaResNet-50 CCCL, global": lambda: ResNet(partial(LambdaLayer, scope="global"), layout="CCCL", **size),
    }


GROUPS: dict[str, tuple[int, Callable[[int], dict[str, Callable[[], nn.Module]]]]] = {
    "LLLL": (224, partial(make_lambda_resnets, "LLLL")),
    "CCLL": (224, partial(make_lambda_resnets, "CCLL")),
    "lambda_resnet26t": (256, partial(make_timm_pair, "lambda_resnet26t")),
    "lambda_resnet26rpt_256": (256, partial(make_timm_pair, "lambda_resnet26rpt_256")),
    "lambda_resnet50ts": (256, partial(make_timm_pair, "lambda_resnet50ts")),
    "ResNet-50": (224, make_baselines),
}
