"""Dashed contours that don't touch each other: their geometry, and how they are drawn.

Lengths are in pixels, points are (…, 2) as (row, column).
"""

from dataclasses import dataclass, fields
from math import pi

import torch
from torch import Tensor

STEP = 3.0  # between the centers of consecutive dashes
DASH = 0.7  # half the length of a dash
TURN = 0.45  # largest change of direction between dashes, in radians
CLEARANCE = 3.5  # least distance between the centers of dashes that are not neighbors on one contour
BORDER = 3.0  # least distance between the center of a dash and the edge of the image
MARK = 1.5  # radius of a mark
GRAY, WHITE = 0.6, 1.0  # brightness of dashes and of marks
POOL = 2048  # scenes that are sampled at a time
CANDIDATES = 48  # contours that are sampled for each one that is needed
PATCH = 7  # side of the square of pixels that a dash or a mark is drawn in


@dataclass(frozen=True)
class ContourScenes:
    """N scenes: two long contours, two marks, and short distractor contours.

    The marks are at both ends of one long contour, or at one end of each.

    Args:
        points: (N, P, 2) centers of all dashes.
        headings: (N, P) directions of the dashes in radians.
        marks: (N, 2, 2) centers of the marks.
        connected: (N,) boolean, True if both marks are on one contour.
    """

    points: Tensor
    headings: Tensor
    marks: Tensor
    connected: Tensor

    def __len__(self) -> int:
        return len(self.connected)

    def select(self, index: Tensor | slice) -> "ContourScenes":
        """Return a part of the scenes."""
        return ContourScenes(self.points[index], self.headings[index], self.marks[index], self.connected[index])

    def chunks(self, size: int) -> list["ContourScenes"]:
        """Divide the scenes into parts of at most that size."""
        return [self.select(slice(start, start + size)) for start in range(0, len(self), size)]

    def add_contour(self, points: Tensor, headings: Tensor) -> "ContourScenes":
        """Return the scenes with one more contour each."""
        return ContourScenes(
            torch.cat([self.points, points], 1), torch.cat([self.headings, headings], 1), self.marks, self.connected
        )


def sample_scenes(
    count: int, *, side: int, length: int, distractors: int, distractor_length: int, seed: int
) -> ContourScenes:
    """Sample scenes, a function of the arguments.

    The positions of the marks don't reveal if they are connected: in each scene, one end of the second contour is as
    far (± 1.5 pixels) from the first mark as the other end of the first contour is, and a fair coin decides which of
    these two ends has the second mark.

    Args:
        count: N.
        side: side of the square images.
        length: dashes of each of the two long contours.
        distractors: number of short contours.
        distractor_length: dashes of each short contour.
        seed: seed of all random draws.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[ContourScenes] = []
    while sum(map(len, parts)) < count:
        parts.append(sample_pool(side, length, distractors, distractor_length, generator))
    names = (field.name for field in fields(ContourScenes))
    return ContourScenes(*(torch.cat([getattr(part, name) for part in parts])[:count] for name in names))


def sample_pool(
    side: int, length: int, distractors: int, distractor_length: int, generator: torch.Generator
) -> ContourScenes:
    """Try to sample POOL scenes; return those in which all contours could be placed."""
    points, headings, placed = place_contours(sample_starts(POOL, side, generator), None, length, side, generator)
    points, headings = points[placed], headings[placed]
    start, end = points[:, 0], points[:, -1]
    # The second contour starts as far from the start of the first as that one's end.
    angle = 2 * pi * torch.rand(len(points), CANDIDATES, generator=generator)
    distance = (end - start).norm(dim=-1)[:, None] + 3 * torch.rand(len(points), CANDIDATES, generator=generator) - 1.5
    starts = start[:, None] + distance[..., None] * unit_vectors(angle)
    second, second_headings, placed = place_contours(starts, points, length, side, generator)
    connected = torch.rand(len(points), generator=generator) < 0.5
    marks = torch.stack([start, torch.where(connected[:, None], end, second[:, 0])], 1)
    scenes = ContourScenes(points, headings, marks, connected).add_contour(second, second_headings).select(placed)
    for _ in range(distractors):
        starts = sample_starts(len(scenes), side, generator)
        points, headings, placed = place_contours(starts, scenes.points, distractor_length, side, generator)
        scenes = scenes.add_contour(points, headings).select(placed)
    return scenes


def sample_starts(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Sample starts of contours, (count, CANDIDATES, 2), uniformly within the border."""
    return BORDER + (side - 1 - 2 * BORDER) * torch.rand(count, CANDIDATES, 2, generator=generator)


def place_contours(
    starts: Tensor, others: Tensor | None, length: int, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """For each scene, return the first of several random contours that is within the image and touches nothing.

    Args:
        starts: (N, CANDIDATES, 2) first points of the contours.
        others: (N, P, 2) points of other contours, or None.
        length: dashes of a contour.
        side: side of the image.
        generator: source of the random contours.

    Returns:
        Points (N, length, 2), headings (N, length), and a boolean (N,), True if there is such a contour.
    """
    turns = TURN * (2 * torch.rand(*starts.shape[:2], length, generator=generator) - 1)
    turns[..., 0] = 2 * pi * torch.rand(starts.shape[:2], generator=generator)
    headings = turns.cumsum(-1)
    steps = STEP * unit_vectors((headings[..., 1:] + headings[..., :-1]) / 2)
    points = torch.cat([starts[:, :, None], starts[:, :, None] + steps.cumsum(2)], 2)
    fits = ((points >= BORDER) & (points <= side - 1 - BORDER)).flatten(2).all(-1)
    apart = torch.cdist(points, points) >= CLEARANCE
    index = torch.arange(length)
    fits &= (apart | ((index[:, None] - index).abs() < 2)).flatten(2).all(-1)
    if others is not None:
        fits &= (torch.cdist(points, others[:, None]) >= CLEARANCE).flatten(2).all(-1)
    first = fits.int().argmax(1)
    scene = torch.arange(len(starts))
    return points[scene, first], headings[scene, first], fits.any(1)


def unit_vectors(angle: Tensor) -> Tensor:
    """Return the unit vectors, (…, 2), of angles in radians."""
    return torch.stack([angle.sin(), angle.cos()], -1)


def draw(scenes: ContourScenes, side: int) -> Tensor:
    """Draw scenes, white on black: (N, 1, side, side) uint8."""
    images = torch.zeros(len(scenes.points), side * side)
    draw_segments(images, side, scenes.points, DASH * unit_vectors(scenes.headings), 1.2, GRAY)
    draw_segments(images, side, scenes.marks, torch.zeros_like(scenes.marks), MARK + 0.5, WHITE)
    return (255 * images).round().to(torch.uint8).view(-1, 1, side, side)


def draw_segments(images: Tensor, side: int, centers: Tensor, half: Tensor, reach: float, brightness: float) -> None:
    """Draw anti-aliased segments from center − half to center + half into images.

    Args:
        images: (N, side²), changed in place.
        side: side of the images.
        centers: (N, P, 2) centers of the segments.
        half: (N, P, 2) vectors from a center to an end.
        reach: distance from a segment at which its brightness has faded to 0.
        brightness: brightness at a distance of reach − 1 and below.
    """
    offset = torch.arange(PATCH) - PATCH // 2
    middle = centers.round()
    rows, columns = (middle[..., axis, None] + offset for axis in (0, 1))  # (N, P, PATCH)
    dy = rows[..., :, None] - centers[..., 0, None, None]
    dx = columns[..., None, :] - centers[..., 1, None, None]
    half_y, half_x = half[..., 0, None, None], half[..., 1, None, None]
    # Position of the nearest point on the segment, from -1 to 1.
    nearest = ((dy * half_y + dx * half_x) / (half_y**2 + half_x**2).clamp(min=1e-9)).clamp(-1, 1)
    distance = torch.hypot(dy - nearest * half_y, dx - nearest * half_x)
    value = brightness * (reach - distance).clamp(0, 1)
    pixel = rows.clamp(0, side - 1)[..., :, None] * side + columns.clamp(0, side - 1)[..., None, :]
    inside = ((rows >= 0) & (rows < side))[..., :, None] & ((columns >= 0) & (columns < side))[..., None, :]
    images.scatter_reduce_(1, pixel.long().flatten(1), (value * inside).flatten(1), "amax")
