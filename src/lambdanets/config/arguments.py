"""The arguments of a command line, prepared for Hydra: order, paths, and overrides of a run. No import of torch."""

import os
import re
from collections.abc import Sequence

from lambdanets.config.keys import COMMAND_KEYS, LABEL_KEYS, PATH_KEYS, RUN_KEYS, is_key_in, override_key

# An override, as opposed to an option such as --multirun and its value.
OVERRIDE = re.compile(r"[+~]*[A-Za-z_][\w./@-]*=|~[A-Za-z_]", re.DOTALL)
MULTIRUN_OPTIONS = ("--multirun", "-m")
OPTIONS_WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p")
# Words that Hydra reads as other values than text.
WORDS = ("true", "false", "nan", "inf")
HYDRA_PATHS = ("hydra.run.dir", "hydra.sweep.dir")


def prepare_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra reads them.

    - Options come before overrides, which Hydra requires to follow each other.
    - `~` is expanded in paths, and a path with `=` or other special characters is quoted.
    - Where `ckpt=` or `base_run=` names a run, its own config has the keys that may be overridden, and not the default
      one, against which Hydra would check them: each becomes `++key=value`. `apply_overrides` checks them.

    Args:
        arguments: of the command line, without the program.
    """
    overrides: list[str] = []
    options: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_override = OVERRIDE.match(argument) and before not in OPTIONS_WITH_VALUE
        (overrides if is_override else options).append(argument)
    sweeping = any(option in MULTIRUN_OPTIONS for option in options)
    overrides = [prepare_path(override, sweeping=sweeping) for override in overrides]
    if any(override.split("=", 1)[0] in RUN_KEYS and names_run(override) for override in overrides):
        overrides = [loosen(override) for override in overrides]
    return [*options, *overrides]


def names_run(override: str) -> bool:
    return override.split("=", 1)[-1] not in ("null", "")


def prepare_path(override: str, *, sweeping: bool) -> str:
    """Expand and quote the path that an override sets, if it sets one.

    Args:
        override: an override.
        sweeping: whether commas separate the values of a sweep.
    """
    key, equals, value = override.partition("=")
    if override_key(override) not in (*PATH_KEYS, *HYDRA_PATHS) or not equals:
        return override
    # Lists, sweeps of Hydra's own syntax, quoted text and interpolations stand as they are.
    if value[:1] in ("[", "{", "'", '"', "") or "${" in value or re.match(r"\w+\(", value):
        return override
    return f"{key}={','.join(map(quote_path, value.split(',') if sweeping else [value]))}"


def quote_path(path: str) -> str:
    """Return a path as Hydra reads it, with the home folder in the place of `~`."""
    path = os.path.expanduser(path)
    is_plain = re.fullmatch(r"([A-Za-z_/]|\.\.?/)[\w./-]*", path, flags=re.ASCII) and path.lower() not in WORDS
    if is_plain or path.lower() == "null":
        return path
    # In quotes, a backslash has a meaning only before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), path)
    return f"'{escaped}'"


def loosen(override: str) -> str:
    """Return an override of a run's config in the form that Hydra doesn't check against the default config."""
    key = override_key(override)
    is_value = re.match(r"[A-Za-z_]\w*(\.\w+)+=", override) is not None
    if not is_value or is_key_in(key, (*COMMAND_KEYS, *LABEL_KEYS, "hydra")):
        return override
    return f"++{override}"
