"""A forked trial is a process as if its script had been started; what happens if one of them is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from launch.sweep import fork_server
from launch.sweep.fork_server import ForkServer

pytestmark = pytest.mark.skipif(not fork_server.POSSIBLE, reason="trials are forked on Linux only")
SCRIPT = """
    import atexit, concurrent.futures, json, os, signal, sys, threading, time

    def note(text):
        with open(sys.argv[2], "a") as file:
            file.write(text + " ")

    def later(text):
        time.sleep(0.3)
        note(text)

    left_open = open(sys.argv[3], "w") if __name__ == "__main__" and len(sys.argv) > 3 else None

    if __name__ == "__main__":
        what, *rest = sys.argv[1:]
        if what == "tell":
            asked = signal.SIGTERM, signal.SIGUSR1
            told = {"stops": [signal.getsignal(n) is signal.SIG_DFL for n in asked]}
            told |= {"argv": sys.argv, "path": sys.path[0], "env": dict(os.environ)}
            told["stdin"] = sys.stdin.read()
            ready = "colorsys" in sys.modules and "this" not in sys.modules
            told |= {"pid": os.getpid(), "session": os.getsid(0), "ready": ready}
            print(json.dumps(told))
        elif what == "exit":
            sys.exit(int(rest[0]))
        elif what == "raise":
            raise ValueError("no such thing")
        elif what == "leave":
            left_open.write("all of it")
            atexit.register(note, "handler")
            concurrent.futures.ThreadPoolExecutor(1).submit(later, "pool")
            threading.Thread(target=later, args=["thread"]).start()
            sys.excepthook = lambda kind, error, at: note(f"hook:{error}")
            if rest[2] == "text":
                sys.exit("for this reason")
            elif rest[2] == "raise":
                raise ValueError("wrong")
            elif rest[2] == "no stdout":
                sys.stdout = None
            elif rest[2] == "closed":
                sys.stdout.close()
            elif rest[2] == "full":
                sys.stdout = open("/dev/full", "w")
                print("lost")
            elif rest[2] == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            elif rest[2] == "broken handler":
                atexit.register(lambda: 1 / 0)
        elif what == "sleep":
            print("sleeps", flush=True)
            time.sleep(float(rest[0]))
            print("woke", flush=True)
"""


@pytest.fixture
def server(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    one = ForkServer(script, later={"json": ["colorsys", "no_such_module"], "not_imported": ["this"]})
    yield one
    one.close()


def wait(process) -> int:
    for _ in range(1500):
        if (code := process.poll()) is not None:
            return code
        time.sleep(0.02)
    raise AssertionError("it does not end")


def until_it_says(log, text: str) -> None:
    for _ in range(1500):
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"it does not say {text}")


def test_a_trial_is_as_if_its_script_had_been_started(server, tmp_path):
    log, env = tmp_path / "log", {"HERE": "ü", "PATH": os.environ["PATH"]}
    log.write_text("before\n")
    process = server.start(["tell", "--a=1 2"], log, env)
    assert wait(process) == 0
    before, told = log.read_text().splitlines()
    told = json.loads(told)
    assert before == "before"
    assert told["argv"] == [str(server.program), "tell", "--a=1 2"] and told["path"] == str(tmp_path)
    assert told["env"]["HERE"] == "ü" and "HOME" not in told["env"]
    assert told["pid"] == told["session"] == process.pid != server._process.pid
    assert told["stops"] == [True] * 2 and told["stdin"] == ""
    assert process.poll() == 0
    process.send_signal(signal.SIGTERM)  # it has ended: whoever has its number now is not meant


def test_a_default_timeout_of_sockets_does_not_count(server, tmp_path):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.01)
    try:
        assert wait(server.start(["exit", "3"], tmp_path / "log", dict(os.environ))) == 3
    finally:
        socket.setdefaulttimeout(before)


def test_each_trial_begins_anew(server, tmp_path):
    for _ in range(3):
        assert wait(server.start(["tell"], tmp_path / "log", dict(os.environ))) == 0
    told = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert len({one["pid"] for one in told}) == 3
    assert [one["ready"] for one in told] == [False, True, True]  # from the second on, when it pays


@pytest.mark.parametrize(("args", "code"), [(["exit", "0"], 0), (["exit", "75"], 75), (["raise"], 1)])
def test_exit_codes_are_those_of_the_script(server, tmp_path, args, code):
    assert wait(server.start(args, tmp_path / "log", dict(os.environ))) == code
    assert ("ValueError: no such thing" in (tmp_path / "log").read_text()) == (code == 1)


@pytest.mark.parametrize(
    ("how", "code", "hook"),
    [
        ("at its end", 0, ""),
        ("text", 1, ""),
        ("raise", 1, "hook:wrong"),
        ("no stdout", 0, ""),
        ("closed", 0, ""),
        ("full", 120, ""),
        ("interrupt", -signal.SIGINT, "hook:"),
        ("broken handler", 0, ""),
    ],
)
def test_a_trial_leaves_as_its_script_would(server, tmp_path, how, code, hook):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ends = []
    for name in ("plain", "forked"):
        noted, left_open, log = (tmp_path / f"{name}.{what}" for what in ("noted", "open", "log"))
        args = ["leave", str(noted), str(left_open), how]
        if name == "plain":
            command, printed = [sys.executable, str(server.program), *args], open(log, "wb")  # noqa: SIM115
            ended = subprocess.run(command, stdout=printed, stderr=printed, env=env).returncode
            printed.close()
        else:
            ended = wait(server.start(args, log, env))
        said = log.read_text()
        ends.append((ended, sorted(noted.read_text().split()), left_open.read_text()))
        assert ("for this reason" in said) == (how == "text")
        assert ("ZeroDivisionError" in said) == (how == "broken handler")
    assert ends[0] == ends[1] == (code, sorted([*hook.split(), "handler", "pool", "thread"]), "all of it")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_trial_that_a_signal_ends(server, tmp_path, number):
    process = server.start(["sleep", "60"], tmp_path / "log", dict(os.environ))
    until_it_says(tmp_path / "log", "sleeps")
    process.send_signal(number)
    assert wait(process) == -number


def test_a_trial_hears_a_signal_from_its_first_moment(server, tmp_path):
    for _ in range(8):
        process = server.start(["sleep", "60"], tmp_path / "log", dict(os.environ))
        process.send_signal(signal.SIGTERM)
        assert wait(process) == -signal.SIGTERM


def test_a_handler_may_look_while_we_look(server, tmp_path, monkeypatch):
    process = server.start(["exit", "5"], tmp_path / "log", dict(os.environ))
    connection, looked = process._connection, []

    class Interrupted:
        def recv(self, *args):
            if not looked:  # as a signal handler does, between our decision to read and our reading
                looked.append(True)
                wait(process)
            return connection.recv(*args)

    process._connection = Interrupted()
    assert wait(process) == 5 and looked


def test_a_trial_that_has_just_ended_takes_no_signal(server, tmp_path, monkeypatch):
    process = server.start(["exit", "0"], tmp_path / "log", dict(os.environ))
    assert wait(process) == 0
    monkeypatch.setattr(process, "poll", lambda: None)  # its code is not told yet
    process.send_signal(signal.SIGTERM)


def test_what_a_cluster_sends_to_everybody_does_not_end_the_server(server, tmp_path):
    process = server.start(["sleep", "60"], tmp_path / "log", dict(os.environ))
    until_it_says(tmp_path / "log", "sleeps")
    for number in fork_server.ASKED_TO_STOP:
        os.kill(server._process.pid, number)
    process.kill()
    assert wait(process) == -signal.SIGKILL
    assert wait(server.start(["exit", "3"], tmp_path / "log", dict(os.environ))) == 3


def test_a_killed_server_leaves_its_trial_alone(server, tmp_path):
    process = server.start(["sleep", "1"], tmp_path / "log", dict(os.environ))
    until_it_says(tmp_path / "log", "sleeps")
    server._process.kill()
    server._process.wait()
    assert process.poll() is None  # it goes on, and that is known
    assert wait(process) == -signal.SIGKILL  # its code is lost
    assert "woke" in (tmp_path / "log").read_text()
    assert wait(server.start(["exit", "4"], tmp_path / "log", dict(os.environ))) == 4  # by another server


def test_a_trial_outlives_its_worker_and_the_server_does_not(server, tmp_path):
    server.start(["sleep", "1"], tmp_path / "log", dict(os.environ))
    of_server = server._process
    until_it_says(tmp_path / "log", "sleeps")
    server.close()
    until_it_says(tmp_path / "log", "woke")
    assert of_server.wait(30) == 0


def test_a_script_that_cannot_be_imported_tells_it_in_the_trial(server, tmp_path):
    server.program.write_text("import no_such_thing_at_all")
    assert wait(server.start(["tell"], tmp_path / "log", dict(os.environ))) == 1
    assert "No module named 'no_such_thing_at_all'" in (tmp_path / "log").read_text()


def test_a_server_that_cannot_start_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match=r"script\.py died twice"):
        ForkServer(tmp_path / "script.py").start([], tmp_path / "log", dict(os.environ))
