"""Models and tokenizers that a command line names: a Hugging Face folder, or a Python factory."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from ._told import UserError


def made_by(name: str, what: str) -> Any:
    """What the factory ``module:function`` returns; the module may lie in the current folder.

    Raises:
        UserError: no such module or function, or it failed.
    """
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{what} {name}: {error}") from error
    if not callable(factory):
        raise UserError(f"{what} {name}: expected a function without arguments, got {type(factory).__name__}")
    try:
        return factory()
    except Exception as error:
        raise UserError(f"{what} {name}: the factory raised {type(error).__name__}: {error}") from error


def is_factory(name: str) -> bool:
    return ":" in name and not Path(name).exists()


def tokenizer_of(name: str, *, trust_remote_code: bool = False) -> Any:
    """A tokenizer from a folder or a factory.

    Raises:
        UserError: there is none.
        ImportError: a folder, and transformers is not installed.
    """
    if is_factory(name):
        return made_by(name, "tokenizer")
    _folder(name, "tokenizer")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"tokenizer {name}: {_first_line(error)}") from error


def _folder(name: str, what: str) -> None:
    if not Path(name).is_dir():
        raise UserError(f"{what} {name}: expected a folder on this machine or module:factory; nothing is downloaded")
    try:
        importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            "a folder is loaded with transformers, which is not installed: pip install 'mdmcorrect[transformers]'"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
