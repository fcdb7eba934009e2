"""For all tests."""

import torch

from lambdanets.bolts import import_bolts

# Two workers test side by side on a small machine; with more threads than cores, each waits for all others.
torch.set_num_threads(1)

# Warnings travel from pytest's workers with their class, which must then be importable: bolts is, once it was here.
import_bolts("utils.stability")
