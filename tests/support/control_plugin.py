"""A pytest plugin for python-control's own tests: its functions are replaced by ours before they are collected.

``BALRED_HIDE_SLYCOT=1`` makes slycot impossible to import.  Tests that python-control skips without slycot run either way,
because our functions do not need it.  The report, one line of JSON, goes to the file named by ``BALRED_REPORT``.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest


class HideSlycot:
    """Finds slycot, and says that it is not there."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "slycot":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if os.environ.get("BALRED_HIDE_SLYCOT"):
    sys.meta_path.insert(0, HideSlycot())

import control  # noqa: E402
import control.exception  # noqa: E402
import control.matlab  # noqa: E402
import control.modelsimp  # noqa: E402
import control.statefbk  # noqa: E402

from balred.adapters import control as ours  # noqa: E402

NAMES = [name for name in ours.__all__ if hasattr(control, name)]
calls: collections.Counter[str] = collections.Counter()
outcomes: collections.Counter[str] = collections.Counter()


def counted(name):
    function = getattr(ours, name)

    @functools.wraps(function)  # python-control's tests look for functions that take any keyword
    def replacement(*args, **kwargs):
        calls[name] += 1
        return function(*args, **kwargs)

    return replacement


for _name in NAMES:
    _replacement = counted(_name)
    for _module in (control, control.matlab, control.modelsimp, control.statefbk):
        if hasattr(_module, _name):
            setattr(_module, _name, _replacement)


def _minreal(self, tol=0.0):
    calls["StateSpace.minreal"] += 1
    return ours.statespace_minreal(self, tol)


control.StateSpace.minreal = _minreal
control.exception.slycot_installed = True  # while its tests are collected, which would mark some to be skipped


@pytest.fixture(autouse=True)
def _seed():
    np.random.seed(0)  # noqa: NPY002  python-control's random systems come from the global generator


def pytest_collection_finish():
    control.exception.slycot_installed = None  # look again


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.outcome] += 1


def pytest_sessionfinish():
    report = {"calls": calls, "outcomes": outcomes, "slycot": "slycot" in sys.modules}
    Path(os.environ["BALRED_REPORT"]).write_text(json.dumps(report), encoding="utf-8")
