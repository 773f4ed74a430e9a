"""Import an optional package, or say which extra brings it."""

import importlib
import importlib.util
from types import ModuleType

from ochatctl.errors import MissingExtra


def has(module: str) -> bool:
    """Tell whether a package is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`.

    Raises:
        MissingExtra: with the pip command that installs the extra.
    """
    package = module.partition(".")[0]
    if not has(package):
        raise MissingExtra(f"`{package}` is not installed", hint=f"pip install 'ochatctl[{extra}]'")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"`{module}` is installed but cannot be imported: {error}", hint="ochatctl doctor"
        ) from error
