"""Which keys of the config belong to the command or to the machine, and not to the experiment.

Every other module derives its list from here. No import of torch.
"""

SPLIT = "the images of the training and validation splits"
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
# Keys that name a run to continue, to test or to build on.
RUN_KEYS = ("ckpt", "base_run")
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
# Keys in which two runs of one training may differ: those that follow the seed, or say what a run records and how it
# gets its images, not what it learns. The number of processes counts as images per step, together with the batch size.
UNCOMPARED_KEYS = (
    *UNREPORTED_KEYS,
    "data.seed",
    "data.memory_gib",
    "data.prefetch",
    "callbacks",
    "checkpoint",
    "logger",
    "trainer.log_every_n_steps",
    "trainer.num_nodes",
    "trainer.strategy",
)
# Keys of the images per step and process; data and task have the recipe's.
BATCH_KEYS = ("recipe.batch_size", "data.batch_size", "task.batch_size")
# Keys whose values are paths, in which ~ is the home folder.
PATH_KEYS = (
    *RUN_KEYS,
    "input",
    "sweep_dir",
    "data.root",
    "model.backbone_ckpt",
    "model.pretrained",
    "job.output_dir",
    "job.archive_to",
    "job.images",
    "job.data_root",
    "job.redraw",
    "benchmark.root",
    "benchmark.shards",
)
# Keys that a training which resumes must leave as they are, and what depends on them.
START_KEYS = {
    "seed": "the initial weights and the order of the images",
    "mixer.init": "the initial weights",
    "model.pretrained": "the initial weights",
    "model.backbone_ckpt": "the initial weights",
    "recipe.start": "the initial weights",
    "recipe.optimizer._target_": "the optimizer's states",
    "recipe.decay_norm_and_bias": "the optimizer's parameter groups",
    "data._target_": SPLIT,  # job=pack shuffles the files
    "data.split_seed": SPLIT,
    "data.val_size": SPLIT,
    "data.limit": SPLIT,
    "data.train": SPLIT,
    "data.val": SPLIT,
    "data.size": SPLIT,
    "data.side": SPLIT,
    "data.difficulty": SPLIT,
    "data.train_images": SPLIT,
    "data.val_images": SPLIT,
    "data.test_images": SPLIT,
}
# Groups whose choice, repeated on a run that has it, leaves the run's own options as they are.
REPEATABLE_GROUPS = ("data", "mixer", "task", "recipe.optimizer")
# The keys that a choice of trainer= stands for; the others are the run's own.
TRAINER_CHOICE_KEYS = ("accelerator", "devices", "strategy", "num_nodes")
# Keys that a network and the preparation of its images are built from, and the task that interprets its outputs.
NETWORK_KEYS = ("name", "seed", "mixer", "model", "data", "recipe", "task")


def override_key(override: str) -> str:
    """Return the key that an override of the command line sets: `model.layout` for `+model.layout=CCLL`."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0].replace("/", ".")


def is_key_in(key: str, keys: tuple[str, ...]) -> bool:
    """Return whether a dotted key is one of the keys, or lies below one of them."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in keys)
