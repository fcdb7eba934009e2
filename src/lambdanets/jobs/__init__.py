"""What can be done with a config; one job a file, each `run(config, folder) -> dict[str, float]`."""
