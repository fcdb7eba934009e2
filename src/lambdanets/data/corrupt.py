"""Images that can't be decoded: skipped up to a share, named in a file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lambdanets.errors import UserError


class Corrupt:
    """A list on disk of the images that all processes of a run have found to be corrupt.

    Args:
        share: of a split's images, from 0 to 1, that may be.
        file: the list, one image a line, or None to keep none.
    """

    def __init__(self, share: float, file: Path | None = None) -> None:
        self.share = share
        self.file = file
        self.known: set[str] = set()

    def note(self, name: str, error: UserError, split: Sequence[tuple[str, int]]) -> None:
        """Adds an image, once.

        Args:
            name: of the image.
            error: why it can't be used, raised again where none may be skipped.
            split: all samples of its split, names and labels.

        Raises:
            UserError: more than the share are corrupt.
        """
        if self.share <= 0:
            raise error
        self.write([name])
        found = sum(sample in self.known for sample, _ in split)
        if found > self.share * len(split):
            place = f", see '{self.file}'" if self.file is not None else ""
            raise UserError(
                f"{found} images can't be decoded{place}; that is more than data.max_corrupt={self.share} of "
                f"{len(split)}: {error}"
            )

    def write(self, names: Iterable[str]) -> None:
        """Adds to the list what isn't in it."""
        if self.file is not None and self.file.is_file():
            self.known |= set(self.file.read_text().splitlines())
        fresh = [name for name in names if name not in self.known]
        self.known.update(fresh)
        if self.file is not None and fresh:
            with self.file.open("a") as lines:
                lines.writelines(f"{name}\n" for name in fresh)


def count_corrupt_images(file: Path) -> int:
    """Names in the list, which several processes may have put there."""
    return len(set(file.read_text().splitlines())) if file.is_file() else 0
