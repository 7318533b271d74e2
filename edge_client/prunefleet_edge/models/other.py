"""Networks that are not ours: of an installed collection, or made by code of one's own. Never with shipped weights.

No function here downloads anything: weights are asked for by no one, and names that mean a download do not pass
``parse_spec``. What is made is run once, so that a wrong input or number of classes is found before any work.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from prunefleet_edge.local_code import load_code
from prunefleet_edge.models import ModelSpec, example_input
from prunefleet_edge.tracing import check_logits
from prunefleet_shared.errors import ConfigError, InputError, LayoutError


def from_code(spec: ModelSpec) -> nn.Module:
    """What ``package.module:factory`` makes, called with those of num_classes, in_channels and in_chans it takes.

    Whoever calls this has made sure that the person at this machine named the code.

    Raises:
        ConfigError: There is no such code.
        InputError: It fails, makes no module, or not one for this input and these classes.
    """
    factory = load_code(spec.architecture, "model")
    return _checked(spec, lambda: factory(**_taken(factory, spec)))


def from_collection(spec: ModelSpec) -> nn.Module:
    """A network of torchvision, timm or pytorchcv with fresh weights.

    Raises:
        ConfigError: The package is not installed or cannot be imported, or has no such network.
        InputError: The network is not for this input or number of classes.
    """
    collection, _, name = spec.architecture.partition(":")
    make = {"torchvision": _torchvision, "timm": _timm, "pytorchcv": _pytorchcv}[collection](name, spec)
    return _checked(spec, make)


def _taken(factory: Callable[..., Any], spec: ModelSpec) -> dict[str, int]:
    """The keyword arguments to call a factory with; one that takes any keyword gets the number of classes."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some callables have none to show
        return {}
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {parameter.name for parameter in parameters if parameter.kind in by_keyword}
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        names.add("num_classes")
    offered = {"num_classes": spec.num_classes, "in_channels": spec.input_chw[0], "in_chans": spec.input_chw[0]}
    return {name: value for name, value in offered.items() if name in names}


def _checked(spec: ModelSpec, make: Callable[[], object]) -> nn.Module:
    try:
        model = make()
    except Exception as error:  # code that is not ours may raise anything
        msg = f"{spec}: making the network failed: {type(error).__name__}: {error}"
        raise InputError(msg) from error
    if not isinstance(model, nn.Module):
        msg = f"{spec}: expected a torch.nn.Module, got a {type(model).__name__}"
        raise InputError(msg)
    example, was_training = example_input(spec), model.training
    try:
        with torch.no_grad():
            check_logits(model.eval()(example), example, str(spec), spec.num_classes)
    except LayoutError as error:
        raise InputError(str(error)) from error
    except Exception as error:  # as above
        msg = (
            f"{spec}: the network does not run on images {'x'.join(str(size) for size in spec.input_chw)}: "
            f"{type(error).__name__}: {error}; give the channels, height and width it is made for"
        )
        raise InputError(msg) from error
    return model.train(was_training)


def _torchvision(name: str, spec: ModelSpec) -> Callable[[], object]:
    models = _imported("torchvision.models")
    # Classifiers only: those for detection load a backbone's weights unless told not to.
    _check_known(spec, name, models.list_models(module=models))
    return lambda: models.get_model(name, weights=None, num_classes=spec.num_classes)


def _timm(name: str, spec: ModelSpec) -> Callable[[], object]:
    timm = _imported("timm")
    _check_known(spec, name, timm.list_models())
    channels = spec.input_chw[0]
    return lambda: timm.create_model(name, pretrained=False, num_classes=spec.num_classes, in_chans=channels)


def _pytorchcv(name: str, spec: ModelSpec) -> Callable[[], object]:
    # Its own index of networks imports torchvision for one of them; the file with this one is found by its text.
    module_name = _module_that_defines(name)
    module = _imported(f"pytorchcv.models.{module_name}") if module_name else _imported("pytorchcv")
    _check_known(spec, name, getattr(module, "__all__", ()))
    channels, height_width = spec.input_chw[0], spec.input_chw[1:]
    make = getattr(module, name)
    return lambda: make(pretrained=False, num_classes=spec.num_classes, in_channels=channels, in_size=height_width)


def _module_that_defines(name: str) -> str | None:
    """Which module of ``pytorchcv.models`` has a function ``name``; None if none has, or it is not installed."""
    package = importlib.util.find_spec("pytorchcv")
    folders = package.submodule_search_locations if package else None
    define = re.compile(rf"^def {re.escape(name)}\(", re.MULTILINE)
    for folder in folders or ():
        for path in sorted((Path(folder) / "models").glob("*.py")):
            if define.search(path.read_text(encoding="utf-8", errors="replace")):
                return path.stem
    return None


def _imported(module_name: str) -> ModuleType:
    package = module_name.partition(".")[0]
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise _broken(package, error) from error
        msg = f"networks named {package}:NAME need the package {package}; install it (pip install {package})"
        raise ConfigError(msg) from None
    except Exception as error:  # a torchvision built for another torch raises RuntimeError
        raise _broken(package, error) from error


def _broken(package: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{package} is installed but cannot be imported: {type(error).__name__}: {error}; it needs the packages it "
        "asks for, and a torchvision built for the same torch (with a CPU torch, take both from the CPU wheel index)"
    )


def _check_known(spec: ModelSpec, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "look at its list of models"
    msg = f"{spec}: {spec.architecture.partition(':')[0]} has no classifier {name!r}; {hint}"
    raise ConfigError(msg)
