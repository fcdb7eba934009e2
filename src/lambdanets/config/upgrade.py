"""Configs of earlier versions under today's names, so that old runs and checkpoints stay usable.

Whoever moves a class that configs name, or renames a key, adds a line here. No import of torch.
"""

from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from lambdanets.config.allowlist import find_targets


class NewOption(NamedTuple):
    """An option that earlier versions didn't have.

    Args:
        former: the value that is equal to what those versions did.
        default: the value of an option that is left out today.
    """

    former: Any
    default: Any


# Where classes and functions were: old `_target_`, new one.
TARGETS = {
    "lambdanets.jobs.tensorboard_log.TensorBoardLog": "lambdanets.runs.tensorboard_logger.ResilientTensorBoardLogger",
    "lambdanets.callbacks.EpochLine": "lambdanets.callbacks.EpochLogger",
    "lambdanets.callbacks.LambdaPictures": "lambdanets.callbacks.LambdaVisualization",
    "lambdanets.callbacks.Predictions": "lambdanets.callbacks.PredictionVisualization",
    "lambdanets.callbacks.ReceptiveField": "lambdanets.callbacks.ReceptiveFieldVisualization",
    "lambdanets.benchmarks.callbacks": "lambdanets.benchmarks.measure_callback_cost",
    "lambdanets.benchmarks.inputs": "lambdanets.benchmarks.measure_input_pipeline",
    "lambdanets.benchmarks.layers": "lambdanets.benchmarks.compare_layers",
    "lambdanets.benchmarks.loop": "lambdanets.benchmarks.measure_loop_overhead",
    "lambdanets.benchmarks.methods": "lambdanets.benchmarks.compare_methods",
    "lambdanets.benchmarks.networks": "lambdanets.benchmarks.compare_networks",
    "lambdanets.benchmarks.rows": "lambdanets.benchmarks.compare_experiments",
    "lambdanets.benchmarks.scaling": "lambdanets.benchmarks.measure_scaling",
}
# Keys of the whole config: the old one with those above it, joined by dots; its new name.
KEYS: dict[str, str] = {
    "like": "base_run",
    "callbacks.epoch_line": "epoch_logger",
    "callbacks.lambda_pictures": "lambdas",
}
# Options of a class or function: today's `_target_`, then old name and new one.
OPTIONS: dict[str, dict[str, str]] = {
    "lambdanets.benchmarks.measure_callback_cost": {"train": "trainings"},
    "lambdanets.benchmarks.measure_loop_overhead": {"train": "trainings"},
    "lambdanets.jobs.report.run": {"keep": "archive_to"},
    "lambdanets.data.CIFAR10": {"val_share": "val_size"},
    "lambdanets.data.CIFAR100": {"val_share": "val_size"},
    "lambdanets.data.Coco": {"val_share": "val_size"},
    "lambdanets.data.Digits": {"val_share": "val_size"},
    "lambdanets.data.FashionMNIST": {"val_share": "val_size"},
    "lambdanets.data.ImageFolder": {"val_share": "val_size", "crop_share": "crop_ratio"},
    "lambdanets.data.ImageNet": {"val_share": "val_size", "crop_share": "crop_ratio"},
    "lambdanets.data.Packed": {"val_share": "val_size", "crop_share": "crop_ratio"},
    "lambdanets.jobs.find_batch_size.run": {"start": "initial_batch_size", "most": "max_batch_size"},
    "lambdanets.callbacks.LambdaVisualization": {"share": "time_budget"},
    "lambdanets.callbacks.PredictionVisualization": {"share": "time_budget"},
    "lambdanets.callbacks.Profiler": {"rows": "table_rows"},
    "lambdanets.callbacks.ReceptiveFieldVisualization": {"share": "time_budget"},
    "lambdanets.mixers.Augmented": {
        "value_share": "value_ratio",
        "key_share": "key_ratio",
        "least_key_depth": "min_key_depth",
    },
    "lambdanets.mixers.LocalRelation": {"share": "group_channels"},
    "lambdanets.mixers.PatchwiseAttention": {"share": "group_channels"},
    "lambdanets.jobs.pack.run": {"to": "output_dir"},
}
# Values of options: today's `_target_` and option, then old value and new one.
VALUES: dict[tuple[str, str], dict[Any, Any]] = {
    ("lambdanets.mixers.LambdaConv", "method"): {"rows": "row_fft"},
    ("lambdanets.mixers.LambdaLayer", "method"): {"rows": "row_fft"},
    ("lambdanets.mixers.SharedLambda", "method"): {"rows": "row_fft"},
}
# Options that stored configs may lack: today's `_target_`, then the option.
NEW_OPTIONS: dict[str, dict[str, NewOption]] = (
    {
        f"lambdanets.mixers.{mixer}": {"init": NewOption(former="small", default="paper")}
        for mixer in ("LambdaConv", "LambdaLayer", "SharedLambda")
    }
    | {
        f"lambdanets.models.{network}": {"grad_checkpointing": NewOption(former=False, default=False)}
        for network in ("EfficientNet", "MobileNet", "ResNet")
    }
    | {
        f"lambdanets.tasks.{task}": {"final_epochs": NewOption(former=0, default=0)}
        for task in ("Classification", "Detection")
    }
)


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's config as this version would write it.

    Args:
        config: a nested config of plain values and interpolations, of this version or an earlier one.
    """
    return upgrade_node(config)


def upgrade_node(node: Any, path: str = "") -> Any:
    """Return one node of a config with its keys, targets, options and their values renamed, and with new options.

    Args:
        node: a plain value, a list or a mapping.
        path: old keys that lead to the node, each with a dot behind it.
    """
    if isinstance(node, list):
        return [upgrade_node(item, f"{path}*.") for item in node]
    if not isinstance(node, dict):
        return node
    target = TARGETS.get(node.get("_target_", ""), node.get("_target_"))
    options = OPTIONS.get(str(target), {})
    upgraded = {}
    for key, value in node.items():
        below = f"{path}{key}."
        key = options.get(key, KEYS.get(f"{path}{key}", key))
        values = VALUES.get((str(target), str(key)), {})
        upgraded[key] = values[value] if isinstance(value, str) and value in values else upgrade_node(value, below)
    new_options = {option: new.former for option, new in NEW_OPTIONS.get(str(target), {}).items()}
    return new_options | upgraded | ({"_target_": target} if "_target_" in node else {})


def write_new_options(config: DictConfig) -> None:
    """Write the new options that a config leaves out into it, so that it isn't taken for one of an earlier version."""
    for key, target in find_targets(OmegaConf.to_container(config)):
        parent, _, _ = key.rpartition(".")
        for option, new in NEW_OPTIONS.get(str(target), {}).items():
            if option not in OmegaConf.select(config, parent):
                OmegaConf.update(config, f"{parent}.{option}", new.default, force_add=True)
