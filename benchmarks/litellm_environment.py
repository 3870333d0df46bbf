"""The virtual environment that LiteLLM runs in: it is no dependency of this project, and pins many others.

It is made once, with pip from the package index that pip is set up for, and made anew when the pin, the OpenAI
SDK of the project or Python changes. ``make clean`` removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

__all__ = ["LITELLM", "EnvironmentMissingError", "interpreter"]

LITELLM = "litellm==1.110.2"

_ROOT = Path(__file__).parents[1]
_FOLDER = _ROOT / ".venv-bench-litellm"
_INSTALL_SECONDS = 600


class EnvironmentMissingError(Exception):
    """LiteLLM can't be installed here; the message says why."""


def interpreter() -> Path:
    """Return the Python that has LiteLLM, after installing it if need be. Raises EnvironmentMissingError."""
    # The same OpenAI SDK for everybody.
    wanted = [LITELLM, f"openai=={version('openai')}"]
    python = _FOLDER / "bin" / "python"
    made = _FOLDER / ".installed"
    content = "\n".join([sys.version, *wanted])
    with _one_at_a_time():
        if not made.exists() or made.read_text(encoding="utf-8") != content:
            shutil.rmtree(_FOLDER, ignore_errors=True)
            sys.stderr.write(f"Installing {LITELLM} into {_FOLDER.name}, once\n")
            _run([sys.executable, "-m", "venv", str(_FOLDER)])
            _run([str(python), "-m", "pip", "--disable-pip-version-check", "install", "-qq", *wanted])
            made.write_text(content, encoding="utf-8")
    return python


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait while another run of the benchmark makes the environment."""
    locked = os.open(Path(__file__).parent, os.O_RDONLY)
    try:
        fcntl.flock(locked, fcntl.LOCK_EX)
        yield
    finally:
        os.close(locked)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, stdout=sys.stderr, timeout=_INSTALL_SECONDS, check=True)  # noqa: S603 - our own
    except (OSError, subprocess.SubprocessError) as error:
        # What pip says, on standard error, may name the package index; this goes into the document.
        raise EnvironmentMissingError(f"{LITELLM} could not be installed ({type(error).__name__})") from error
