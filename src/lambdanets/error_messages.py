"""From an exception to the one sentence that its maker needs."""

import difflib
import errno
from collections.abc import Iterator

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from lambdanets.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def error_message(error: BaseException) -> str | None:
    """What is wrong, what was given, what to do; or None for an error that is not the user's."""
    chain = list(exception_chain(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in chain:
        match cause:
            case MissingConfigException(missing_cfg_file=str(file)) if file.startswith(("experiment/", "sweep/")):
                group, _, choice = file.partition("/")  # a choice of these may have folders itself
                return f"{group}={choice} is not known; python run.py --help lists those that are."
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
                return f"{key} has no value yet: give it, as {key}=…"
            case TypeError() if "unexpected keyword argument" in str(cause):
                return f"{single_line(cause)}: leave that key out of the config."
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in FULL:
            place = f" '{cause.filename}'" if cause.filename else ""
            return (
                f"The disk is full, or its quota reached ({cause.strerror}{place}): the run has stopped and its last "
                "checkpoint is whole; make room, then go on with ckpt=last."
            )
    for cause in reversed(chain):
        # Named, not imported: this module is loaded before torch is.
        match type(cause).__name__:
            case "OutOfMemoryError":
                return "The GPU's memory is full: lower recipe.batch_size, or set trainer.precision=bf16-mixed."
            case "MisconfigurationException":
                return single_line(cause)
    for cause in chain:
        if isinstance(cause, InstantiationException) and isinstance(cause.__cause__, TypeError | ValueError):
            return single_line(cause)
        if isinstance(cause, HydraException | OmegaConfBaseException) and not isinstance(cause, InstantiationException):
            return single_line(cause)
    return None


def exception_chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def unknown_key(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or error.key)
    parent, _, last = key.rpartition(".")
    known = [str(name) for name in error.parent_node] if error.parent_node is not None else []
    near = difflib.get_close_matches(last, known, n=1)
    advice = f"did you mean {f'{parent}.' if parent else ''}{near[0]}?" if near else f"known there: {', '.join(known)}."
    return f"{key} is not a key of the config; {advice}"


def missing_interpolation(error: OmegaConfBaseException) -> str:
    """Of a key that takes its value from another one, which isn't there: as a rule, groups that don't fit."""
    key, wanted = str(error.full_key or error.key), str(error).split("'")[1]
    (group, _, _), (other, dot, _) = key.partition("."), wanted.partition(".")
    if not dot:
        return f"{key} takes {wanted}, which is not a key of the config: give {key} a value, or the config that key."
    brought = "; task=detection brings those for COCO." if other == "recipe" else "."
    return (
        f"{key} takes {wanted}, which this {other} doesn't have, so that the two don't fit: choose another {group}=… "
        f"or {other}=…{brought}"
    )


def single_line(error: BaseException) -> str:
    return " ".join(str(error).split())
