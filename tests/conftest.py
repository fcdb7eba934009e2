"""For all tests."""

from lambdanets.bolts import bolts

# Warnings travel from pytest's workers with their class, which must then be importable: bolts is, once it was here.
bolts("utils.stability")
