"""The jobs of the command line; one file per job, each with `run(config, folder) -> dict[str, float]`."""
