"""Durable steps of DBOS on its SQLite: one line of JSON.

`dbos_steps.py FILE default|wal`: the system database as DBOS makes it, or in a file that was set to write-ahead logging
before. Both sync each commit (`synchronous` is in the answer, 2 is FULL).

DBOS has no counterpart of an action whose intent is recorded before it begins, so that `once` is absent.
"""

import json
import sqlite3
import sys
import time

import sqlalchemy
from dbos import DBOS

STEPS = 200
WORKFLOWS = 100
PARALLEL = 64
STEPS_OF_EACH = 10


def main(path, mode):
    if mode == "wal":
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    settings = {}

    @sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "checkout")
    def look(connection, *_):
        for pragma in ("journal_mode", "synchronous"):
            if pragma not in settings:
                settings[pragma] = str(connection.execute(f"PRAGMA {pragma}").fetchone()[0])

    DBOS(config={"name": "steps", "system_database_url": f"sqlite:///{path}", "log_level": "ERROR"})
    times = []

    @DBOS.step()
    def null(number):
        return number

    @DBOS.workflow()
    def steps(count):
        for number in range(count):
            began = time.perf_counter()
            null(number)
            times.append(time.perf_counter() - began)

    @DBOS.workflow()
    def empty(number):
        return number

    DBOS.launch()
    # The first ones warm up.
    steps(STEPS // 10)
    empty(0)
    times.clear()
    began = time.perf_counter()
    steps(STEPS)
    steps_per_second = STEPS / (time.perf_counter() - began)
    times.sort()
    began = time.perf_counter()
    for number in range(WORKFLOWS):
        empty(number)
    chain_per_second = WORKFLOWS / (time.perf_counter() - began)
    began = time.perf_counter()
    handles = [DBOS.start_workflow(steps, STEPS_OF_EACH) for _ in range(PARALLEL)]
    for handle in handles:
        handle.get_result()
    parallel_per_second = PARALLEL * STEPS_OF_EACH / (time.perf_counter() - began)
    DBOS.destroy()
    figures = {
        "step_p50_us": times[STEPS // 2 - 1] * 1e6,
        "step_p99_us": times[STEPS * 99 // 100 - 1] * 1e6,
        "steps": steps_per_second,
        "chain": chain_per_second,
        "parallel": parallel_per_second,
        **settings,
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
