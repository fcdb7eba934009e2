"""Position lambdas by fast Fourier transforms along both axes.

λ_n = Σ_m E_nm v_mᵀ is a correlation of the values with the table. Fourier transforms compute it in n·log n operations
for each of the k·v entries of the lambdas, which pays for large maps. One key channel is computed at a time, so that
the spectra stay small.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.ops.custom_op import define_op
from lambdanets.ops.table import offsets_to_scope, scope_to_offsets

# Complex numbers of the lambdas' spectrum held at a time: on a CPU as many as fit its caches.
CHUNK = {"cpu": 2**17, "cuda": 2**27}


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor) -> Tensor:
    transform = MapTransform(query, values, table)
    table_spectrum = transform.table_to_spectrum(table)
    y = query.new_empty(*query.shape[:4], values.shape[4])
    for images in transform.chunks():
        value_spectrum = transform.values_to_spectrum(values[images])
        q = heads_first(query[images]).to(transform.dtype)
        out = content[images].mT.to(transform.dtype)[:, None] @ q.flatten(3)
        out = out.view(*q.shape[:2], -1, *q.shape[3:])
        for key, spectrum in enumerate(table_spectrum):
            lambdas = transform.spectrum_to_map((spectrum.conj_physical()[:, None] * value_spectrum).sum(1))
            out.addcmul_(q[:, :, key, None], lambdas[:, None])
        y[images] = out.permute(0, 3, 4, 1, 2)
    return y


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    transform = MapTransform(query, values, table)
    table_spectrum = transform.table_to_spectrum(table)
    d_table_spectrum = torch.zeros_like(table_spectrum)
    d_query, d_values = query.new_empty(query.shape), values.new_empty(values.shape)
    d_content = content.new_empty(content.shape)
    for images in transform.chunks():
        value_spectrum = transform.values_to_spectrum(values[images])
        conjugate = value_spectrum.conj_physical()
        d_value_spectrum = torch.zeros_like(value_spectrum)
        q, g = heads_first(query[images]).to(transform.dtype), heads_first(grad[images]).to(transform.dtype)
        d_content[images] = q.transpose(1, 2).flatten(2) @ g.transpose(1, 2).flatten(2).mT
        d_q = (content[images].to(transform.dtype)[:, None] @ g.flatten(3)).view(q.shape)
        for key, spectrum in enumerate(table_spectrum):
            lambdas = transform.spectrum_to_map((spectrum.conj_physical()[:, None] * value_spectrum).sum(1))
            d_q[:, :, key] += (g * lambdas[:, None]).sum(2)
            d_spectrum = transform.map_to_spectrum((q[:, :, key, None] * g).sum(1))[:, None]
            d_value_spectrum += spectrum[:, None] * d_spectrum
            d_table_spectrum[key] += (d_spectrum * conjugate).sum((0, 2))
        d_query[images] = d_q.permute(0, 3, 4, 1, 2)
        d_values[images] = transform.spectrum_to_map(d_value_spectrum).permute(0, 3, 4, 1, 2)
    return d_query, d_values, transform.spectrum_to_table(d_table_spectrum.conj_physical()).to(table.dtype), d_content


fourier = define_op("fourier", forward, backward, channels_first=True)


class MapTransform:
    """Transforms of maps and tables, padded with zeros to a size at which no two offsets coincide.

    Conjugates are computed immediately: PyTorch's lazy ones get lost within an operator of a compiled graph.
    """

    def __init__(self, query: Tensor, values: Tensor, table: Tensor) -> None:
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.batch, self.height, self.width = query.shape[:3]
        self.scope = (table.shape[2], table.shape[3])
        self.reach = min(self.scope[0] // 2, self.height - 1), min(self.scope[1] // 2, self.width - 1)
        self.size = fast_length(self.height + self.reach[0]), fast_length(self.width + self.reach[1])
        image = values.shape[3] * values.shape[4] * self.size[0] * (self.size[1] // 2 + 1)
        self.step = max(1, CHUNK.get(query.device.type, CHUNK["cuda"]) // max(1, image))

    def chunks(self) -> Iterator[slice]:
        """Yield a few images at a time."""
        for start in range(0, self.batch, self.step):
            yield slice(start, min(self.batch, start + self.step))

    def map_to_spectrum(self, maps: Tensor) -> Tensor:
        return torch.fft.rfft2(maps, s=self.size)

    def spectrum_to_map(self, spectrum: Tensor) -> Tensor:
        """Return the map's part of the inverse transform."""
        # Rows beyond the map are dropped before the second axis is transformed.
        rows = torch.fft.ifft(spectrum, dim=-2)[..., : self.height, :]
        return torch.fft.irfft(rows, n=self.size[1])[..., : self.width]

    def values_to_spectrum(self, values: Tensor) -> Tensor:
        """Transform (B, H, W, u, v) → (B, u, v, ·, ·)."""
        return self.map_to_spectrum(values.permute(0, 3, 4, 1, 2).to(self.dtype).contiguous())

    def table_to_spectrum(self, table: Tensor) -> Tensor:
        """Transform (k, u, R, C) → (k, u, ·, ·), with offset (0, 0) moved to the origin."""
        table = scope_to_offsets(table.to(self.dtype), (self.reach[0] + 1, self.reach[1] + 1))
        below, right = (size - side for size, side in zip(self.size, table.shape[2:], strict=True))
        centered = F.pad(table, (0, right, 0, below)).roll((-self.reach[0], -self.reach[1]), (2, 3))
        return torch.fft.rfft2(centered)

    def spectrum_to_table(self, spectrum: Tensor) -> Tensor:
        """Return the gradient of a table, given that of its transform's conjugate."""
        table = torch.fft.irfft2(spectrum, s=self.size).roll(self.reach, (2, 3))
        table = table[..., : 2 * self.reach[0] + 1, : 2 * self.reach[1] + 1]
        return offsets_to_scope(table, self.scope, (self.reach[0] + 1, self.reach[1] + 1))


def fast_length(length: int) -> int:
    """Return the next length without prime factors above 7, at which transforms are fast."""
    while True:
        rest = length
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def heads_first(maps: Tensor) -> Tensor:
    """(B, H, W, h, ·) → (B, h, ·, H, W)."""
    return maps.permute(0, 3, 4, 1, 2).contiguous()
