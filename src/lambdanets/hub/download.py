"""Models on the Hugging Face hub, by its own client."""

from pathlib import Path

from lambdanets.errors import UserError

HUB = "hf-hub:"


def download_from_hub(source: str, file: str | None = None) -> Path:
    """A model's folder, or one file of it, in the hub's cache on this machine; downloaded if it isn't there yet.

    Args:
        source: `hf-hub:<user>/<name>`, or the same without `hf-hub:`.
        file: which one; None for the folder.

    Raises:
        UserError: the client isn't installed, there is no such model, or the hub can't be reached.
    """
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError as error:
        raise UserError(
            f"'{source}' is on the Hugging Face hub, and huggingface-hub is not installed: pip install -e '.[hub]'"
        ) from error
    name = source.removeprefix(HUB)
    try:
        return Path(hf_hub_download(name, file) if file else snapshot_download(name))
    except Exception as error:  # of many kinds, of which each release has others
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"'{name}' can't be had from the Hugging Face hub ({reason}): check the name and the network, or give a "
            "folder or file of this machine."
        ) from error
