"""Start the facade: ``python -m api``."""

from __future__ import annotations

import sys

import uvicorn

from api.deps import authentication_is_off
from api.main import create_app
from cognitionos_provider.config import get_config
from cognitionos_provider.exceptions import ConfigurationError

LOOPBACK = "127.0.0.1"


def host_to_listen_on() -> str:
    """Return ``API_HOST``, or the loopback address while authentication is off.

    Everybody who reaches a facade without authentication is an admin;
    ``SECURITY_ALLOW_REMOTE_WITHOUT_AUTH=true`` says that this is wanted.
    """
    config = get_config()
    if authentication_is_off() and not config.security.allow_remote_without_auth:
        return LOOPBACK
    return config.api.host


def main() -> int:
    """Serve until stopped; returns the process's exit status."""
    try:
        config = get_config()
        app = create_app(config)
        uvicorn.run(
            app,
            host=host_to_listen_on(),
            port=config.api.port,
            log_config=None,
            access_log=False,
            server_header=False,
        )
    except ConfigurationError as error:
        print(f"The facade can't start: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
