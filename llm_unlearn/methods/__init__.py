"""Ways to unlearn. A file of this folder that ends with a `METHOD` is one: equation, source, configuration, trainer.

Another package adds its own by an entry point of the group `llm_unlearn.methods`:

    [project.entry-points."llm_unlearn.methods"]
    unlikelihood = "their_package.unlikelihood:METHOD"

Names and summaries are read from the sources: lists and help must not wait for what takes seconds to import.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llm_unlearn.errors import InputError
from llm_unlearn.files.records import files_with, summary_in

if TYPE_CHECKING:
    from llm_unlearn.methods.method import Method

GROUP = "llm_unlearn.methods"
RECORD = "METHOD"


def method_files() -> dict[str, Path]:
    """Name -> source of every method, ours and those of installed packages; nothing of them is imported.

    Raises:
        InputError: a package offers a name that is taken, or a module that is not there.
    """
    found = files_with(Path(__file__).parent, RECORD)
    for name, point in _offered().items():
        if name in found:
            raise InputError(f"method {name!r} of {point.dist.name} is a method of llm_unlearn; rename theirs")
        try:
            spec = find_spec(point.module)
        except ImportError:  # of a package around it
            spec = None
        if spec is None or spec.origin is None:
            raise InputError(f"method {name!r} of {point.dist.name}: there is no module {point.module}")
        found[name] = Path(spec.origin)
    return found


def summaries() -> dict[str, str]:
    """Name -> what the method does, in a line."""
    return {name: summary_in(path, RECORD) for name, path in method_files().items()}


@cache
def load_method(name: str) -> Method:
    """The record of a method.

    Raises:
        InputError: no such method, or a package's entry point that is no `Method` of that name.
    """
    known = method_files()
    if name not in known:
        raise InputError(f"{name!r} is no method; choose from {', '.join(known)}")
    if point := _offered().get(name):
        from llm_unlearn.methods.method import Method

        try:
            method = point.load()
        except Exception as error:  # whatever somebody else's code does when it is imported
            words = " ".join(str(error).split())
            raise InputError(
                f"method {name!r} of {point.dist.name}: {point.value} cannot be imported ({type(error).__name__}: "
                f"{words}); mend or remove that package"
            ) from error
        if not isinstance(method, Method) or method.name != name:
            raise InputError(f"method {name!r} of {point.dist.name}: {point.value} is no Method of that name")
        return method
    return import_module(f"{__name__}.{name}").METHOD


def load_methods() -> dict[str, Method]:
    """All methods by name."""
    return {name: load_method(name) for name in method_files()}


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
