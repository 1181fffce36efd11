"""Models and tokenizers that a command line names: a Hugging Face folder, or a Python factory."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Loaded:
    """A model as a sampler takes it, and the tokenizer that came with it, if any. ``network``: the module itself."""

    model: Any
    tokenizer: Any
    network: Any

    def identifier(self, given: int | None, name: str) -> int | None:
        """The id of a special token: given, the tokenizer's, or the model's configuration's."""
        if given is not None:
            return given
        for place in (self.tokenizer, getattr(self.network, "config", None)):
            found = getattr(place, f"{name}_token_id", None)
            if isinstance(found, int) and found >= 0:
                return found
        return None


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What names a model, and says how it is loaded."""
    parser.add_argument("model", help="a Hugging Face model's folder, or module:factory (nothing is downloaded)")
    parser.add_argument("--tokenizer", help="folder or module:factory; default: the model's")
    parser.add_argument("--device", default="cpu", help='"cpu" (default), "cuda" or "cuda:1"')
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as saved")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run the Python that lies in the model's folder"
    )
    parser.add_argument("--shift", action="store_true", help="logits describe the next token, as Dream's do")
    parser.add_argument(
        "--quality-head", metavar="PATH", help="a saved quality head; default: quality_head.safetensors in the folder"
    )
    parser.add_argument("--head-module", metavar="NAME", help="submodule the head listens to; default: hidden states")
    parser.add_argument("--mask-id", type=int, help="the mask token; default: the tokenizer's or the model's")
    parser.add_argument("--traceback", action="store_true", help="show Python's traceback of what goes wrong")


def model_of(args: argparse.Namespace) -> Loaded:
    """The model that the arguments of :func:`add_model_arguments` name.

    Raises:
        UserError: there is none.
        ImportError: a folder, and transformers is not installed.
    """
    import torch

    try:
        device = torch.device(args.device)
        torch.empty(0, dtype=torch.float32, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {args.device}: {_first_line(error)}") from error
    tokenizer = None
    if is_factory(args.model):
        model = made_by(args.model, "model")
        if isinstance(model, tuple):
            if len(model) != 2:
                raise UserError(
                    f"model {args.model}: expected a model, or a model and a tokenizer, got {len(model)} things"
                )
            model, tokenizer = model
        if not callable(model):
            raise UserError(f"model {args.model}: expected something to call, got {type(model).__name__}")
    else:
        _folder(args.model, "model")
        model = _from_folder(args.model, args.dtype, args.trust_remote_code)
        if args.tokenizer is None:
            tokenizer = _tokenizer_beside(args.model, args.trust_remote_code)
    if args.tokenizer is not None:
        tokenizer = tokenizer_of(args.tokenizer, trust_remote_code=args.trust_remote_code)
    model = _with_head(model, args)
    network = model
    if isinstance(model, torch.nn.Module):
        model.to(device=device, dtype=None if args.dtype is None else getattr(torch, args.dtype)).eval()
    if args.shift:
        from mdmcorrect.adapters import RightShifted

        model = RightShifted(model)
    return Loaded(model, tokenizer, network)


def _tokenizer_beside(folder: str, trust_remote_code: bool) -> Any:
    """The tokenizer in a model's folder, or None if it has none."""
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
    if not any((Path(folder) / name).exists() for name in names):
        return None
    return tokenizer_of(folder, trust_remote_code=trust_remote_code)


def _from_folder(folder: str, dtype: str | None, trust_remote_code: bool) -> Any:
    """A Hugging Face model with an output layer: the class it says it is, or the first that takes its configuration."""
    import torch
    import transformers

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    autos = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        own = [name for name in autos if name in (getattr(config, "auto_map", None) or {})]
        said = str((getattr(config, "architectures", None) or [""])[0])
        kinds = [name for name in autos if said.endswith(name.removeprefix("AutoModel")) and name != "AutoModel"]
        auto = getattr(transformers, (own or kinds or autos[:1])[0])
        kind = "auto" if dtype is None else getattr(torch, dtype)
        return auto.from_pretrained(folder, dtype=kind, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"model {folder}: {_first_line(error)}") from error


def _with_head(model: Any, args: argparse.Namespace) -> Any:
    """The model with its quality head, if there is one."""
    from mdmcorrect.heads import FILE_NAME, QualityHead, attach

    path = args.quality_head
    if path is None and not is_factory(args.model) and (Path(args.model) / FILE_NAME).exists():
        path = args.model
    if path is None:
        if args.head_module is not None:
            raise UserError("--head-module: there is no quality head to listen there; name it with --quality-head")
        return model
    try:
        return attach(model, QualityHead.load(path), module=args.head_module)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"--quality-head {path}: {_first_line(error)}") from error
