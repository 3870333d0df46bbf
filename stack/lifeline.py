"""``python -m stack.lifeline CONFIGURATION``: supervisord that ends when its starter does, however that ends.

The starter keeps the other end of our standard input. When it is gone, a SIGKILL included, reading gives the
end of file, and supervisord stops its programs as on SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from supervisor import supervisord

from stack.session import kill_session


def _follow_starter() -> None:
    # The descriptor itself, not sys.stdin: its lock, held here for ever, would be inherited by each fork.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run supervisord in the foreground with this configuration."""
    configuration = Path(sys.argv[1])
    os.chdir(configuration.parent)  # which its paths are relative to
    threading.Thread(target=_follow_starter, daemon=True).start()
    try:
        supervisord.main(["--nodaemon", "--configuration", configuration.name])
    finally:
        kill_session(os.getsid(0), spare=os.getpid())


if __name__ == "__main__":
    main()
