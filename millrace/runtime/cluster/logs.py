"""The logs of a job's pods on this process's output, each line behind its host."""

from __future__ import annotations

import threading
import time

from millrace.errors import MillraceError, TransientError
from millrace.runtime.cluster.api import Cluster

__all__ = ["Logs"]

_AGAIN_SECONDS = 1.0


class Logs:
    """Follows the logs of pods, one thread each."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._threads: dict[str, threading.Thread] = {}
        self._ended: set[str] = set()
        self._lock = threading.Lock()

    def follow(self, pod: str, container: str, host: int) -> None:
        """Show a pod's log from its beginning; nothing happens when that is being done."""
        if pod not in self._threads:
            thread = threading.Thread(target=self._show, args=(pod, container, host), name=f"log-{host}", daemon=True)
            self._threads[pod] = thread
            thread.start()

    def ended(self, pod: str) -> None:
        """Say that a pod writes no more: its log is read to the end, and not asked for again."""
        self._ended.add(pod)

    def finish(self, seconds: float) -> None:
        """Wait until the logs of pods that ended are shown."""
        deadline = time.monotonic() + seconds
        for pod, thread in self._threads.items():
            if pod in self._ended:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _show(self, pod: str, container: str, host: int) -> None:
        """Follow a log to its end, going on after the last line when the connection breaks off."""
        last = ""
        while True:
            over = pod in self._ended
            shown = last
            try:
                for line in self._cluster.log(pod, container):
                    at, _, text = line.partition(" ")
                    if at > shown:
                        last = at
                        with self._lock:
                            print(f"[host {host}] {text}", flush=True)
            except TransientError:
                pass
            except MillraceError as error:
                with self._lock:
                    print(f"[host {host}] its log can't be shown: {error}", flush=True)
                return
            if over:
                return
            time.sleep(_AGAIN_SECONDS)
