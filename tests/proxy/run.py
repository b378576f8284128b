"""Starts an App behind nginx, and behind Caddy where that is installed, with the configuration in docs/operations.md."""

import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
HOST = "app.example.org"
LIMIT = 60

NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    # Buffering for compression must not delay events.
    gzip on;
    gzip_proxied any;
    gzip_types text/event-stream application/json;
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""


def example(language):
    """Returns the example in the documentation, which the test runs."""
    text = (ROOT / "docs/operations.md").read_text()
    return re.search(rf"```{language}\n(.*?)```", text, re.S).group(1)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_app(*arguments):
    command = ["cargo", "run", "--quiet", "--example", "continuous_deployment", "--"]
    process = subprocess.Popen(
        [*command, "--open-ui=false", "--port", "0", *arguments],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/view", line):
            return process, int(found.group(1))
    sys.exit("the App ended without saying where it is served")


def ask(port, path, method="GET", headers=None, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    connection.request(method, path, body, {"Host": HOST, "Accept-Encoding": "gzip", **(headers or {})})
    return connection.getresponse()


def events(port):
    """Yields the events of the stream as they arrive; a proxy that buffers them exceeds the time limit."""
    answer = ask(port, "/my-app/api/v1/events", headers={"Accept": "text/event-stream", "Accept-Encoding": "identity"})
    assert answer.status == 200, answer.status
    for line in answer:
        if line.startswith(b"event: "):
            yield line[7:].strip().decode()


def until_it_listens(port, process):
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "the proxy does not listen"
            time.sleep(0.05)


def check(name, port):
    home = ask(port, "/my-app/")
    assert home.status == 303 and home.headers["Location"] == "view", (home.status, home.headers["Location"])
    page = ask(port, "/my-app/view", headers={"Accept-Encoding": "identity"})
    text = page.read().decode()
    assert page.status == 200
    for part in re.findall(r'(?:href|src)="(view/[^"]*)"', text):
        found = ask(port, f"/my-app/{part}")
        assert found.status == 200, (part, found.status)
    status = json.loads(ask(port, "/my-app/api/v1/status", headers={"Accept-Encoding": "identity"}).read())
    assert "train" in status["works"], status
    # A request of the page itself, whose origin has the name of the proxy.
    restarted = ask(port, "/my-app/api/v1/works/train/restart", "POST", {"Origin": f"https://{HOST}"})
    assert restarted.status == 202, (restarted.status, restarted.read())
    foreign = ask(port, "/my-app/api/v1/works/train/restart", "POST", {"Origin": "https://evil.example"})
    assert foreign.status == 403, foreign.status
    # The snapshot, and the patch of the first change, about a second later.
    seen = [event for event, _ in zip(events(port), range(2))]
    assert seen[0] == "snapshot" and len(seen) == 2, seen
    print(f"{name}: the page, the API and {len(seen)} events came through")


def behind(name, app, run):
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        process = run(pathlib.Path(directory), port, app)
        try:
            until_it_listens(port, process)
            check(name, port)
        finally:
            process.terminate()
            process.wait(LIMIT)


def nginx(directory, port, app):
    location = example("nginx").replace("127.0.0.1:7501", f"127.0.0.1:{app}")
    file = directory / "nginx.conf"
    file.write_text(NGINX.format(directory=directory, port=port, location=location))
    return subprocess.Popen([shutil.which("nginx") or "/usr/sbin/nginx", "-p", directory, "-c", file])


def caddy(directory, port, app):
    # This machine has no certificate for the name.
    site = example("caddyfile").replace("127.0.0.1:7501", f"127.0.0.1:{app}").replace(HOST, f"http://{HOST}:{port}", 1)
    file = directory / "Caddyfile"
    file.write_text("{\n\tadmin off\n\tauto_https off\n}\n" + site)
    command = ["caddy", "run", "--config", file, "--adapter", "caddyfile"]
    environment = {**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


unknown, port = start_app()
try:
    refused = ask(port, "/api/v1/status")
    assert refused.status == 421 and b"--allow-host" in refused.read(), refused.status
finally:
    unknown.terminate()
    unknown.wait(LIMIT)

app, port = start_app("--allow-host", HOST)
try:
    behind("nginx", port, nginx)
    if shutil.which("caddy"):
        behind("Caddy", port, caddy)
    else:
        print("Caddy is not installed: its example was left out")
finally:
    app.terminate()
    app.wait(LIMIT)
