"""Scripts of roles that run on hosts, as modules of a test."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from types import ModuleType

from tests.support.box import CHECKOUT


def loaded(path: str) -> ModuleType:
    """A script, which need not have a module's name.

    Args:
        path: its path in the checkout.
    """
    loader = SourceFileLoader("script", str(CHECKOUT / path))
    spec = importlib.util.spec_from_loader("script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
