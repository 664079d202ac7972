"""The common tests of the installed transformers, imported from its source distribution.

They are in no wheel. The folder that the environment variable names holds an unpacked source distribution of the
installed version. It leaves out some modules that the common tests import; they get stand-ins, which hold what is
needed to define and run the tests that are there.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import transformers

from hub.common import processes

VARIABLE = "ORTHOSTREAM_TRANSFORMERS_SOURCE"
PACKAGE = "transformers_source_tests"
VERSION = transformers.__version__

HOW_TO_GET_IT = (
    f"the common tests are in the source distribution alone: "
    f"pip download --no-deps --no-binary :all: transformers=={VERSION}, unpack it, and set {VARIABLE} to its folder"
)


def reason_to_skip() -> str | None:
    """Why the common tests cannot run here; ``None`` where they can."""
    given = os.environ.get(VARIABLE)
    if not given:
        return f"{VARIABLE} is not set; {HOW_TO_GET_IT}"
    folder = Path(given)
    if not (folder / "tests" / "test_modeling_common.py").is_file():
        return f"{VARIABLE}={given} holds no tests/test_modeling_common.py; {HOW_TO_GET_IT}"
    information = folder / "PKG-INFO"
    if not information.is_file() or f"Version: {VERSION}" not in information.read_text(encoding="utf-8").splitlines():
        return f"{VARIABLE}={given} is not the source distribution of the installed version; {HOW_TO_GET_IT}"
    return None


def module(name: str) -> ModuleType:
    """A module of the source distribution's ``tests`` folder.

    Args:
        name: such as ``test_modeling_common``.
    """
    with _stand_ins(Path(os.environ[VARIABLE]) / "tests"):
        return import_module(f"{PACKAGE}.{name}")


class Parameterized:
    """What the tests use of the package ``parameterized``: one method for each row of a table, with its names."""

    @staticmethod
    def expand(rows: Any) -> Callable[[Callable[..., None]], None]:
        """A decorator that puts ``NAME_INDEX[_WORD]`` for each row in the place of the function ``NAME``."""

        def expanded(function: Callable[..., None]) -> None:
            # the namespace of the class whose body is being executed
            namespace = sys._getframe(1).f_locals
            for index, row in enumerate(rows):
                arguments = row if isinstance(row, tuple) else (row,)
                word = f"_{arguments[0]}" if isinstance(arguments[0], str) else ""
                namespace[f"{function.__name__}_{index}{word}"] = _bound(function, arguments)

        return expanded


def _bound(function: Callable[..., None], arguments: tuple[Any, ...]) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        function(self, *arguments)

    test.__doc__ = function.__doc__
    return test


class ExportTesterMixin:
    """Its module is not in the source distribution; so it has no tests here."""


class GenerationTesterMixin:
    """Its module is not in the source distribution; so it has no tests here."""


# Keys that every config takes, with values other than their defaults.
COMMON_KEYS = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SomeModel"],
    "id2label": {0: "first", 1: "second", 2: "third"},
    "label2id": {"first": 0, "second": 1, "third": 2},
    "problem_type": "regression",
}

STAND_INS: dict[str, dict[str, Any]] = {
    "parameterized": {"parameterized": Parameterized},
    f"{PACKAGE}.exporters": {"__path__": []},
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": ExportTesterMixin},
    f"{PACKAGE}.generation": {"__path__": []},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": GenerationTesterMixin},
    f"{PACKAGE}.distributed_testing_utils": processes.NAMES,
    f"{PACKAGE}.utils": {"__path__": []},
    f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": COMMON_KEYS},
}


@contextmanager
def _stand_ins(folder: Path) -> Iterator[None]:
    """The package and its stand-ins are known for as long as its modules are being imported."""
    package = ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    # relative imports ask the spec
    package.__spec__ = ModuleSpec(PACKAGE, None, is_package=True)
    sys.modules.setdefault(PACKAGE, package)
    made = {}
    for name, contents in STAND_INS.items():
        made[name] = ModuleType(name)
        made[name].__dict__.update(contents)
    # The tests of configs would import a second copy of the library from a place that is not in the distribution.
    with (
        mock.patch.dict(sys.modules, made),
        mock.patch("transformers.utils.direct_transformers_import", lambda *_: transformers),
    ):
        known = set(sys.modules)
        yield
        kept = {name: value for name, value in sys.modules.items() if name not in known}
    sys.modules.update(kept)
