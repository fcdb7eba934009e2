# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Speed and memory
#
# A lambda layer's products can be computed by several exact methods. The fastest one depends on the map, the scope and the
# machine; with `method=auto` a small cost model chooses it. This notebook measures the machine that it runs on, in a minute or
# two. `python run.py job=benchmark benchmark=methods` (or `scaling`, `layers`, `table4`, …) measures more carefully;
# `results/` has its results with machine and versions.

# %%
import os

os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # the memory profiler warns of earlier allocations

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown

from lambdanets.benchmarks import compare_methods
from lambdanets.benchmarks.measure import Setting
from lambdanets.mixers import Attention, Conv, LambdaLayer
from lambdanets.ops import Shape, choose_method

setting = Setting(threads=torch.get_num_threads(), repeats=3, seconds=0.5, memory_gib=1)
print(torch.__version__, setting.torch_device, torch.get_num_threads(), "threads")

# %% [markdown]
# ## Methods
#
# Predicted and measured milliseconds of one layer's training step, for (batch, side, channels, scope). Methods with more than
# six times the best predicted time are not run.

# %%
result = compare_methods(
    setting,
    shapes=[(8, 7, 512, "global"), (8, 14, 256, "global"), (4, 28, 128, 7), (2, 28, 128, "global")],
    key_depth=16,
    heads=4,
    intra_depth=1,
    slowest=6,
)
Markdown(result.to_markdown())

# %% [markdown]
# ## The chosen method
#
# By the side of the map and the scope (training, batch 8, k = 16, h = 4).

# %%
sides, scopes = (7, 14, 28, 56, 112), (3, 7, 15, 23, "global")
print("side" + "".join(f"{scope!s:>13}" for scope in scopes))
for side in sides:
    methods = []
    for scope in scopes:
        scope_side = 2 * side - 1 if scope == "global" else scope
        sizes = {"height": side, "width": side, "context": (side, side), "scope": (scope_side, scope_side)}
        depths = {"heads": 4, "key_depth": 16, "value_depth": 16 * 56 // side or 1, "intra_depth": 1}
        methods.append(choose_method(Shape(batch=8, device=setting.torch_device.type, **sizes, **depths)))
    print(f"{side:4}" + "".join(f"{name:>13}" for name in methods))

# %% [markdown]
# ## Against the number of positions
#
# One training step of one layer with 64 channels, for one image: a lambda layer with a global and one with a local context,
# the 3×3 convolution, and global self-attention, whose maps of n × n weights need the most memory.

# %%
measurements = {}
with setting.apply():
    for side in (7, 14, 28, 56):
        x = torch.randn(1, 64, side, side, device=setting.torch_device, requires_grad=True)
        layers = {
            "lambda, global": LambdaLayer(64, scope="global", feature_size=(side, side)),
            "lambda, 23×23": LambdaLayer(64, scope=23),
            "3×3 convolution": Conv(64, stride=1),
            "attention, global": Attention(64, feature_size=(side, side)),
        }
        steps = {name: setting.make_training_step(layer.to(setting.torch_device), x) for name, layer in layers.items()}
        times, peaks = setting.measure_times(steps), setting.measure_peaks(steps)
        for name in layers:
            measurements.setdefault(name, []).append((side * side, 1e3 * times[name], peaks[name]))

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), dpi=70)
for name, points in measurements.items():
    n, milliseconds, mebibytes = zip(*points, strict=True)
    axes[0].loglog(n, milliseconds, marker=".", label=name)
    axes[1].loglog(n, mebibytes, marker=".")
axes[0].set(xlabel="positions", ylabel="ms of a training step")
axes[1].set(xlabel="positions", ylabel="MiB at most")
axes[0].legend(frameon=False, fontsize=8)
for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)
fig.tight_layout()

# %%
print("positions " + "".join(f"{name:>26}" for name in measurements))
for row in zip(*measurements.values(), strict=True):
    print(f"{row[0][0]:9} " + "".join(f"{ms:12.2f} ms{mib:7.1f} MiB" for _, ms, mib in row))
