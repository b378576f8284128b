#!/usr/bin/env python3
"""Checks an App against its own OpenAPI document: thousands of requests, with all checks of schemathesis.

Needs `schemathesis` (the program `st`) beside this Python. With `promtool` on the path, `/metrics` is checked as well.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEAST = 2000
# Excluded: a stream does not end, and an App that was stopped answers no more requests.
LEFT_OUT = ["/api/v1/events", "/api/v1/app/stop"]


def program():
    """Returns the binary of tests/app, which can run one of its Apps."""
    built = subprocess.run(
        ["cargo", "test", "--test", "app", "--no-run", "--message-format=json"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    )
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "app":
            return message["executable"]
    raise SystemExit("cargo built no test `app`")


def main():
    environment = {**os.environ, "FLOWRIGHT_TEST_PROGRAM": "echo"}
    drain = None
    arguments = [program(), "--open-ui=false", "--port", "0"]
    app = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        base = next(
            found.group(1) for line in app.stderr if (found := re.search(r"(http://\S+)/view", line))
        )
        st = pathlib.Path(sys.executable).with_name("st")
        config = pathlib.Path(__file__).with_name("schemathesis.toml")
        command = [str(st), "--config-file", str(config), "run", f"{base}/api/v1/openapi.json"]
        command += ["--max-examples", "200", "--seed", "1"]
        command += ["--checks", "all", "--continue-on-failure", "--no-color"]
        for path in LEFT_OUT:
            command += ["--exclude-path", path]
        # The App must not block on a full pipe.
        with open(os.devnull, "w") as nothing:
            drain = subprocess.Popen(["cat"], stdin=app.stderr, stdout=nothing)
        # The cache of failures belongs into the build directory.
        ran = subprocess.run(command, cwd=ROOT / "target", stdout=subprocess.PIPE, text=True)
        print(ran.stdout)
        generated = re.search(r"(\d+) generated", ran.stdout)
        if ran.returncode != 0:
            raise SystemExit("the App is not as its document says")
        if not generated or int(generated.group(1)) < LEAST:
            raise SystemExit(f"fewer than {LEAST} requests were made")
        with urllib.request.urlopen(f"{base}/healthz") as answer:
            assert answer.status == 200
        if shutil.which("promtool"):
            with urllib.request.urlopen(f"{base}/metrics") as answer:
                subprocess.run(["promtool", "check", "metrics"], input=answer.read(), check=True)
            print("promtool has nothing against /metrics")
    finally:
        app.kill()
        app.wait()
        if drain:
            drain.wait()


if __name__ == "__main__":
    main()
