"""The multi-worker backend: hosts find each other, add up numbers by TensorFlow's own collectives, end together."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import tensorflow_server_pb2
from tensorflow.python.eager import context as eager

from millrace.errors import ConfigError, MillraceError, TaskFailedError, TransientError
from millrace.runtime.context import Hosts
from millrace.training.ranks import Ranks

__all__ = ["PORT", "Collectives", "connect"]

PORT = 2222
"""Where each host listens, when its name comes without a port."""
_GROUP = 1
_ARRIVE_SECONDS = 0.5
"""The last sum must be whole on the others, too: often they fail in the same step for the same reason."""
_TELL_SECONDS = 2.0
_YIELD_SECONDS = 4.0
"""More than the above: the rank that failed first says so first."""
_NOTE_SECONDS = 30.0
_WATCH_SECONDS = 1.0
_PROBE_SECONDS = 3.0
_STRIKES = 2
_CAUSE = re.compile(r"<<(.*?)>>", re.DOTALL)
_GONE = re.compile(r"\[\[(\d+)\]\]")
_TASK = re.compile(r"/job:worker/replica:0/task:(\d+)")


class Collectives(Ranks):
    """One rank on each host; TensorFlow's own collectives carry the numbers, over gRPC."""

    def __init__(self, names: Sequence[str], index: int, seconds: float, places: Mapping[int, tuple[str, int]]) -> None:
        """`places` are the IP address and the port of each other rank."""
        super().__init__(names, index, seconds)
        self._places = places
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def total(self, tensors: Sequence[Any], name: str = "total") -> list[Any]:
        """Sums over all ranks, to the same bits on each: one message for each dtype."""
        tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
        sums: list[Any] = [None] * len(tensors)
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
            flat = tf.concat([tf.reshape(tensors[place], [-1]) for place in places], 0)
            sizes = [tf.size(tensors[place]) for place in places]
            parts = tf.split(self._reduce(flat, f"{name}.{dtype.name}"), sizes)
            for place, part in zip(places, parts, strict=True):
                sums[place] = tf.ensure_shape(tf.reshape(part, tf.shape(tensors[place])), tensors[place].shape)
        return sums

    def joined(self, tensor: Any, name: str) -> Any:
        """The tensors of all ranks one after another, along the first axis.

        TensorFlow's own gathering wants equal lengths. So each adds zeros where the others' are, and all are added up.
        """
        length = tf.shape(tensor)[:1]
        (lengths,) = self.total([tf.pad(length, [[self.index, self.count - 1 - self.index]])], f"{name}.lengths")
        before, after = tf.reduce_sum(lengths[: self.index]), tf.reduce_sum(lengths[self.index + 1 :])
        paddings = [[before, after], *[[0, 0]] * (tensor.shape.rank - 1)]
        return self.total([tf.pad(tensor, paddings)], name)[0]

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Tell the others when this rank fails, and say which one was the first when another did.

        Raises:
            TransientError: When another rank is gone or does not answer.
            TaskFailedError: When another rank has told why it failed.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if "ollective" not in str(error.message) and "RecvBuf" not in str(error.message):
                self._tell(error)
                raise
            time.sleep(_YIELD_SECONDS)
            raise self._explained(error) from error
        except Exception as error:
            self._tell(error)
            raise
        finally:
            self.leave()

    def watch(self) -> None:
        """Look after the other hosts, in a thread, and end what waits for one that is gone.

        Most waiting ends by itself when a connection breaks; not that of the first host for others to join in a sum.
        """
        self._watcher.start()

    def leave(self) -> None:
        """Mind no more whether the others are there: nothing will be added up from now on."""
        self._ended.set()
        self._watcher.join(_PROBE_SECONDS + _WATCH_SECONDS)

    def _watch(self) -> None:
        strikes: Counter[int] = Counter()
        while not self._ended.wait(_WATCH_SECONDS):
            for peer in range(1, self.count) if self.first else (0,):
                try:
                    socket.create_connection(self._places[peer], _PROBE_SECONDS).close()
                    strikes[peer] = 0
                except OSError as error:
                    strikes[peer] += 1
                    if strikes[peer] == _STRIKES:
                        own: Any = eager.context()
                        own.abort_collective_ops(tf.errors.UNAVAILABLE, f"collective with [[{peer}]]: {error}")

    def _reduce(self, tensor: Any, name: str) -> Any:
        # counted keys would part where only some ranks trace a step anew; TensorFlow wants one size a key
        key = tf.bitwise.bitwise_xor(tf.constant(zlib.crc32(name.encode()) & 0x7FFFFFFF), tf.size(tensor))
        with tf.device("CPU:0"):
            return tf.raw_ops.CollectiveReduceV2(
                input=tensor,
                group_size=self.count,
                group_key=_GROUP,
                instance_key=key,
                ordering_token=[],
                merge_op="Add",
                final_op="Id",
                timeout_seconds=self.seconds,
            )

    def _tell(self, error: Exception) -> None:
        """Let the others' next sum fail with this error."""
        text = str(error) if isinstance(error, MillraceError) else f"{type(error).__name__}: {error}"
        cause = " ".join(text.split())[:1000].replace(">>", "> >")
        own: Any = eager.context()
        time.sleep(_ARRIVE_SECONDS)
        own.abort_collective_ops(tf.errors.ABORTED, f"<<{self.names[self.index]}: {cause}>>")
        time.sleep(_TELL_SECONDS)

    def _explained(self, error: tf.errors.OpError) -> MillraceError:
        message = str(error.message)
        if told := _CAUSE.search(message):
            return TaskFailedError(f"another host failed first: {told[1]}")
        if isinstance(error, tf.errors.DeadlineExceededError):
            return TransientError(
                f"another host did not come as far within {self.seconds:g} s (peer_seconds): see the hosts' logs; "
                f"the hosts are {', '.join(self.names)}"
            )
        gone = [int(number) for number in _GONE.findall(message) + _TASK.findall(message)]
        who = next((self.names[number] for number in gone if number != self.index), "another host")
        return TransientError(f"{who} ended or can't be reached any more; its own log says why")


def connect(hosts: Hosts, seconds: float, log: logging.Logger) -> Collectives:
    """Find the other hosts and wait until all are there; before TensorFlow has done anything else.

    Args:
        hosts: Names, each with or without `:port`.
        seconds: How long to wait, now and at each sum.
        log: Told who is waited for.

    Raises:
        ConfigError: When the port is taken.
        TransientError: When a host does not come.
    """
    addresses = [_address(name) for name in hosts.names]
    _without_proxies([host for host, _ in addresses])
    _listen([f"{host}:{port}" for host, port in addresses], hosts.index)
    deadline = time.monotonic() + seconds
    places = {
        rank: _wait_for(host, port, deadline, log) for rank, (host, port) in enumerate(addresses) if rank != hosts.index
    }
    ranks = Collectives(hosts.names, hosts.index, seconds, places)
    ranks.watch()
    _meet(ranks)
    log.info("host %d of %d: all are there", hosts.index + 1, ranks.count)
    return ranks


def _address(name: str) -> tuple[str, int]:
    host, _, port = name.partition(":")
    return host, int(port) if port else PORT


def _without_proxies(names: Sequence[str]) -> None:
    """Keep gRPC from asking an HTTP proxy for the other hosts."""
    for variable in ("no_grpc_proxy", "no_proxy"):
        given = os.environ.get(variable) or os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        os.environ[variable] = ",".join(dict.fromkeys([*(given.split(",") if given else []), *names]))


def _listen(addresses: Sequence[str], index: int) -> None:
    """Start TensorFlow's server; tf.distribute does the same, but waits for an hour and needs its own variables."""
    own: Any = eager.context()
    cluster = tf.train.ClusterSpec({"worker": list(addresses)})
    try:
        own.configure_collective_ops(
            collective_leader="/job:worker/replica:0/task:0", device_filters=(f"/job:worker/task:{index}",)
        )
        own.enable_collective_ops(
            tensorflow_server_pb2.ServerDef(
                cluster=cluster.as_cluster_def(),
                default_session_config=own.config,
                job_name="worker",
                task_index=index,
                protocol="grpc",
            )
        )
        own.ensure_initialized()
    except RuntimeError as error:
        raise MillraceError(
            f"train on several hosts needs a process in which TensorFlow was not used: {error}"
        ) from None
    except tf.errors.OpError as error:
        raise ConfigError(f"can't listen at {addresses[index]}, is the port taken? {error.message}") from error


def _wait_for(host: str, port: int, deadline: float, log: logging.Logger) -> tuple[str, int]:
    noted = time.monotonic()
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as connection:
                return str(connection.getpeername()[0]), port
        except OSError as error:  # the name does not resolve yet, or nobody listens yet
            now = time.monotonic()
            if now > deadline:
                raise TransientError(f"{host}:{port} did not come in time (peer_seconds): {error}") from error
            if now - noted > _NOTE_SECONDS:
                noted = now
                log.info("waiting for %s:%d: %s", host, port, error)
            time.sleep(0.2)


def _meet(ranks: Collectives) -> None:
    """The first sum, in a thread: TensorFlow knows no time limit for it."""
    errors: list[Exception] = []

    def hello() -> None:
        try:
            ranks.total([tf.zeros([1])])
        except tf.errors.OpError as error:
            errors.append(error)

    thread = threading.Thread(target=hello, daemon=True)
    thread.start()
    thread.join(ranks.seconds)
    if thread.is_alive() or errors:
        reason = errors[0] if errors else f"no answer within {ranks.seconds:g} s (peer_seconds)"
        raise TransientError(f"the hosts {', '.join(ranks.names)} did not come together: {reason}")
