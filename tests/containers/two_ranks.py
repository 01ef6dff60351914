"""A program that starts two ranks of Horovod on this machine; each prints what it reduced, as one line of JSON."""

from __future__ import annotations

import os
import subprocess
import sys

from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.http.http_server import RendezvousServer

RANK = """
import json, sys
import horovod, horovod.tensorflow as hvd, tensorflow as tf

hvd.init()
rank = hvd.rank()

@tf.function
def mean(value):
    return hvd.grouped_allreduce([value, 2 * value], op=hvd.Average, name="mean")

last = []
for epoch in range(2):
    for step in range(2 + rank):
        hvd.allreduce(tf.constant(1.0), name="step")
    last.append(int(hvd.join()))
    hvd.allreduce(tf.constant(1.0), name="barrier")
sys.stdout.write(json.dumps({
    "rank": rank,
    "size": hvd.size(),
    "sum": hvd.allreduce(tf.constant([1.0 + rank]), op=hvd.Sum, name="sum").numpy().tolist(),
    "half": float(hvd.allreduce(tf.constant(1.0 + rank, tf.float16), op=hvd.Sum, name="half")),
    "mean": [float(value) for value in mean(tf.constant(float(rank)))],
    "gathered": hvd.allgather(tf.fill([rank + 1], rank), name="gathered").numpy().tolist(),
    "broadcast": float(hvd.broadcast(tf.constant(float(rank)), 1, name="broadcast")),
    "last to join": last,
    "horovod": horovod.__version__,
}) + "\\n")
"""


def start(rank: int, size: int, port: int) -> subprocess.Popen[bytes]:
    """One rank, told of the others by the variables that Horovod reads."""
    told: dict[str, str | int] = {
        "RANK": rank,
        "SIZE": size,
        "LOCAL_RANK": rank,
        "LOCAL_SIZE": size,
        "CROSS_RANK": 0,
        "CROSS_SIZE": 1,
        "HOSTNAME": "localhost",
        "CONTROLLER": "gloo",
        "CPU_OPERATIONS": "gloo",
        "GLOO_IFACE": "lo",
        "GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
        "GLOO_RENDEZVOUS_PORT": port,
    }
    environment = {f"HOROVOD_{name}": str(value) for name, value in told.items()}
    return subprocess.Popen([sys.executable, "-c", RANK], env={**os.environ, **environment})


def main(size: int = 2) -> int:
    """The worst exit code of the ranks."""
    server = RendezvousServer(0)
    port = server.start()
    server.init(get_host_assignments(parse_hosts(f"localhost:{size}"), size))
    ranks = [start(rank, size, port) for rank in range(size)]
    return max(abs(rank.wait(120)) for rank in ranks)


if __name__ == "__main__":
    sys.exit(main())
