"""Single-line messages for exceptions that a user can fix."""

import difflib
import errno
import re
import sys
from collections.abc import Iterator

from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from lambdanets.console import program_name
from lambdanets.errors import UserError

# The disk is full, the quota is reached, or the file exceeds the size limit.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The system doesn't permit it, or a file is in the place of a folder.
UNUSABLE_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


def error_message(error: BaseException) -> str | None:
    """Return what is wrong, what was given and what to do; or None for a defect of the program."""
    chain = list(exception_chain(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in chain:
        match cause:
            case MissingConfigException(missing_cfg_file=str(file)) if file.startswith(("experiment/", "sweep/")):
                group, _, choice = file.partition("/")  # these groups have subfolders
                return f"{group}={choice} is not known; {program_name()} --help lists the choices."
            case MissingConfigException(options=options, missing_cfg_file=str(file)) if options:
                group, _, choice = file.rpartition("/")
                return f"{group}={choice} is not known; choose one of {', '.join(sorted(options))}."
            case MissingConfigException():
                return single_line(cause).split(" Config search path:")[0]
            case ConfigAttributeError() | ConfigKeyError():
                return unknown_key(cause)
            case InterpolationKeyError():
                return missing_interpolation(cause)
            case MissingMandatoryValue():
                key = str(cause).split(": ")[-1].split()[0]
                return f"{key} is required: set {key}=…"
            case ValueError() if "Config group override must be" in str(cause):
                # Hydra doesn't name the group.
                chosen = " ".join(argument for argument in sys.argv[1:] if re.fullmatch(r"[\w/@]+=null", argument))
                return f"{chosen or 'null'} is no choice of a config group; {program_name()} --help lists the choices."
            case ValueError() if "No trials are completed" in str(cause):  # of Optuna
                return "No trial of the sweep ended with a score: see the errors above, or failed.json in its folders."
            case OverrideParseException(override=str(override)):
                key, _, value = override.partition("=")
                return (
                    f"{override} cannot be read as key=value ({single_line(cause).split(' See https')[0]}): put quotes "
                    f"around a value with special characters, within those of the shell: '{key}=\"{value}\"'."
                )
            case TypeError() if "unexpected keyword argument" in str(cause):
                return f"{single_line(cause)}: leave that key out of the config."
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return (
                f"The disk is full or its quota is reached ({cause}). The last checkpoint is intact: free some space, "
                "then resume with ckpt=last."
            )
        if isinstance(cause, IsADirectoryError) and cause.filename is not None:
            path = cause.filename2 or cause.filename  # of a file that is renamed, its new name
            return f"'{path}' is a folder where a file is expected: move it away."
    for cause in reversed(chain):
        # By name, since this module must not import torch.
        match type(cause).__name__:
            case "OutOfMemoryError":
                return "The GPU is out of memory: lower recipe.batch_size, or set trainer.precision=bf16-mixed."
            case "MisconfigurationException":
                return single_line(cause)
    for cause in chain:
        if isinstance(cause, InstantiationException) and isinstance(cause.__cause__, TypeError | ValueError):
            return single_line(cause)
        if isinstance(cause, HydraException | OmegaConfBaseException) and not isinstance(cause, InstantiationException):
            return single_line(cause)
    return None


def path_message(error: BaseException) -> str | None:
    """Return the message for a path that a job can't use, of which the system's own error has the reason; else None."""
    for cause in exception_chain(error):
        if isinstance(cause, OSError) and cause.errno in UNUSABLE_PATH and cause.filename is not None:
            path = cause.filename2 or cause.filename
            return f"'{path}' can't be used ({cause.strerror}): give another path, or change what is there."
    return None


def exception_chain(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and its causes, outermost first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def unknown_key(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or error.key)
    parent, _, last = key.rpartition(".")
    siblings = [str(name) for name in error.parent_node] if error.parent_node is not None else []
    matches = difflib.get_close_matches(last, siblings, n=1)
    prefix = f"{parent}." if parent else ""
    advice = f"did you mean {prefix}{matches[0]}?" if matches else f"known keys: {', '.join(siblings)}."
    return f"{key} is not a key of the config; {advice}"


def missing_interpolation(error: OmegaConfBaseException) -> str:
    """Return the message for a value that refers to a missing key; usually two config groups that do not match."""
    key, target = str(error.full_key or error.key), str(error).split("'")[1]
    (group, _, _), (target_group, dot, _) = key.partition("."), target.partition(".")
    if not dot:
        return f"{key} refers to {target}, which is not a key of the config: set {key}, or add {target} to the config."
    return (
        f"{key} refers to {target}, but the chosen {target_group} has no such key: choose another {group}=… or "
        f"{target_group}=…."
    )


def single_line(error: BaseException) -> str:
    return " ".join(str(error).split())
