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
# # The lambda layer
#
# A lambda layer (Bello, ICLR 2021, section 3) summarises a context into small linear functions, the *lambdas*, and
# applies one to each query. This notebook builds it from `einsum`, compares that with `LambdaLayer`, and visualizes a trained layer.

# %%
import matplotlib.pyplot as plt
import torch

import lambdanets
from lambdanets import LambdaLayer
from lambdanets.ops import METHODS, lambda_map, scope_to_offsets

torch.manual_seed(0)

# %% [markdown]
# ## From the definition
#
# Queries $Q$ $(n \times h k)$, keys $K$ $(m \times k)$ and values $V$ $(m \times v)$ are projections of the input. The
# keys are normalized over the $m$ positions of the context. With $E_{nm} \in \mathbb{R}^k$ the embedding of the offset
# from $n$ to $m$,
#
# $$\lambda^c = \bar K^\top V, \qquad \lambda^p_n = E_n^\top V, \qquad y^h_n = (\lambda^c + \lambda^p_n)^\top q^h_n.$$


# %%
def lambda_layer(q, k, v, e):
    """Compute a lambda layer: q (b h n k), k (b m k), v (b m v), e (n m k) → (b n h v)."""
    content = torch.einsum("bmk,bmv->bkv", k.softmax(1), v)
    position = torch.einsum("nmk,bmv->bnkv", e, v)
    return torch.einsum("bhnk,bnkv->bnhv", q, content[:, None] + position)


# %% [markdown]
# `LambdaLayer` computes the same, with batch norms on queries and values, a table of offsets instead of $E$, and an order of
# the products that depends on their costs.

# %%
side, channels = 7, 32
layer = LambdaLayer(channels, scope="global", feature_size=(side, side), heads=4, key_depth=16).double().eval()
x = torch.randn(2, channels, side, side, dtype=torch.float64)

query, value, key = layer.project(x, x, torch.contiguous_format)
offsets = scope_to_offsets(layer.table, (side, side))[:, 0]  # (k, 2H − 1, 2W − 1)
rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
row, column = rows.flatten(), columns.flatten()
embeddings = offsets[:, row[None] - row[:, None] + side - 1, column[None] - column[:, None] + side - 1]

expected = lambda_layer(
    query.flatten(1, 2).transpose(1, 2),
    key.flatten(1, 3),
    value.flatten(1, 3),
    embeddings.permute(1, 2, 0),
)
expected = expected.flatten(2).transpose(1, 2).unflatten(2, (side, side))
with torch.no_grad():
    print(f"largest difference: {(layer(x) - expected).abs().max():.1e}")

# %% [markdown]
# ## Equivalences
#
# There is no softmax between the two products of $y_n = \sum_m (q_n \cdot E_{nm})\, v_m$. They can be computed in either
# order, by a convolution of the values with the table as its kernel (the lambda convolution), or by Fourier transforms.
# All methods are exact.

# %%
table, content = layer.table.detach(), layer.content_lambda(value, key).detach()
with torch.no_grad():
    results = {
        name: lambda_map(query, value, table, content, method=name)
        for name in METHODS
        if name not in ("kernel", "triton")
    }
    for name, y in results.items():
        print(f"{name:12} {(y - results['lambdas']).abs().max():.1e}")

# %% [markdown]
# ## Memory
#
# An attention layer stores $h\,n^2$ numbers per image. The embeddings of a lambda layer don't grow with the batch, and here
# they are a table of offsets.

# %%
print("     n   attention maps of 128 images   the paper's embeddings   a table of offsets   (MiB)")
for map_side in (14, 28, 56):
    n = map_side**2
    maps, expanded, table_size = 128 * 8 * n * n, n * n * 16, (2 * map_side - 1) ** 2 * 16
    print(f"{n:6}{maps * 4 / 2**20:22,.0f}{expanded * 4 / 2**20:27,.1f}{table_size * 4 / 2**20:22,.2f}")

# %% [markdown]
# ## Translation equivariance
#
# Position lambdas depend on offsets only: if the input is shifted, the output is shifted with it, except at the border. The
# content lambda is the same for all positions and doesn't change if the whole context is shifted.

# %%
local = LambdaLayer(channels, scope=5, content=False).double().eval()
image = torch.zeros(1, channels, 24, 24, dtype=torch.float64)
image[:, :, 6:12, 5:12] = torch.randn(1, channels, 6, 7, dtype=torch.float64)
moved = image.roll((7, 8), (2, 3))
with torch.no_grad():
    y, y_moved = local(image), local(moved)
print(f"moving the input or the output: {(y.roll((7, 8), (2, 3)) - y_moved).abs().max():.1e}")

fig, axes = plt.subplots(1, 4, figsize=(9, 2.5), dpi=70)
for axis, (title, features) in zip(
    axes, {"input": image, "output": y, "input, moved": moved, "its output": y_moved}.items(), strict=True
):
    axis.imshow(features[0].norm(dim=0), cmap="Blues")
    axis.set(title=title, xticks=[], yticks=[])
fig.tight_layout()

# %% [markdown]
# ## Lambdas after training
#
# `lambdanets.load` loads published weights: a network with lambda layers that was trained on CIFAR-10. Here it gets a photo of
# scikit-learn's, cut to a square. A flower is none of its ten classes.

# %%
from sklearn.datasets import load_sample_image

model = lambdanets.load("cifar10/lambda_u1")
photo = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[:, :, 100:527]
photo = torch.nn.functional.interpolate(photo[None].float(), (32, 32), mode="area")[0].round().to(torch.uint8)
print(model.predict(photo, top=3))

# %% [markdown]
# The weights of each head's query in the middle of the photo, in the first lambda layer: by content (above,
# $q \cdot \bar K_m$) and by position (below, $q \cdot E_{nm}$). They are the parts of an attention map that the layer never
# computes. TensorBoard shows them for all layers during training.

# %%
layer = model.network.stages[0][0].mixer
layer_inputs = []
layer.register_forward_pre_hook(lambda module, inputs: layer_inputs.append(inputs[0]))
with torch.no_grad():
    model(model.preprocess(photo)[None])
    query, value, key = layer.project(layer_inputs[0], layer_inputs[0], torch.channels_last)
height, width = query.shape[1:3]
row, column = height // 2, width // 2
by_content = torch.einsum(
    "hk,yxk->hyx", query[0, row, column], key[0, :, :, 0].flatten(0, 1).softmax(0).view(height, width, -1)
)
table = scope_to_offsets(layer.table.detach(), (height, width))[:, 0]
window = table[:, height - 1 - row : 2 * height - 1 - row, width - 1 - column : 2 * width - 1 - column]
by_position = torch.einsum("hk,kyx->hyx", query[0, row, column], window)

fig, axes = plt.subplots(2, 5, figsize=(9, 3.8), dpi=70)
for axis, maps, kind in zip(axes, (by_content, by_position), ("content", "position"), strict=True):
    axis[0].imshow(photo.permute(1, 2, 0))
    axis[0].set(ylabel=kind, xticks=[], yticks=[])
    for head, weights in enumerate(maps):
        limit = maps.abs().max()
        axis[head + 1].imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis[head + 1].set(title=f"head {head}", xticks=[], yticks=[])
fig.tight_layout()
