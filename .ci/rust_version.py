"""The minimum Rust version: the same wherever it is written, and no lower than what any dependency asks for."""

import json
import re
import subprocess
import sys
from pathlib import Path

metadata = json.loads(
    subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1"], check=True, stdout=subprocess.PIPE
    ).stdout
)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
members = metadata["workspace_members"]


def version(text):
    parts = [int(part) for part in text.split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


# What a user of the crate builds: normal and build dependencies.
reached, waiting = set(), list(members)
while waiting:
    package = waiting.pop()
    if package in reached:
        continue
    reached.add(package)
    for dependency in nodes[package]["deps"]:
        if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
            waiting.append(dependency["pkg"])

problems = []
ours = {packages[member]["name"]: packages[member]["rust_version"] for member in members}
if len(set(ours.values())) != 1 or None in ours.values():
    problems.append(f"the members of the workspace do not agree on rust-version: {ours}")
else:
    (minimum,) = set(ours.values())
    for package in (packages[package] for package in reached):
        asked = package["rust_version"]
        if asked is not None and version(asked) > version(minimum):
            problems.append(f"{package['name']} {package['version']} asks for Rust {asked}, Cargo.toml says {minimum}")
    documented = re.findall(r"\bRust (\d+\.\d+(?:\.\d+)?) or later", Path("README.md").read_text())
    if documented != [minimum]:
        problems.append(f"README.md says Rust {documented} or later, Cargo.toml says {minimum}")

for problem in problems:
    print(problem, file=sys.stderr)
if not problems:
    print(f"Rust {minimum} is the minimum of {len(reached)} packages")
sys.exit(bool(problems))
