"""What goes wrong with a local stack."""

from __future__ import annotations

from cognitionos_provider.exceptions import CognitionOSError

__all__ = ["StackError"]


class StackError(CognitionOSError):
    """The stack can't be started, or a part of it does not come up. The message says what to do."""
