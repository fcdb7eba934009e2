"""Which blocks of the skeleton use the mixer and which stay convolutional."""

from collections.abc import Sequence

from lambdanets.errors import UserError


def mixer_blocks(layout: str | Sequence[str | Sequence[int]], blocks: Sequence[int]) -> list[list[bool]]:
    """For each stage and block: does it use the mixer?

    Args:
        layout: one entry a stage: C (convolutions), L (the mixer), or the numbers, from 1, of the blocks with the mixer
            in a stage that is otherwise convolutional. "CCLL" is short for ["C", "C", "L", "L"] (paper, Table 8).
        blocks: number of blocks per stage.

    Raises:
        UserError: another number of stages, an unknown letter, or a block that the stage doesn't have.
    """
    if len(layout) != len(blocks):
        raise UserError(
            f"layout={layout} speaks of {len(layout)} stages, the model has {len(blocks)}: give one entry for each."
        )
    return [stage_blocks(entry, count) for entry, count in zip(layout, blocks, strict=True)]


def stage_blocks(entry: str | Sequence[int], count: int) -> list[bool]:
    if isinstance(entry, str):
        if entry not in ("C", "L"):
            raise UserError(
                f"layout has '{entry}' for a stage; use C (convolutions), L (the mixer) or a list of block numbers."
            )
        return [entry == "L"] * count
    if unknown := sorted(set(entry) - set(range(1, count + 1))):
        raise UserError(f"layout names blocks {unknown} of a stage that has blocks 1 to {count}.")
    return [number in entry for number in range(1, count + 1)]
