"""Speed and memory, measured side by side in one process."""

from lambdanets.benchmarks.callback_cost import measure_callback_cost
from lambdanets.benchmarks.experiment_networks import compare_experiments
from lambdanets.benchmarks.figure2 import compare_speed_and_accuracy
from lambdanets.benchmarks.gpu_model import predict_gpu_times
from lambdanets.benchmarks.inference import compare_runtimes
from lambdanets.benchmarks.input_pipeline import measure_input_pipeline
from lambdanets.benchmarks.layers import compare_layers
from lambdanets.benchmarks.loop_overhead import measure_loop_overhead
from lambdanets.benchmarks.methods import compare_methods
from lambdanets.benchmarks.mobilenet_search import search_mobilenets
from lambdanets.benchmarks.network_groups import compare_networks
from lambdanets.benchmarks.scaling import measure_scaling
from lambdanets.benchmarks.triton_variants import compile_variants

__all__ = [
    "compare_experiments",
    "compare_layers",
    "compare_methods",
    "compare_networks",
    "compare_runtimes",
    "compare_speed_and_accuracy",
    "compile_variants",
    "measure_callback_cost",
    "measure_input_pipeline",
    "measure_loop_overhead",
    "measure_scaling",
    "predict_gpu_times",
    "search_mobilenets",
]
