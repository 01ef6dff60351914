"""Start the ranks of a test, each a process of its own, which meet by Horovod."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.http.http_server import RendezvousServer


def run_ranks(module: str, folder: Path, count: int = 2, seconds: float = 900) -> None:
    """Run `python -m module folder` as all ranks, and wait until they are done; their output is in `rank-N.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RendezvousServer(0)
    port = server.start()
    server.init(get_host_assignments(parse_hosts(f"localhost:{count}"), count))
    processes = []
    for rank in range(count):
        places = {"RANK": rank, "SIZE": count, "LOCAL_RANK": rank, "LOCAL_SIZE": count, "CROSS_RANK": 0}
        rendezvous = {"GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "GLOO_RENDEZVOUS_PORT": port, "GLOO_IFACE": "lo"}
        ways = {"CROSS_SIZE": 1, "HOSTNAME": "localhost", "CONTROLLER": "gloo", "CPU_OPERATIONS": "gloo"}
        variables = {f"HOROVOD_{name}": str(value) for name, value in {**places, **rendezvous, **ways}.items()}
        with (folder / f"rank-{rank}.txt").open("w") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, str(folder)],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=Path(__file__).parents[2],
                    env={**os.environ, **variables, "TF_CPP_MIN_LOG_LEVEL": "3"},
                )
            )
    try:
        codes = [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        server.stop()
    assert codes == [0] * count, f"{codes}\n" + "\n".join(
        (folder / f"rank-{rank}.txt").read_text()[-3000:] for rank in range(count)
    )
