"""The secrets that the processes of one stack share, made once and kept in its home."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from stack.errors import StackError

__all__ = ["Keys"]


@dataclass(frozen=True)
class Keys:
    """``fernet`` encrypts connections in the database, ``jwt`` and ``api_secret`` sign."""

    fernet: str = field(repr=False)
    jwt: str = field(repr=False)
    api_secret: str = field(repr=False)

    @classmethod
    def make(cls) -> Keys:
        """Return new random keys."""
        # A Fernet key is 32 bytes in URL-safe base64 (the cryptography package's fernet.py).
        fernet = base64.urlsafe_b64encode(os.urandom(32)).decode()
        return cls(fernet=fernet, jwt=secrets.token_urlsafe(64), api_secret=secrets.token_urlsafe(64))

    @classmethod
    def load(cls, home: Path) -> Keys:
        """Read the keys of a home (``keys.json``, readable by its owner only); make them if there are none.

        Raises ``StackError`` where the file can't be read as such: new keys would make all that the old ones
        encrypted unreadable.
        """
        path = home / "keys.json"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                cls._write(path)
            return cls._read(path)
        except OSError as error:
            raise StackError(
                f"{home} can't keep the stack's state: {error}. Set COGNITIONOS_HOME to a directory of yours."
            ) from error

    @classmethod
    def _write(cls, path: Path) -> None:
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(cls.make()), file)
        try:
            os.link(draft, path)  # and not replace(): of two first starts at once, one's keys must win
        except FileExistsError:
            pass
        finally:
            draft.unlink()

    @classmethod
    def _read(cls, path: Path) -> Keys:
        try:
            data = json.loads(path.read_text())
            values = {found.name: data[found.name] for found in fields(cls)}
        except (ValueError, KeyError, TypeError):
            raise StackError(
                f"{path} does not hold the stack's keys. Restore it from a backup, or remove it to make new "
                "ones: connections and variables that were encrypted with the old ones are then unreadable."
            ) from None
        if not all(isinstance(value, str) and value for value in values.values()):
            raise StackError(f"{path} holds an empty key. Remove it to make new ones.")
        return cls(**values)
