"""Patchwise self-attention (Zhao et al. 2020)."""

from torch import Tensor, nn
from torch.nn import functional as F

from lambdanets.errors import UserError
from lambdanets.mixers.interface import stride_pool
from lambdanets.mixers.local_relation import check_groups
from lambdanets.mixers.neighborhood import check_scope


class PatchwiseAttention(nn.Module):
    """Patchwise self-attention: y_n^g = Σ_m α(x_R(n))_m^g x_m^g over the r × r positions R(n) around n, no softmax.

    A network of the whole patch gives the weights α of all positions at once: γ(concat(φ(x_n), ψ(x_m) for all m in
    R(n))), where γ is a layer, a ReLU and a layer. The values are x itself: the 1×1 convolution at the start of the
    bottleneck takes the place of the paper's β. The channels of a group share their weights. The first layer of γ on
    the concatenation is a 1×1 convolution of φ(x) plus an r × r convolution of ψ(x). Positions beyond the map are zero.

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)

    Args:
        channels: C.
        stride: 2 appends a 3×3 average pooling.
        feature_size: ignored.
        scope: r, odd.
        group_channels: channels per group.
        reduction: C / channels of φ, ψ and γ.

    Raises:
        UserError: group_channels doesn't divide the channels, the reduction leaves none, or the scope is even.
    """

    def __init__(
        self,
        channels: int,
        *,
        stride: int = 1,
        feature_size: tuple[int, int] | None = None,
        scope: int = 7,
        group_channels: int = 8,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        check_scope(scope)
        check_groups(group_channels, channels)
        if not 1 <= reduction <= channels:
            raise UserError(f"reduction={reduction} must be from 1 to the {channels} channels of a layer.")
        self.scope = scope
        self.groups = channels // group_channels
        inner_channels = channels // reduction
        self.phi = nn.Conv2d(channels, inner_channels, 1, bias=False)
        self.psi = nn.Conv2d(channels, inner_channels, 1, bias=False)
        self.from_query = nn.Conv2d(inner_channels, inner_channels, 1)
        self.from_patch = nn.Conv2d(inner_channels, inner_channels, scope, padding=scope // 2, bias=False)
        self.weigh = nn.Conv2d(inner_channels, self.groups * scope**2, 1)
        self.pool = stride_pool(stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.from_query(self.phi(x)) + self.from_patch(self.psi(x)))
        weights = self.weigh(hidden).unflatten(1, (self.scope**2, self.groups, 1)).unbind(1)
        height, width = x.shape[2:]
        padded = F.pad(x, [self.scope // 2] * 4).unflatten(1, (self.groups, -1))
        y = x.new_zeros(()).to(weights[0].dtype)
        # One position of the patch at a time: the unfolded patches never exist in memory.
        for i in range(self.scope):
            for j in range(self.scope):
                y = y + weights[self.scope * i + j] * padded[..., i : i + height, j : j + width]
        return self.pool(y.flatten(1, 2))
