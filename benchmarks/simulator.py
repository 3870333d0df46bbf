"""``python -m benchmarks.simulator``: the simulator on a free port, until its standard input ends.

So it ends with the benchmark, however that ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from cognitionos_provider.simulator.__main__ import main


def _follow_starter() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_follow_starter, daemon=True).start()
    sys.exit(main(["--port", "0"]))
