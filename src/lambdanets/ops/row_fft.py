"""Position lambdas by a discrete Fourier transform along the rows' axis.

E_nm depends on offsets only, so that λ_n = Σ_m E_nm v_mᵀ is a correlation. A transform along y turns its sum over y
into a product per frequency, while the sum over x stays a (Toeplitz) matrix product: 12·n^1.5·k·v multiply-adds in
place of 2·n²·k·v, all of them in large real matrix products, transforms included.
"""

import math
from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor

from lambdanets.ops.custom_op import Scratch, define_op
from lambdanets.ops.table import offsets_to_scope, scope_to_offsets

# Elements of the lambdas' spectrum that are held at a time.
CHUNK = 2**17


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, kept: Tensor) -> Tensor:
    batch, height, _, heads, _ = query.shape
    rows = RowTransform(query, values, table)
    q, content = query.to(rows.dtype), content.to(rows.dtype)
    value_spectrum, table_spectrum = rows.of_values(values), rows.of_table(table)
    y = query.new_empty(*query.shape[:4], values.shape[4])
    for columns, context in rows.chunks():
        blocks = rows.toeplitz(table_spectrum, columns, context)
        for image in range(batch):
            place = rows.place(kept, columns, image, batch)
            lambdas = rows.lambdas(blocks, value_spectrum[image, ..., context, :], content[image], place)
            out = rows.scratch.product("y", q[image, :, columns].flatten(0, 1), lambdas)
            y[image, :, columns] = out.view(height, -1, heads, out.shape[2])
    return y


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, height, _, _, key_depth = query.shape
    rows = RowTransform(query, values, table)
    q, g, content = query.to(rows.dtype), grad.to(rows.dtype), content.to(rows.dtype)
    value_spectrum, table_spectrum = rows.of_values(values), rows.of_table(table)
    d_value_spectrum, d_table_spectrum = torch.zeros_like(value_spectrum), torch.zeros_like(table_spectrum)
    d_query, d_content = query.new_empty(query.shape), torch.zeros_like(content)
    for columns, context in rows.chunks():
        blocks = rows.toeplitz(table_spectrum, columns, context)
        d_blocks = torch.empty_like(blocks)
        for image in range(batch):
            part = value_spectrum[image, ..., context, :]
            lambdas = rows.place(kept, columns, image, batch)
            if lambdas is None:
                lambdas = rows.lambdas(blocks, part, content[image], None)
            q_part, g_part = q[image, :, columns].flatten(0, 1), g[image, :, columns].flatten(0, 1)
            d_q = rows.scratch.product("d query", g_part, lambdas.mT)
            d_query[image, :, columns] = d_q.view(height, -1, *query.shape[3:])
            d_lambdas = rows.scratch.product("d lambdas", q_part.mT, g_part)
            d_spectrum = rows.scratch.product("spectrum", rows.backward_transposed, d_lambdas.view(height, -1)).view(
                rows.frequencies, -1, lambdas.shape[2]
            )
            # At frequency 0 stands the sum over y.
            sums = d_spectrum[0, : d_spectrum.shape[1] // 2].view(-1, key_depth, lambdas.shape[2])
            d_content[image] += rows.period * sums.sum(0)
            d_part = rows.scratch.product("d part", blocks.mT, d_spectrum)
            d_value_spectrum[image, ..., context, :] += d_part.view(part.shape)
            d_blocks.baddbmm_(d_spectrum, part.flatten(1, 3).mT, beta=min(image, 1))
        rows.add_toeplitz(d_table_spectrum, d_blocks, columns, context)
    d_values = rows.values_from(d_value_spectrum)
    d_table = rows.table_from(d_table_spectrum)
    return d_query, d_values.to(values.dtype), d_table.to(table.dtype), d_content.to(query.dtype)


def saved_size(query: Tensor, values: Tensor, table: Tensor) -> int:
    """The lambdas, where the table covers the whole map: there it takes more to recompute them than memory is worth."""
    batch, height, width, _, key_depth = query.shape
    whole = table.shape[2] >= 2 * height - 1 and table.shape[3] >= 2 * width - 1
    return batch * height * width * key_depth * values.shape[4] if whole else 0


row_fft = define_op("row_fft", forward, backward, saved_size=saved_size)


def columns_at_once(width: int, spectrum: int) -> int:
    """Columns of a chunk, in chunks of about the same size.

    Args:
        width: columns of the map.
        spectrum: elements of one column's lambdas in one image.
    """
    most = max(1, CHUNK // max(1, spectrum))
    return ceil(width / ceil(width / most))


class RowTransform:
    """The transform along y, of a length at which no offset is taken for another, and what it makes of a layer.

    A complex number is a pair of real ones on an axis of its own; of the frequencies of a real signal half are kept.
    """

    def __init__(self, query: Tensor, values: Tensor, table: Tensor) -> None:
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.scratch = Scratch(query.new_empty(0, dtype=self.dtype))
        self.height, self.width = query.shape[1:3]
        self.key_depth, self.intra_depth = table.shape[:2]
        self.side = (table.shape[2], table.shape[3])
        self.reach = min(self.side[0] // 2, self.height - 1), min(self.side[1] // 2, self.width - 1)
        self.period = self.height + self.reach[0]
        self.frequencies = self.period // 2 + 1
        frequency = torch.arange(self.frequencies, dtype=torch.float64) * (2 * math.pi / self.period)
        weight = torch.full_like(frequency, 2 / self.period)
        weight[0] = 1 / self.period
        if self.period % 2 == 0:
            weight[-1] = 1 / self.period
        self.forward = self.wave(frequency, torch.arange(self.height)).to(query.device, self.dtype)
        self.backward_transposed = self.wave(frequency, torch.arange(self.height), weight).to(query.device, self.dtype)
        self.backward = self.backward_transposed.T.contiguous()
        self.of_offsets = self.wave(frequency, torch.arange(2 * self.reach[0] + 1) - self.reach[0])
        self.of_offsets = self.of_offsets.to(query.device, self.dtype)
        self.step = columns_at_once(self.width, 2 * self.frequencies * self.key_depth * values.shape[4])

    @staticmethod
    def wave(frequency: Tensor, position: Tensor, weight: Tensor | None = None) -> Tensor:
        """(2·frequencies, positions): cosines and negated sines in turn."""
        angle = frequency[:, None] * position
        pair = torch.stack([angle.cos(), -angle.sin()], 1)
        if weight is not None:
            pair = pair * weight[:, None, None]
        return pair.flatten(0, 1)

    def chunks(self) -> Iterator[tuple[slice, slice]]:
        """Some columns of queries, and the columns of the mirrored context that they see."""
        for start in range(0, self.width, self.step):
            stop = min(self.width, start + self.step)
            first, last = max(0, start - self.reach[1]), min(self.width, stop + self.reach[1])
            yield slice(start, stop), slice(self.width - last, self.width - first)

    def of_values(self, values: Tensor) -> Tensor:
        """(B, H, W, u, v) → (B, frequencies, 2, u, W, v), the columns in reverse.

        In a mirrored context the embeddings of the next column start one entry further on, so that all of them are one
        strided view of the (mirrored) table.
        """
        values = values.to(self.dtype).transpose(2, 3).flip(3)
        spectrum = self.forward @ values.flatten(2)
        return spectrum.view(len(values), self.frequencies, 2, *values.shape[2:])

    def values_from(self, spectrum: Tensor) -> Tensor:
        """The transpose of `of_values`."""
        values = self.forward.T @ spectrum.flatten(1, 2).flatten(2)
        return values.view(len(spectrum), self.height, *spectrum.shape[3:]).flip(3).transpose(2, 3)

    def of_table(self, table: Tensor) -> Tensor:
        """(k, u, R, C) → (frequencies, 2, k, u, 2·W − 1), the columns in reverse."""
        table = scope_to_offsets(table.to(self.dtype), (self.reach[0] + 1, self.width)).flip(3)
        spectrum = self.of_offsets @ table.permute(2, 0, 1, 3).flatten(1)
        return spectrum.view(self.frequencies, 2, *table.shape[:2], table.shape[3])

    def table_from(self, spectrum: Tensor) -> Tensor:
        """The transpose of `of_table`."""
        table = self.of_offsets.T @ spectrum.flatten(0, 1).flatten(1)
        table = table.view(-1, *spectrum.shape[2:]).permute(1, 2, 0, 3).flip(3)
        return offsets_to_scope(table, self.side, (self.reach[0] + 1, self.width))

    def toeplitz(self, table: Tensor, columns: slice, context: slice) -> Tensor:
        """The matrix from the context's columns to the lambdas of some columns: (frequencies, 2·x·k, 2·u·m)."""
        real, imaginary = self.windows(table, columns, context).permute(1, 0, 4, 2, 3, 5)
        blocks = table.new_empty(self.frequencies, 2, *real.shape[1:3], 2, *real.shape[3:])
        # A correlation multiplies by the conjugate: (r, i) acts as the matrix ((r, i), (−i, r)).
        blocks[:, 0, :, :, 0] = real
        blocks[:, 1, :, :, 1] = real
        blocks[:, 0, :, :, 1] = imaginary
        torch.neg(imaginary, out=blocks[:, 1, :, :, 0])
        return blocks.flatten(4).flatten(1, 3)

    def add_toeplitz(self, table: Tensor, blocks: Tensor, columns: slice, context: slice) -> None:
        """The transpose of `toeplitz`."""
        count, seen = columns.stop - columns.start, context.stop - context.start
        blocks = blocks.view(self.frequencies, 2, count, self.key_depth, 2, self.intra_depth, seen)
        parts = blocks[:, 0, :, :, 0] + blocks[:, 1, :, :, 1], blocks[:, 0, :, :, 1] - blocks[:, 1, :, :, 0]
        for x in range(count):
            start = columns.start + context.start + x
            for target, part in zip(table.unbind(1), parts, strict=True):
                target[..., start : start + seen] += part[:, x]

    def windows(self, table: Tensor, columns: slice, context: slice) -> Tensor:
        """What the table has for each pair of a column and one of the context: (frequencies, 2, k, u, x, m)."""
        starts = slice(columns.start + context.start, columns.stop + context.start)
        return table.unfold(4, context.stop - context.start, 1)[:, :, :, :, starts]

    def place(self, kept: Tensor, columns: slice, image: int, batch: int) -> Tensor | None:
        """Where one image's lambdas of a chunk of columns are kept, (H·x, k, v), if they are."""
        if not len(kept):
            return None
        column = len(kept) // (batch * self.width)
        start, count = columns.start * batch, columns.stop - columns.start
        chunk = kept[start * column + image * count * column :][: count * column]
        return chunk.view(self.height * count, self.key_depth, -1)

    def lambdas(self, blocks: Tensor, values: Tensor, content: Tensor, place: Tensor | None) -> Tensor:
        """One image's lambdas of a chunk of columns, content included, written to a place: (H·x, k, v)."""
        spectrum = self.scratch.product("spectrum", blocks, values.flatten(1, 3))
        constant = spectrum[0, : spectrum.shape[1] // 2].view(-1, *content.shape)
        constant += self.period * content
        spectrum = spectrum.view(2 * self.frequencies, -1)
        if place is None:
            return self.scratch.product("lambdas", self.backward, spectrum).view(-1, *content.shape)
        torch.mm(self.backward, spectrum, out=place.view(self.height, -1))
        return place
