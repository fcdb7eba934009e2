"""Downloads from the Hugging Face hub, by its own client."""

from pathlib import Path

from lambdanets.errors import UserError

HUB_PREFIX = "hf-hub:"


def download_from_hub(source: str, file: str | None = None) -> Path:
    """Return a model's folder, or one file of it, in the hub's cache on this machine; download what is missing.

    Args:
        source: `hf-hub:<user>/<name>`, or the same without `hf-hub:`.
        file: name of the file; None for the folder.

    Raises:
        UserError: the client isn't installed, there is no such model, or the hub can't be reached.
    """
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError as error:
        raise UserError(
            f"'{source}' is on the Hugging Face hub, and huggingface-hub is not installed: pip install -e '.[hub]'"
        ) from error
    name = source.removeprefix(HUB_PREFIX)
    try:
        return Path(hf_hub_download(name, file) if file else snapshot_download(name))
    except Exception as error:  # the client's releases differ in their kinds of errors
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"'{name}' could not be downloaded from the Hugging Face hub ({reason}): check the name and the network, "
            "or give a folder or file of this machine."
        ) from error
