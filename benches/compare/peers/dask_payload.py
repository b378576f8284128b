"""Large values between two Dask workers on this machine: a line of JSON for each round.

A value moves when a task on the other worker asks for it, so each figure is that of a task that does nothing but look at
both ends of the value. `ask_us` is a call of an actor.
"""

import json
import statistics
import sys
import time

import numpy as np
from distributed import Client, LocalCluster, wait

GIB = 1 << 30
FLOATS = (100 << 20) // 4
SMALL = 100


def large(round):
    value = np.full(GIB, 7, dtype=np.uint8)
    value[0] = round
    return value


def floats(round):
    return np.full(FLOATS, round, dtype=np.float32)


def small(round, n):
    return np.full(1024, (round + n) % 256, dtype=np.uint8)


def look(value):
    return float(value[0]), float(value[-1])


class Asked:
    def ask(self, number):
        return number


def main(rounds):
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, memory_limit=None, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        one, other = list(client.scheduler_info()["workers"])

        def made(what, *arguments):
            future = client.submit(what, *arguments, workers=[one], pure=False)
            wait(future)
            return future

        def timed(future, worker):
            began = time.perf_counter()
            client.submit(look, future, workers=[worker], pure=False).result()
            return time.perf_counter() - began

        def asked(number):
            began = time.perf_counter()
            actor.ask(number).result()
            return time.perf_counter() - began

        actor = client.submit(Asked, actor=True, workers=[other]).result()
        for round in range(rounds):
            value = made(large, round)
            near = timed(value, one)
            value_took = timed(value, other)
            del value
            vector_took = timed(made(floats, round), other)
            values = [made(small, round, n) for n in range(SMALL)]
            figures = {
                "large": GIB / value_took / 1e9,
                "floats": 4 * FLOATS / vector_took / 1e9,
                "small_us": statistics.median(timed(value, other) for value in values) * 1e6,
                "near_us": near * 1e6,
                "ask_us": statistics.median(asked(n) for n in range(SMALL)) * 1e6,
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
