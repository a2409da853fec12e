"""Constructors of nilearn's estimators with parameters for streaming after their own."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["MAX_MEMORY", "MODEL_MEMORY", "streaming_class"]

MAX_MEMORY = "16MiB"
"""Default of ``max_memory``."""
MODEL_MEMORY = "32MiB"
"""That of models, which are faster with more voxels at a time."""

_SHOWS = ("__repr__", "_repr_html_", "_repr_mimebundle_", "generate_report")
"""Methods that show an estimator with its parameters."""

_PARAMETERS = """

    Parameters
    ----------
    *args, **parameters
        As of nilearn's, in the same order and with the same defaults.
    max_memory : int or str
        {memory}
    storage_options : mapping, optional
        For URLs of runs, passed to fsspec.
"""


def streaming_class(memory: str, rest: str, default: str = MAX_MEMORY) -> Callable[[Any], Any]:
    """Give an estimator the parameters of nilearn's, and ours after them: scikit-learn reads them.

    Parameters
    ----------
    memory : str
        Sentence of the docstring about ``max_memory``.
    rest : str
        Sections of the docstring that follow the parameters.
    default : str
        Of ``max_memory``.
    """

    def decorate(cls: Any) -> Any:
        base = cls.__bases__[-1]

        def init(
            self: Any,
            *args: Any,
            max_memory: int | str = default,
            storage_options: Mapping[str, Any] | None = None,
            **parameters: Any,
        ) -> None:
            base.__init__(self, *args, **parameters)
            self.max_memory = max_memory
            self.storage_options = storage_options

        signature = inspect.signature(base)
        itself, *_, ours, also, _ = inspect.signature(init).parameters.values()
        every = [itself, *signature.parameters.values(), ours, also]
        made: Any = init
        made.__signature__ = signature.replace(
            parameters=[p.replace(annotation=inspect.Parameter.empty) for p in every]
        )
        cls.__init__ = made
        cls.__doc__ = f"{cls.__doc__}{_PARAMETERS.format(memory=memory)}{rest}"
        for name in _SHOWS:
            if hasattr(cls, name):
                setattr(cls, name, _without_secrets(cls, name))
        return cls

    return decorate


def _without_secrets(cls: Any, name: str) -> Any:
    """The method of a class that shows an estimator, for one whose options are hidden."""
    plainly = getattr(cls, name)

    def show(self: Any, *args: Any, **parameters: Any) -> Any:
        hidden = self
        if self.storage_options:
            hidden = copy.copy(self)
            hidden.storage_options = dict.fromkeys(self.storage_options, "***")
        return getattr(super(cls, hidden), name)(*args, **parameters)

    return functools.wraps(plainly)(show) if callable(plainly) else show
