"""Programs under supervisord: kept running, told apart, and none left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from stack.errors import StackError
from stack.processes import Supervisor
from stack.program import Program
from stack.session import kill_session, processes_of_session

REPOSITORY = Path(__file__).resolve().parents[2]

# It says "up" in a file of its name. Its child leaves the process group, as Airflow's do, and neither of them
# obeys SIGTERM.
STUBBORN = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setpgid(0, 0)
    time.sleep(600)
pathlib.Path(sys.argv[1]).write_text("up")
time.sleep(600)
"""
OBEDIENT = """
import pathlib, sys, time
print("hello from", sys.argv[1], "100%", flush=True)
pathlib.Path(sys.argv[1]).write_text("up")
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path):
    """A path that tries the escaping, and is too long for a Unix socket."""
    path = tmp_path / ("100% long " + "x" * 100)
    path.mkdir()
    return path


def program(home, name, code=OBEDIENT, **options):
    marker, script = home / f"{name} up", home / f"{name}.py"
    script.write_text(code)
    command = (sys.executable, str(script), str(marker))
    return Program(name, command, lambda since: marker.exists(), stop_seconds=1, start_seconds=1, **options)


@pytest.fixture
def start(home):
    """Start these programs, wait until they are up, and stop them at the end."""
    started = []

    def run(*programs, timeout=20):
        supervisor = Supervisor(home, programs, environment=dict(os.environ), directory=REPOSITORY)
        started.append(supervisor)
        told = []
        since = datetime.now(UTC)
        supervisor.start()
        supervisor.wait(
            [found.name for found in programs],
            since=since,
            timeout=timeout,
            on_progress=lambda name, seconds: told.append(name),
        )
        return supervisor, told

    yield run
    for supervisor in started:
        supervisor.stop()


def until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.05)


def test_nothing_is_left_of_programs_that_do_not_obey(home, start):
    supervisor, _ = start(program(home, "stubborn", STUBBORN), program(home, "obedient"))
    session = os.getsid(supervisor.pid("stubborn"))
    assert session != os.getsid(0)
    assert len(processes_of_session(session)) == 4  # supervisord, two programs, and a child
    begin = time.monotonic()
    supervisor.stop()
    assert processes_of_session(session) == []
    assert time.monotonic() - begin < 10


def test_each_program_is_told_as_it_comes_up_and_its_output_is_in_its_log(home, start):
    supervisor, told = start(program(home, "one"), program(home, "two"))
    assert sorted(told) == ["one", "two"]
    until(lambda: "100%" in supervisor.log("one").read_text())
    assert "hello from" in supervisor.explain("one")
    assert supervisor.failed() == []


def test_a_program_that_dies_is_started_again(home, start):
    supervisor, _ = start(program(home, "one"), program(home, "two"))
    until(lambda: supervisor.state("one") == "RUNNING")  # a death before that is a failed start
    first, other = supervisor.pid("one"), supervisor.pid("two")
    os.kill(first, signal.SIGKILL)
    until(lambda: pid_of(supervisor, "one") not in (0, first))
    assert supervisor.pid("two") == other


def test_one_program_can_be_restarted(home, start):
    supervisor, _ = start(program(home, "one"), program(home, "two"))
    first, other = supervisor.pid("one"), supervisor.pid("two")
    before = datetime.now(UTC)
    assert supervisor.restart("one") >= before
    assert supervisor.pid("one") != first
    assert not psutil.pid_exists(first)
    assert supervisor.pid("two") == other


def test_backing_programs_stop_after_those_that_rely_on_them(home, start):
    trace = home / "trace"
    # Each writes its name when it ends; the one that relies on the other takes its time.
    code = f"""
import pathlib, signal, sys, time
def end(*_):
    time.sleep(SECONDS)
    with open({str(trace)!r}, "a") as file:
        file.write(pathlib.Path(sys.argv[1]).name + ",")
    sys.exit()
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1]).write_text("up")
while True:
    time.sleep(1)
"""
    supervisor, _ = start(
        program(home, "database", code.replace("SECONDS", "0"), backing=True),
        program(home, "client", code.replace("SECONDS", "0.5")),
    )
    supervisor.stop()
    assert trace.read_text() == "client up,database up,"


def test_a_program_that_ends_at_once_is_named_with_the_end_of_its_log(home, start):
    with pytest.raises(StackError) as caught:
        start(
            program(home, "good"), program(home, "broken", "print('no such table: x'); raise SystemExit(3)")
        )
    assert str(caught.value).startswith("broken ends as soon as it is started. The end of ")
    assert "broken.log" in str(caught.value)
    assert "no such table: x" in str(caught.value)


def test_a_program_that_does_not_come_up_is_named(home, start):
    silent = Program("silent", (sys.executable, "-c", "input()"), lambda since: False, stop_seconds=1)
    with pytest.raises(
        StackError, match=r"silent was not ready within 0\.5 s. Its log .*silent\.log is empty"
    ):
        start(silent, timeout=0.5)


def test_a_home_is_for_one_stack_at_a_time_and_for_the_next_one_after_it(home, start):
    supervisor, _ = start(program(home, "one"))
    with pytest.raises(StackError) as caught:
        start(program(home, "two"))
    assert f"A stack runs on {home} already (process {os.getpid()})" in str(caught.value)
    assert "COGNITIONOS_HOME" in str(caught.value)
    assert supervisor.pid("one")
    supervisor.stop()
    again, _ = start(program(home, "two"))
    assert again.pid("two")


def test_supervisord_that_dies_is_told_and_its_programs_are_ended(home, start):
    supervisor, _ = start(program(home, "one"))
    orphan = supervisor.pid("one")
    session = os.getsid(orphan)
    os.kill(session, signal.SIGKILL)  # supervisord leads its session
    with pytest.raises(StackError, match="supervisord, which runs the programs, has ended"):
        until(supervisor.failed)
    supervisor.stop()
    assert processes_of_session(session) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_starter_dies(home, how):
    stubborn = program(home, "stubborn", STUBBORN)
    starter = textwrap.dedent(f"""
        import os, pathlib, time
        from stack.processes import Supervisor
        from stack.program import Program
        program = Program("stubborn", {stubborn.command!r}, lambda since: True, stop_seconds=1)
        supervisor = Supervisor(
            pathlib.Path({str(home)!r}), [program], environment=os.environ, directory=pathlib.Path.cwd()
        )
        supervisor.start()
        while not os.path.exists({stubborn.command[-1]!r}):
            time.sleep(0.05)
        print(os.getsid(supervisor.pid("stubborn")), flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        session = int(process.stdout.readline())
        running = len(processes_of_session(session))
        process.send_signal(how)
    assert running == 3  # supervisord, the program, and its child
    try:
        # The child that left its program's process group has to be found, too.
        until(lambda: processes_of_session(session) == [])
    finally:
        kill_session(session)


def test_a_command_that_fails_is_told_with_its_output(home):
    supervisor = Supervisor(home, [], environment=dict(os.environ), directory=REPOSITORY)
    supervisor.acquire()
    supervisor.run("database", [sys.executable, "-c", "print('fine')"])
    with pytest.raises(StackError, match=r"(?s)database failed with exit status 7.*no space left"):
        supervisor.run("database", [sys.executable, "-c", "print('no space left'); raise SystemExit(7)"])
    assert supervisor.log("database").with_suffix(".log.1").read_text() == "fine\n"
    supervisor.stop()


def test_a_program_of_another_name_is_told_what_there_is(home, start):
    supervisor, _ = start(program(home, "one"))
    with pytest.raises(StackError, match=r"no program 'two'\. It has one"):
        supervisor.pid("two")


def pid_of(supervisor, name):
    try:
        return supervisor.pid(name)
    except StackError:
        return 0
