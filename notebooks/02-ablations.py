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
# Each row of the paper's tables is an experiment and each table is a sweep. This notebook runs a small sweep on scikit-learn's
# digits and analyzes it: table, curves, paired differences. It shows the tools; its numbers don't transfer to ImageNet.
#
# To analyze a sweep of your own, set `SWEEP` to its folder.

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
SWEEP = None  # or Path("../multirun/table3")

# %% [markdown]
# ## Run it
#
# Three mixers with two seeds each, six runs of three epochs: `python run.py --multirun mixer=… seed=…`. Started again, a
# sweep skips its finished runs. On a cluster, add `hydra/launcher=submitit_slurm` to the same command.

# %%
if SWEEP is None:
    work = Path(tempfile.mkdtemp())
    command = [sys.executable, str(ROOT / "run.py"), "--multirun", "mixer=conv,attention,lambda", "seed=0,1"]
    options = ["trainer.max_epochs=3", "trainer.enable_progress_bar=false", "callbacks=scalars"]
    subprocess.run([*command, *options], cwd=work, capture_output=True, check=True)
    (SWEEP,) = work.glob("multirun/*")
runs = read_runs([SWEEP])
print(f"{len(runs)} runs, {sum(run.problem is None for run in runs)} of them finished")

# %% [markdown]
# ## The table
#
# Means and standard deviations over seeds, and differences to a baseline, paired by seed: both runs of a pair get the same
# images in the same order.

# %%
comparison = compare(runs, score="test/top1", baseline="conv-digits", flops=lambda run: None)
Markdown(comparison.table().to_markdown())

# %% [markdown]
# ## Curves
#
# The mean of the seeds, and their range.

# %%
fig, axis = plt.subplots(figsize=(7, 3.6), dpi=70)
for row in comparison.rows:
    curves = [run.curve("val/top1") for run in row.runs.by_seed.values()]
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
# Student's paired test over the seeds, with its 95 % interval. With two seeds the intervals are so wide that only a huge
# difference would be significant: use five seeds or more.

# %%
scores = {row.name: row.runs.scores("test/top1") for row in comparison.rows}
baseline = next(name for name in scores if name.startswith("conv"))
for name, by_seed in scores.items():
    if name == baseline:
        continue
    difference = paired_difference(by_seed, scores[baseline])
    seeds = sorted(by_seed.keys() & scores[baseline].keys())
    p = ttest_rel([by_seed[s] for s in seeds], [scores[baseline][s] for s in seeds]).pvalue
    print(
        f"{name:20} {100 * difference.mean:+6.2f} [{100 * difference.low:+7.2f}, {100 * difference.high:+7.2f}]  p = {p:.2f}"
    )

# %% [markdown]
# ## The paper's tables
#
# `python run.py job=describe sweep=table3` counts the parameters and operations of each row without running any.
# `python run.py job=report` compares a finished sweep with the published numbers, as Markdown, CSV, JSON and one HTML page.

# %%
command = [sys.executable, str(ROOT / "run.py"), "job=describe", "sweep=table3", "hydra.run.dir=described"]
subprocess.run(command, cwd=SWEEP, capture_output=True, check=True)
text = (SWEEP / "described" / "describe.md").read_text()
Markdown(text[text.index("|") : text.index("\n\n", text.index("|"))])
