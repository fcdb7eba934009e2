"""Dashed contours that don't touch: their geometry, and pictures of them.

Lengths are in pixels, points are (…, 2) as (row, column).
"""

from dataclasses import dataclass, fields
from math import pi

import torch
from torch import Tensor

STEP = 3.0  # from one dash's middle to the next
DASH = 0.7  # half of a dash's length
TURN = 0.45  # the largest change of direction between dashes, in radians
CLEARANCE = 3.5  # the least distance between dashes of different contours, and of dashes of one that aren't neighbours
BORDER = 3.0  # the least distance of a dash's middle from the image's edge
MARK = 1.5  # a mark's radius
GREY, WHITE = 0.6, 1.0  # of dashes and of marks
POOL = 2048  # scenes that are tried at a time
TRIES = 48  # contours that are drawn where one is to be found
PATCH = 7  # side of the square that a dash or a mark lies in


@dataclass(frozen=True)
class Scenes:
    """N scenes: two long contours with a mark at one end of each, or at both ends of one, and short distractors.

    Args:
        points: (N, P, 2) the middles of all dashes.
        headings: (N, P) their directions in radians.
        marks: (N, 2, 2).
        connected: (N,) boolean: do both marks lie on one contour?
    """

    points: Tensor
    headings: Tensor
    marks: Tensor
    connected: Tensor

    def __len__(self) -> int:
        return len(self.connected)

    def take(self, which: Tensor | slice) -> "Scenes":
        """Some of them."""
        return Scenes(self.points[which], self.headings[which], self.marks[which], self.connected[which])

    def chunks(self, size: int) -> list["Scenes"]:
        """All of them, so many at a time."""
        return [self.take(slice(start, start + size)) for start in range(0, len(self), size)]

    def with_contours(self, points: Tensor, headings: Tensor) -> "Scenes":
        """With a contour more in each."""
        return Scenes(
            torch.cat([self.points, points], 1), torch.cat([self.headings, headings], 1), self.marks, self.connected
        )


def scenes(count: int, *, side: int, length: int, distractors: int, short: int, seed: int) -> Scenes:
    """Random scenes, a function of the arguments.

    Whether the marks are connected can't be told from where they are: each scene has an end of the second contour that
    is as far (± 1.5 pixels) from the first mark as the first contour's other end is, and a fair coin decides which of
    the two is marked.

    Args:
        count: N.
        side: of the square images.
        length: dashes of each of the two long contours.
        distractors: number of short contours.
        short: dashes of each of them.
        seed: of all that is random.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[Scenes] = []
    while sum(map(len, parts)) < count:
        parts.append(attempt(side, length, distractors, short, generator))
    names = (field.name for field in fields(Scenes))
    return Scenes(*(torch.cat([getattr(part, name) for part in parts])[:count] for name in names))


def attempt(side: int, length: int, distractors: int, short: int, generator: torch.Generator) -> Scenes:
    """Those of POOL scenes for which a place was found for every contour."""
    points, headings, found = first_fit(random_starts(POOL, side, generator), None, length, side, generator)
    points, headings = points[found], headings[found]
    start, end = points[:, 0], points[:, -1]
    # The second contour starts as far from the first one's start as that one's end is.
    angle = 2 * pi * torch.rand(len(points), TRIES, generator=generator)
    distance = (end - start).norm(dim=-1)[:, None] + 3 * torch.rand(len(points), TRIES, generator=generator) - 1.5
    starts = start[:, None] + distance[..., None] * direction(angle)
    second, second_headings, found = first_fit(starts, points, length, side, generator)
    connected = torch.rand(len(points), generator=generator) < 0.5
    marks = torch.stack([start, torch.where(connected[:, None], end, second[:, 0])], 1)
    there = Scenes(points, headings, marks, connected).with_contours(second, second_headings).take(found)
    for _ in range(distractors):
        starts = random_starts(len(there), side, generator)
        more, more_headings, found = first_fit(starts, there.points, short, side, generator)
        there = there.with_contours(more, more_headings).take(found)
    return there


def random_starts(count: int, side: int, generator: torch.Generator) -> Tensor:
    return BORDER + (side - 1 - 2 * BORDER) * torch.rand(count, TRIES, 2, generator=generator)


def first_fit(
    starts: Tensor, others: Tensor | None, length: int, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """For each scene, the first of several random contours that lies within the image and touches nothing.

    Args:
        starts: (N, TRIES, 2) the contours' first points.
        others: (N, P, 2) points to keep clear of.
        length: dashes of a contour.
        side: of the image.
        generator: of the contours.

    Returns:
        Points (N, length, 2), headings (N, length), and whether there is such a contour (N,).
    """
    turns = TURN * (2 * torch.rand(*starts.shape[:2], length, generator=generator) - 1)
    turns[..., 0] = 2 * pi * torch.rand(starts.shape[:2], generator=generator)
    headings = turns.cumsum(-1)
    steps = STEP * direction((headings[..., 1:] + headings[..., :-1]) / 2)
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


def direction(angle: Tensor) -> Tensor:
    """Unit vectors (…, 2)."""
    return torch.stack([angle.sin(), angle.cos()], -1)


def draw(scenes: Scenes, side: int) -> Tensor:
    """Pictures of scenes, white on black: (N, 1, side, side) uint8."""
    images = torch.zeros(len(scenes.points), side * side)
    along = DASH * direction(scenes.headings)
    stroke(images, side, scenes.points, along, 1.2, GREY)
    stroke(images, side, scenes.marks, torch.zeros_like(scenes.marks), MARK + 0.5, WHITE)
    return (255 * images).round().to(torch.uint8).view(-1, 1, side, side)


def stroke(images: Tensor, side: int, points: Tensor, along: Tensor, reach: float, shade: float) -> None:
    """Draws, into images (N, side²), what is nearer than reach to the segments from point − along to point + along."""
    offset = torch.arange(PATCH) - PATCH // 2
    corner = points.round()
    rows, columns = (corner[..., axis, None] + offset for axis in (0, 1))  # (N, P, PATCH)
    dy = rows[..., :, None] - points[..., 0, None, None]
    dx = columns[..., None, :] - points[..., 1, None, None]
    ay, ax = along[..., 0, None, None], along[..., 1, None, None]
    share = ((dy * ay + dx * ax) / (ay**2 + ax**2).clamp(min=1e-9)).clamp(-1, 1)
    distance = torch.hypot(dy - share * ay, dx - share * ax)
    value = shade * (reach - distance).clamp(0, 1)
    place = rows.clamp(0, side - 1)[..., :, None] * side + columns.clamp(0, side - 1)[..., None, :]
    inside = ((rows >= 0) & (rows < side))[..., :, None] & ((columns >= 0) & (columns < side))[..., None, :]
    images.scatter_reduce_(1, place.long().flatten(1), (value * inside).flatten(1), "amax")
