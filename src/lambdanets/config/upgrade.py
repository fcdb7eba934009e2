"""Configs of earlier versions under today's names, so that old runs and checkpoints stay usable.

Whoever moves a class that configs name, or renames a key, adds a line here. No import of torch.
"""

from typing import Any

# Where classes and functions were: old `_target_`, new one.
TARGETS = {
    "lambdanets.jobs.tensorboard_log.TensorBoardLog": "lambdanets.runs.tensorboard_logger.ResilientTensorBoardLogger",
}
# Keys of the whole config: old name, new one.
KEYS: dict[str, str] = {}
# Options of a class or function: today's `_target_`, then old name and new one.
OPTIONS: dict[str, dict[str, str]] = {
    "lambdanets.jobs.find_batch_size.run": {"start": "initial_batch_size", "most": "max_batch_size"},
}
# Values of options: today's `_target_` and option, then old value and new one.
VALUES: dict[tuple[str, str], dict[Any, Any]] = {}


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's config as this version would write it.

    Args:
        config: a nested config of plain values and interpolations, of this version or an earlier one.
    """
    return upgrade_node({KEYS.get(key, key): value for key, value in config.items()})


def upgrade_node(node: Any) -> Any:
    """Return one node of a config with its targets, options and their values renamed."""
    if isinstance(node, list):
        return [upgrade_node(item) for item in node]
    if not isinstance(node, dict):
        return node
    target = TARGETS.get(node.get("_target_", ""), node.get("_target_"))
    options = OPTIONS.get(str(target), {})
    upgraded = {}
    for key, value in node.items():
        key = options.get(key, key)
        values = VALUES.get((str(target), str(key)), {})
        upgraded[key] = values[value] if isinstance(value, str) and value in values else upgrade_node(value)
    return upgraded | ({"_target_": target} if "_target_" in node else {})
