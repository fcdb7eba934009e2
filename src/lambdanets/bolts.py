"""Import of lightning-bolts under Lightning 2."""

import importlib
import sys
import warnings
from types import ModuleType

from lightning_utilities.core import apply_func

from lambdanets.errors import UserError

BOLTS_COMMAND = "pip install --no-deps lightning-bolts==0.7.0"  # its release asks for an older Lightning


def import_bolts(module: str) -> ModuleType:
    """Import `pl_bolts.<module>`.

    lightning-bolts 0.7.0 was written for Lightning 1 and imports one module that has since moved to
    lightning-utilities. An alias under the old name is enough to import all of bolts.

    Raises:
        UserError: lightning-bolts is not installed.
    """
    sys.modules.setdefault("pytorch_lightning.utilities.apply_func", apply_func)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"pl_bolts.{module}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("pl_bolts"):
            raise
        raise UserError(
            f"This needs pl_bolts.{module}, and lightning-bolts is not installed: run "
            f"'{BOLTS_COMMAND}' (make and uv install it automatically)."
        ) from None
