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
# # Ablations
#
# Each row of the paper's tables is an experiment and each table is a sweep. This notebook analyzes a sweep: table, curves,
# paired differences. Its runs are those of [our reproduction](../results/reproduction.md) on CIFAR-10, with small networks;
# their differences don't transfer to ImageNet.
#
# To analyze a sweep of your own, set `SWEEP` to its folder and `BASELINE` to the experiment to compare with.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown
from scipy.stats import ttest_rel

from lambdanets.reports.comparison import compare
from lambdanets.reports.runs import read_runs
from lambdanets.reports.statistics import paired_difference

ROOT = Path.cwd().parent if Path.cwd().name == "notebooks" else Path.cwd()
SWEEP = ROOT / "results/reproduction/v2/cifar10"  # or a folder of runs, such as ROOT / "multirun/table3"
BASELINE = "cifar10/conv"

# %% [markdown]
# ## Run it, or read it
#
# `python run.py --multirun sweep=cifar10 seed=0,1,2 data.root=…` trains these networks, 24 epochs each. Started again, a sweep
# skips its finished runs. On a cluster, add `hydra/launcher=submitit_slurm` to the same command.
#
# `python run.py job=report sweep_dir=… job.archive_to=…` keeps the configs, curves and scores of runs in an archive, a small
# file. `read_runs` reads both, runs and archives.

# %%
runs = read_runs([SWEEP])
print(f"{len(runs)} runs, {sum(run.problem is None for run in runs)} of them finished")

# %% [markdown]
# ## The table
#
# Means and standard deviations over seeds, and differences to a baseline, paired by seed: both runs of a pair get the same
# images in the same order.

# %%
comparison = compare(runs, score="test/top1", baseline=BASELINE, flops=lambda run: None)
Markdown(comparison.table().to_markdown())

# %% [markdown]
# ## Curves
#
# The mean of the seeds, and their range.

# %%
fig, axis = plt.subplots(figsize=(7, 3.6), dpi=70)
for row in comparison.rows:
    curves = [run.curve("val/top1") for run in row.runs.by_seed.values() if run.problem is None]
    if not curves:
        continue
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = torch.tensor([[100 * curve[epoch] for epoch in epochs] for curve in curves])
    axis.plot(epochs, values.mean(0), marker=".", label=row.name)
    axis.fill_between(epochs, values.amin(0), values.amax(0), alpha=0.15)
axis.set(xlabel="epoch", ylabel="val/top1 %")
axis.legend(frameon=False)
axis.spines[["top", "right"]].set_visible(False)
fig.tight_layout()

# %% [markdown]
# ## Are the differences real?
#
# Student's paired test over the seeds, with its 95 % interval. With three seeds the intervals are so wide that only a large
# difference is significant: use five seeds or more.

# %%
scores = {row.experiment: row.runs.scores("test/top1") for row in comparison.rows}
for experiment, by_seed in scores.items():
    seeds = sorted(by_seed.keys() & scores[BASELINE].keys())
    if experiment == BASELINE or len(seeds) < 2:
        continue
    difference = paired_difference(by_seed, scores[BASELINE])
    p = ttest_rel([by_seed[seed] for seed in seeds], [scores[BASELINE][seed] for seed in seeds]).pvalue
    interval = f"[{100 * difference.low:+6.2f}, {100 * difference.high:+6.2f}]"
    print(f"{experiment:20} {100 * difference.mean:+6.2f} {interval}  {len(seeds)} pairs, p = {p:.2f}")

# %% [markdown]
# ## The paper's tables
#
# `python run.py job=describe sweep=table3` counts the parameters and operations of each row without running any.
# `python run.py job=report` compares a finished sweep with the published numbers, as Markdown, CSV, JSON and one HTML page.

# %%
work = Path(tempfile.mkdtemp())
command = [sys.executable, str(ROOT / "run.py"), "job=describe", "sweep=table3", "hydra.run.dir=described"]
subprocess.run(command, cwd=work, capture_output=True, check=True)
text = (work / "described" / "describe.md").read_text()
Markdown(text[text.index("|") : text.index("\n\n", text.index("|"))])
