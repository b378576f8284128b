"""Starts an App and watches it with `peer.py`, whose states must equal those of the HTTP API."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

try:
    import msgpack  # noqa: F401
except ImportError:
    sys.exit("the Python package `msgpack` is needed: apt-get install python3-msgpack, or pip install msgpack")

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from peer import Refused, Watcher  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
TOKEN = "a secret of some length"
LIMIT = 60


# Without its version, which the App shows.
PROGRAM = {
    "name": "continuous_deployment::ContinuousDeployment",
    "works": {"continuous_deployment::Train": [], "continuous_deployment::ModelDeployment": []},
}


def certificates(directory):
    """Returns the files that `certs` makes there, for the head and for a node."""
    command = ["cargo", "run", "--quiet", "--example", "continuous_deployment", "--", "certs", "--dir", directory]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    file = pathlib.Path(directory).joinpath
    return [[str(file(f"{name}.pem")), str(file(f"{name}-key.pem")), str(file("ca.pem"))] for name in ("head", "node")]


class App:
    def __init__(self, token, certificate=None):
        environment = {key: value for key, value in os.environ.items() if key != "FLOWRIGHT_TOKEN"}
        if token:
            environment["FLOWRIGHT_TOKEN"] = token
        command = ["cargo", "run", "--quiet", "--example", "continuous_deployment", "--"]
        command += ["--open-ui=false", "--port", "0", "--listen", "127.0.0.1:0"]
        for flag, file in zip(("--tls-cert", "--tls-key", "--tls-ca"), certificate or ()):
            command += [flag, file]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.joining = self.find(r"nodes join at 127\.0\.0\.1:(\d+)")
        self.http = self.find(r"http://127\.0\.0\.1:(\d+)/view")

    def find(self, pattern):
        for line in self.process.stderr:
            found = re.search(pattern, line)
            if found:
                return int(found.group(1))
        sys.exit(f"the App ended without saying {pattern}")

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/api/v1/{path}", timeout=LIMIT) as answer:
            return json.load(answer)

    def state(self):
        return self.get("state")["state"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(LIMIT)


def own_token(port):
    """Reads the token that a head without one has generated, from the first directory of docs/protocol.md that has it."""
    user = os.geteuid()
    runtime = [f"{os.environ['XDG_RUNTIME_DIR']}/flowright"] if "XDG_RUNTIME_DIR" in os.environ else []
    directories = [*runtime, f"/run/user/{user}/flowright", f"{tempfile.gettempdir()}/flowright-{user}"]
    files = [pathlib.Path(directory, f"127.0.0.1:{port}.token") for directory in directories]
    file = next(file for file in files if file.exists())
    assert file.stat().st_mode & 0o777 == 0o600 and file.stat().st_uid == user, file
    return file.read_text().strip()


def check(token, head=None, node=None):
    given = token is not None
    with App(token, head) as app:
        if token is None and head is None:
            token = own_token(app.joining)
        program = {**PROGRAM, "version": app.get("app")["version"]}
        watcher = Watcher("127.0.0.1", app.joining, program, token, node)
        welcome = watcher.connect()
        assert welcome["node"]["name"] == "head", welcome
        deadline = time.monotonic() + LIMIT
        versions, same = [], 0
        for shown_version, shown in watcher.states():
            assert not versions or shown_version > versions[-1], "an older state after a newer one"
            versions.append(shown_version)
            # The API may have a newer state.
            same += shown == app.state()
            if len(versions) == 1:
                # The session continues on another connection.
                watcher.cut()
                watcher.connect()
            if shown["model_deployment"] is None and shown["train"]["last_checkpoint"] and same >= 1 and len(versions) >= 2:
                break
            assert time.monotonic() < deadline, (versions, same)
        assert same >= 1, "what was shown was never what the API said"

        for wrong, said in [
            ({**program, "name": "another"}, "another"),
            ({**program, "version": "0.0.0-other"}, "0.0.0-other"),
            ({**program, "works": {"continuous_deployment::Train": []}}, "continuous_deployment::ModelDeployment"),
        ]:
            try:
                Watcher("127.0.0.1", app.joining, wrong, token, node).connect()
                sys.exit(f"it was taken in as {wrong}")
            except Refused as refused:
                assert said in str(refused), refused
        for other in [None if token else TOKEN, "quite another secret"]:
            try:
                Watcher("127.0.0.1", app.joining, program, other, node).connect()
                sys.exit("it was taken in with another token")
            except Refused as refused:
                assert "token" in str(refused), refused
        if head:
            try:
                Watcher("127.0.0.1", app.joining, program, token).connect()
                sys.exit("it was taken in without TLS")
            except Refused as refused:
                assert "takes TLS only" in str(refused), refused
    how = "TLS" if head else "a token" if given else "the head's own token"
    print(f"{len(versions)} states with {how}; refusals name the difference")


check(None)
check(TOKEN)
with tempfile.TemporaryDirectory() as directory:
    # The proof of a token inside TLS is bound to the TLS session, and needs a library with an exporter (RFC 9266).
    check(None, *certificates(directory))
