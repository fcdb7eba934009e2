"""Images that can't be decoded: skipped up to a limit and listed in a file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lambdanets.errors import UserError, printable


class CorruptImages:
    """The corrupt images that the processes of a run have come across, listed in a file that they share.

    Args:
        max_fraction: fraction of a split's images that may be corrupt.
        file: the list, one name per line as `printable` writes it, or None for no file.
    """

    def __init__(self, max_fraction: float, file: Path | None = None) -> None:
        self.max_fraction = max_fraction
        self.file = file
        self.names: set[str] = set()

    def add(self, name: str, error: UserError, samples: Sequence[tuple[str, int]]) -> None:
        """Add an image to the list, once.

        Args:
            name: name of the image.
            error: the reason, raised if no image may be skipped.
            samples: (name, label) of all images of the split.

        Raises:
            UserError: more images are corrupt than may be.
        """
        if self.max_fraction <= 0:
            raise error
        if printable(name) in self.names:
            return  # counted when it was added
        self.write([name])
        count = sum(printable(sample) in self.names for sample, _ in samples)
        if count > self.max_fraction * len(samples):
            listed = f", see '{self.file}'" if self.file is not None else ""
            raise UserError(
                f"{count} of {len(samples)} images can't be decoded{listed}; that is more than "
                f"data.max_corrupt={self.max_fraction} allows: {error}"
            )

    def write(self, names: Iterable[str]) -> None:
        """Append the names that are not in the list yet."""
        if self.file is not None:
            self.names |= read_names(self.file)
        new_names = [name for name in map(printable, names) if name not in self.names]
        self.names.update(new_names)
        if self.file is not None and new_names:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.writelines(f"{name}\n" for name in new_names)

    def start_file(self, file: Path) -> None:
        """List the images, with those that are known so far, in a new file."""
        file.unlink(missing_ok=True)
        names, self.names = sorted(self.names), set()
        self.file = file
        self.write(names)


def read_names(file: Path) -> set[str]:
    """Return the distinct names in a list; several processes may have added the same one."""
    return set(file.read_text(encoding="utf-8", errors="replace").splitlines()) if file.is_file() else set()


def count_corrupt_images(file: Path) -> int:
    """Count the distinct names in the list."""
    return len(read_names(file))
