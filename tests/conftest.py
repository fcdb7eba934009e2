"""For all tests."""

import os

# Two workers test side by side on a small machine; with more threads than cores, each waits for all others. The
# variable, since a run that starts in a worker's process sets the number of threads anew.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

# Without a GPU, Triton's programs run in its interpreter. Triton reads this when it is imported, later than torch.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from contextlib import suppress

from lambdanets.bolts import import_bolts
from lambdanets.errors import UserError

# Warnings travel from pytest's workers with their class, which must then be importable: bolts is, once it was here.
# `make gpu` needs no bolts.
with suppress(UserError):
    import_bolts("utils.stability")
