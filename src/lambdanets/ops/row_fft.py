"""Position lambdas by a discrete Fourier transform along y.

E_nm depends on offsets only, so that λ_n = Σ_m E_nm v_mᵀ is a correlation. A transform along y turns its sum over y
into a product per frequency, while the sum over x stays a (Toeplitz) matrix product: 12·n^1.5·k·v FLOPs instead of
2·n²·k·v, all of them in large real matrix products, transforms included.
"""

import math
from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor

from lambdanets.ops.custom_op import Scratch, define_op
from lambdanets.ops.table import offsets_to_scope, scope_to_offsets

# Elements of the lambdas' spectrum held at a time.
CHUNK = 2**17


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor) -> Tensor:
    batch, height, _, heads, _ = query.shape
    transform = RowTransform(query, values, table)
    q, content = query.to(transform.dtype), content.to(transform.dtype)
    value_spectrum, table_spectrum = transform.values_to_spectrum(values), transform.table_to_spectrum(table)
    y = query.new_empty(*query.shape[:4], values.shape[4])
    for columns, context in transform.chunks():
        blocks = transform.toeplitz(table_spectrum, columns, context)
        for image in range(batch):
            out = transform.saved_lambdas(saved, columns, image, batch)
            lambdas = transform.lambdas(blocks, value_spectrum[image, ..., context, :], content[image], out)
            y_part = transform.scratch.product("y", q[image, :, columns].flatten(0, 1), lambdas)
            y[image, :, columns] = y_part.view(height, -1, heads, y_part.shape[2])
    return y


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, height, _, _, key_depth = query.shape
    transform = RowTransform(query, values, table)
    q, g, content = query.to(transform.dtype), grad.to(transform.dtype), content.to(transform.dtype)
    value_spectrum, table_spectrum = transform.values_to_spectrum(values), transform.table_to_spectrum(table)
    d_value_spectrum, d_table_spectrum = torch.zeros_like(value_spectrum), torch.zeros_like(table_spectrum)
    d_query, d_content = query.new_empty(query.shape), torch.zeros_like(content)
    for columns, context in transform.chunks():
        blocks = transform.toeplitz(table_spectrum, columns, context)
        d_blocks = torch.empty_like(blocks)
        for image in range(batch):
            part = value_spectrum[image, ..., context, :]
            lambdas = transform.saved_lambdas(saved, columns, image, batch)
            if lambdas is None:
                lambdas = transform.lambdas(blocks, part, content[image], None)
            q_part, g_part = q[image, :, columns].flatten(0, 1), g[image, :, columns].flatten(0, 1)
            d_q = transform.scratch.product("d query", g_part, lambdas.mT)
            d_query[image, :, columns] = d_q.view(height, -1, *query.shape[3:])
            d_lambdas = transform.scratch.product("d lambdas", q_part.mT, g_part)
            d_spectrum = transform.scratch.product(
                "spectrum", transform.to_rows_transposed, d_lambdas.view(height, -1)
            ).view(transform.frequencies, -1, lambdas.shape[2])
            # The spectrum at frequency 0 is the sum over y.
            sums = d_spectrum[0, : d_spectrum.shape[1] // 2].view(-1, key_depth, lambdas.shape[2])
            d_content[image] += transform.period * sums.sum(0)
            d_part = transform.scratch.product("d part", blocks.mT, d_spectrum)
            d_value_spectrum[image, ..., context, :] += d_part.view(part.shape)
            d_blocks.baddbmm_(d_spectrum, part.flatten(1, 3).mT, beta=min(image, 1))
        transform.add_toeplitz(d_table_spectrum, d_blocks, columns, context)
    d_values = transform.spectrum_to_values(d_value_spectrum)
    d_table = transform.spectrum_to_table(d_table_spectrum)
    return d_query, d_values.to(values.dtype), d_table.to(table.dtype), d_content.to(query.dtype)


def saved_size(query: Tensor, values: Tensor, table: Tensor) -> int:
    """Return the size of the lambdas if the table covers the whole map, where recomputing them takes too long, or 0."""
    batch, height, width, _, key_depth = query.shape
    covers_map = table.shape[2] >= 2 * height - 1 and table.shape[3] >= 2 * width - 1
    return batch * height * width * key_depth * values.shape[4] if covers_map else 0


row_fft = define_op("row_fft", forward, backward, saved_size=saved_size)


def columns_per_chunk(width: int, spectrum: int) -> int:
    """Return the number of columns with which chunks have about the same size.

    Args:
        width: columns of the map.
        spectrum: elements of the lambdas' spectrum for one column of one image.
    """
    limit = max(1, CHUNK // max(1, spectrum))
    return ceil(width / ceil(width / limit))


class RowTransform:
    """Transforms of values and of a table along y, and the products of their spectra.

    The transform is long enough that no two offsets coincide. A complex number is a pair of real ones on an axis of its
    own. Only half of the frequencies are computed, as for any real signal.
    """

    def __init__(self, query: Tensor, values: Tensor, table: Tensor) -> None:
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.scratch = Scratch(query.new_empty(0, dtype=self.dtype))
        self.height, self.width = query.shape[1:3]
        self.key_depth, self.intra_depth = table.shape[:2]
        self.scope = (table.shape[2], table.shape[3])
        self.reach = min(self.scope[0] // 2, self.height - 1), min(self.scope[1] // 2, self.width - 1)
        self.period = self.height + self.reach[0]
        self.frequencies = self.period // 2 + 1
        frequency = torch.arange(self.frequencies, dtype=torch.float64) * (2 * math.pi / self.period)
        weight = torch.full_like(frequency, 2 / self.period)
        weight[0] = 1 / self.period
        if self.period % 2 == 0:
            weight[-1] = 1 / self.period
        self.to_frequencies = self.wave(frequency, torch.arange(self.height)).to(query.device, self.dtype)
        self.to_rows_transposed = self.wave(frequency, torch.arange(self.height), weight).to(query.device, self.dtype)
        self.to_rows = self.to_rows_transposed.T.contiguous()
        self.offsets_to_frequencies = self.wave(frequency, torch.arange(2 * self.reach[0] + 1) - self.reach[0])
        self.offsets_to_frequencies = self.offsets_to_frequencies.to(query.device, self.dtype)
        self.step = columns_per_chunk(self.width, 2 * self.frequencies * self.key_depth * values.shape[4])

    @staticmethod
    def wave(frequency: Tensor, position: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return a transform's matrix (2·frequencies, positions): cosines and negated sines in turn."""
        angle = frequency[:, None] * position
        pair = torch.stack([angle.cos(), -angle.sin()], 1)
        if weight is not None:
            pair = pair * weight[:, None, None]
        return pair.flatten(0, 1)

    def chunks(self) -> Iterator[tuple[slice, slice]]:
        """Yield columns of queries, and the columns of the mirrored context that they see."""
        for start in range(0, self.width, self.step):
            stop = min(self.width, start + self.step)
            first, last = max(0, start - self.reach[1]), min(self.width, stop + self.reach[1])
            yield slice(start, stop), slice(self.width - last, self.width - first)

    def values_to_spectrum(self, values: Tensor) -> Tensor:
        """Transform (B, H, W, u, v) → (B, frequencies, 2, u, W, v), and reverse the columns.

        In a mirrored context the embeddings of the next column start one entry later, so that the embeddings of all
        columns are one strided view of the (mirrored) table.
        """
        values = values.to(self.dtype).transpose(2, 3).flip(3)
        spectrum = self.to_frequencies @ values.flatten(2)
        return spectrum.view(len(values), self.frequencies, 2, *values.shape[2:])

    def spectrum_to_values(self, spectrum: Tensor) -> Tensor:
        """Return gradients of values: the transpose of `values_to_spectrum`."""
        values = self.to_frequencies.T @ spectrum.flatten(1, 2).flatten(2)
        return values.view(len(spectrum), self.height, *spectrum.shape[3:]).flip(3).transpose(2, 3)

    def table_to_spectrum(self, table: Tensor) -> Tensor:
        """Transform (k, u, R, C) → (frequencies, 2, k, u, 2·W − 1), and reverse the columns."""
        table = scope_to_offsets(table.to(self.dtype), (self.reach[0] + 1, self.width)).flip(3)
        spectrum = self.offsets_to_frequencies @ table.permute(2, 0, 1, 3).flatten(1)
        return spectrum.view(self.frequencies, 2, *table.shape[:2], table.shape[3])

    def spectrum_to_table(self, spectrum: Tensor) -> Tensor:
        """Return gradients of a table: the transpose of `table_to_spectrum`."""
        table = self.offsets_to_frequencies.T @ spectrum.flatten(0, 1).flatten(1)
        table = table.view(-1, *spectrum.shape[2:]).permute(1, 2, 0, 3).flip(3)
        return offsets_to_scope(table, self.scope, (self.reach[0] + 1, self.width))

    def toeplitz(self, table: Tensor, columns: slice, context: slice) -> Tensor:
        """Return the matrix from the context's columns to the lambdas of x columns: (frequencies, 2·x·k, 2·u·m)."""
        real, imaginary = self.windows(table, columns, context).permute(1, 0, 4, 2, 3, 5)
        blocks = table.new_empty(self.frequencies, 2, *real.shape[1:3], 2, *real.shape[3:])
        # A correlation multiplies by the conjugate: (r, i) acts as the matrix ((r, i), (−i, r)).
        blocks[:, 0, :, :, 0] = real
        blocks[:, 1, :, :, 1] = real
        blocks[:, 0, :, :, 1] = imaginary
        torch.neg(imaginary, out=blocks[:, 1, :, :, 0])
        return blocks.flatten(4).flatten(1, 3)

    def add_toeplitz(self, table: Tensor, blocks: Tensor, columns: slice, context: slice) -> None:
        """Add blocks to a table's spectrum: the transpose of `toeplitz`."""
        count, visible = columns.stop - columns.start, context.stop - context.start
        blocks = blocks.view(self.frequencies, 2, count, self.key_depth, 2, self.intra_depth, visible)
        parts = blocks[:, 0, :, :, 0] + blocks[:, 1, :, :, 1], blocks[:, 0, :, :, 1] - blocks[:, 1, :, :, 0]
        for x in range(count):
            start = columns.start + context.start + x
            for target, part in zip(table.unbind(1), parts, strict=True):
                target[..., start : start + visible] += part[:, x]

    def windows(self, table: Tensor, columns: slice, context: slice) -> Tensor:
        """Return the table's entry for each pair of x columns and m of the context: (frequencies, 2, k, u, x, m)."""
        starts = slice(columns.start + context.start, columns.stop + context.start)
        return table.unfold(4, context.stop - context.start, 1)[:, :, :, :, starts]

    def saved_lambdas(self, saved: Tensor, columns: slice, image: int, batch: int) -> Tensor | None:
        """Return the view (H·x, k, v) for one image's lambdas of x columns in what is saved; None if nothing is."""
        if not len(saved):
            return None
        column = len(saved) // (batch * self.width)
        start, count = columns.start * batch, columns.stop - columns.start
        chunk = saved[start * column + image * count * column :][: count * column]
        return chunk.view(self.height * count, self.key_depth, -1)

    def lambdas(self, blocks: Tensor, values: Tensor, content: Tensor, out: Tensor | None) -> Tensor:
        """Compute one image's lambdas of x columns, including the content lambda: (H·x, k, v), written to `out`."""
        spectrum = self.scratch.product("spectrum", blocks, values.flatten(1, 3))
        constant = spectrum[0, : spectrum.shape[1] // 2].view(-1, *content.shape)
        constant += self.period * content
        spectrum = spectrum.view(2 * self.frequencies, -1)
        if out is None:
            return self.scratch.product("lambdas", self.to_rows, spectrum).view(-1, *content.shape)
        torch.mm(self.to_rows, spectrum, out=out.view(self.height, -1))
        return out
