"""Speed and memory, measured side by side in one process."""

from lambdanets.benchmarks.callbacks import callbacks
from lambdanets.benchmarks.inputs import inputs
from lambdanets.benchmarks.layers import layers
from lambdanets.benchmarks.loop import loop
from lambdanets.benchmarks.methods import methods
from lambdanets.benchmarks.networks import networks
from lambdanets.benchmarks.rows import rows
from lambdanets.benchmarks.scaling import scaling

__all__ = ["callbacks", "inputs", "layers", "loop", "methods", "networks", "rows", "scaling"]
