"""Files of ours in a folder, or in a repository of the Hugging Face hub."""

from __future__ import annotations

from os import PathLike
from pathlib import Path


def located(name: str | PathLike[str], file_name: str, revision: str | None) -> Path:
    """Where ``file_name`` is: in the folder ``name``, this file itself, or fetched from the repository ``owner/name``.

    Raises:
        FileNotFoundError: there is none.
        ImportError: ``name`` is no folder here, and there is no huggingface_hub to ask.
    """
    path = Path(name)
    if path.is_dir():
        path = path / file_name
    if not path.is_file() and not path.suffix and not path.is_absolute() and str(name).count("/") == 1:
        try:
            from huggingface_hub import hf_hub_download
        except ImportError as error:
            raise ImportError(f"{name} is no folder here; to look on the hub: pip install huggingface_hub") from error
        path = Path(hf_hub_download(str(name), file_name, revision=revision))
    if not path.is_file():
        raise FileNotFoundError(f"name: expected a folder with {file_name}, or that file, got {name}")
    return path
