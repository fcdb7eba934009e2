"""Which keys of the config belong to the command or to the machine, and not to the experiment.

Every other module derives its list from here. No import of torch.
"""

# The job and the arguments of single jobs. A command gives them anew, whichever run it works on.
COMMAND_KEYS = (
    "job",
    "ckpt",
    "base_run",
    "allow_targets",
    "input",
    "format",
    "sweep_dir",
    "benchmark",
    "claims",
)
# The name of a run, and the sweep that it belongs to.
LABEL_KEYS = ("name", "sweep")
# Where and on what a run is computed. The same experiment on another machine may differ in them.
MACHINE_KEYS = (
    "data.root",
    "data.num_workers",
    "data.decoder",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_progress_bar",
)
# Keys that may differ between two starts of the same run.
RESTART_KEYS = (*COMMAND_KEYS, *LABEL_KEYS, *MACHINE_KEYS)
# Keys that stay out of the folder name of a sweep's run: hydra.job.config.override_dirname.exclude_keys in config.yaml.
# The arguments of single jobs stay in, since a sweep may run over them, as over input or format.
UNNAMED_KEYS = ("job", "ckpt", "base_run", "allow_targets", *LABEL_KEYS, "sweep.experiments", *MACHINE_KEYS)
# Keys that belong to a sweep as a whole, and not to its rows.
SWEEP_KEYS = (*COMMAND_KEYS, *LABEL_KEYS, "experiment")
# Keys whose overrides don't distinguish two rows of a report.
UNREPORTED_KEYS = (*SWEEP_KEYS, "seed", "hydra", *MACHINE_KEYS)
# Keys that a network and the preparation of its images are built from, and the task that interprets its outputs.
NETWORK_KEYS = ("name", "seed", "mixer", "model", "data", "recipe", "task")


def override_key(override: str) -> str:
    """Return the key that an override of the command line sets: `model.layout` for `+model.layout=CCLL`."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0].replace("/", ".")


def is_key_in(key: str, keys: tuple[str, ...]) -> bool:
    """Return whether a dotted key is one of the keys, or lies below one of them."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in keys)
