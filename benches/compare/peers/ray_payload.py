"""Large values between two raylets on this machine: a line of JSON for each round.

The values are numpy arrays, which Ray keeps in shared memory and reads in place.
"""

import json
import statistics
import sys
import time

import numpy as np
import ray
from ray.cluster_utils import Cluster

GIB = 1 << 30
FLOATS = (100 << 20) // 4
SMALL = 200


def timed(ref):
    began = time.perf_counter()
    value = ray.get(ref)
    ends = value[0], value[-1]
    return time.perf_counter() - began, len(value), ends


@ray.remote(num_cpus=0)
class Maker:
    def make(self, round):
        large = np.full(GIB, 7, dtype=np.uint8)
        large[0] = round
        floats = np.full(FLOATS, round, dtype=np.float32)
        small = [np.full(1024, (round + n) % 256, dtype=np.uint8) for n in range(SMALL)]
        return [ray.put(value) for value in [large, floats, *small]]

    def ask(self, number):
        return number


@ray.remote(num_cpus=0)
class Reader:
    def read(self, refs):
        return [timed(ref)[0] for ref in refs]

    def ask(self, maker):
        times = []
        for number in range(SMALL):
            began = time.perf_counter()
            ray.get(maker.ask.remote(number))
            times.append(time.perf_counter() - began)
        return statistics.median(times)


def main(rounds):
    cluster = Cluster()
    room = {"object_store_memory": 4 * GIB}
    cluster.add_node(num_cpus=1, resources={"m": 1}, include_dashboard=False, **room)
    cluster.add_node(num_cpus=1, resources={"n": 1}, **room)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        maker = Maker.options(resources={"m": 0.1}).remote()
        reader = Reader.options(resources={"n": 0.1}).remote()
        neighbour = Reader.options(resources={"m": 0.1}).remote()
        for round in range(rounds):
            refs = ray.get(maker.make.remote(round))
            near = ray.get(neighbour.read.remote(refs[:1]))
            large, floats, *small = ray.get(reader.read.remote(refs))
            figures = {
                "large": GIB / large / 1e9,
                "floats": 4 * FLOATS / floats / 1e9,
                "small_us": statistics.median(small) * 1e6,
                "near_us": near[0] * 1e6,
                "ask_us": ray.get(reader.ask.remote(maker)) * 1e6,
            }
            print(json.dumps(figures), flush=True)
            del refs
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
