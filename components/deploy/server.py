"""Serve one model over HTTP: the entry of a serving container, and what the deploy component starts.

Usable as `millrace serve`. Each option may also be given by a variable: MILLRACE_MODEL_NAME,
MILLRACE_MAX_BATCH_SIZE and so on, which is how a container is told.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import uvicorn
from pydantic import ValidationError

from millrace.components.deploy.app import create_app
from millrace.components.deploy.batching import Predict
from millrace.errors import ConfigError, DataError, MillraceError, UserError, explain_validation
from millrace.runtime.limits import NAME, NAME_VARIABLE, REVISION_VARIABLE, Limits, limit_variable
from millrace.runtime.models import load_predictor
from millrace.runtime.schemas import ModelCard, TextRecords, read_json_model
from millrace.runtime.texts import load_encoder

__all__ = ["MODEL_FOLDERS", "find_model", "listen", "main", "serve"]

MODEL_FOLDERS = (Path("/opt/ml/model"), Path("/mnt/models"))
"""Where SageMaker and KServe put a model."""

KEEP = b"k"
"""What the deploy component says on standard input when the server shall outlive it."""

_DRAIN_SECONDS = 25  # SageMaker kills 30 s after it asked to stop

logger = logging.getLogger("millrace.deploy")


def serve(
    model: Path,
    *,
    name: str = "model",
    host: str = "127.0.0.1",
    port: int = 8080,
    limits: Limits = Limits(),
    listener: socket.socket | None = None,
) -> int:
    """Answer until SIGTERM or SIGINT, then finish what is in flight.

    Args:
        model: Folder of a Model artifact.
        name: The model's name in URLs.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        limits: What requests are accepted.
        listener: A socket that listens already, instead of `host` and `port`.

    Returns:
        0 after a graceful stop.

    Raises:
        DataError: When the folder holds no model.
        ConfigError: When the name can't be part of a URL or the address can't be listened on.
        MillraceError: When the model can't be loaded.
    """
    if not re.match(NAME, name):
        raise ConfigError(f"model name {name!r}, allowed: letters, digits, dots, dashes and underscores, at most 63")
    folder = find_model(model)
    card = read_json_model(folder / "model.json", ModelCard)
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    revision = os.environ.get(REVISION_VARIABLE, "")
    encode = load_encoder(folder, card.records) if isinstance(card.records, TextRecords) else None
    app = create_app(
        lambda: _load(folder), card, name=name, limits=limits, failed=failed, revision=revision, encode=encode
    )
    config = uvicorn.Config(
        app,
        http="h11",  # bounds the size of headers, which httptools does not
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than load balancers keep idle connections, else they meet closed ones
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = uvicorn.Server(config)
    # uvicorn's own handlers raise them again afterwards; being told to stop is no failure
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    with listener or listen(host, port) as own:
        logger.info("model %r from %s on %s", name, folder, _url(own))
        server.run(sockets=[own])
    if failures:
        raise MillraceError(f"the model in {folder} can't be loaded: {failures[0]}") from failures[0]
    logger.info("stopped")
    return 0


def find_model(folder: Path) -> Path:
    """The folder with model.json: the one given, or the only one in it that has it.

    Raises:
        DataError: When there is none, or more than one.
    """
    if (folder / "model.json").is_file():
        return folder
    inside = sorted(path.parent for path in folder.glob("*/model.json"))
    if len(inside) == 1:
        return inside[0]
    found = f"there are {len(inside)} models in it" if inside else "there is no model.json"
    raise DataError(f"{folder} is not a model: {found}; give the folder of a Model artifact")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        ConfigError: When the port is in use or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OverflowError as error:
        raise ConfigError(f"port {port}, allowed: 0 to 65535") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use by another process: stop that, or choose another port "
                "(0 takes a free one)"
            ) from error
        raise ConfigError(f"can't listen on {host} port {port}: {error.strerror or error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server with command-line arguments and return the exit code."""
    options = _parser().parse_args(arguments)
    if options.watch_stdin:
        threading.Thread(target=_watch_stdin, name="stdin", daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        model = options.model or _container_model()
        host = options.host or ("127.0.0.1" if options.model else "0.0.0.0")  # noqa: S104 - inside a container
        listener = None if options.fd is None else socket.socket(fileno=options.fd)
        return serve(model, name=options.name, host=host, port=options.port, limits=_limits(options), listener=listener)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return UserError.exit_code if isinstance(error, UserError) else 1


def _load(folder: Path) -> Predict:
    predictor = load_predictor(folder)
    schema = predictor.card.records
    # The first call builds what later ones reuse: nobody's request shall wait for it.
    predictor.predict(np.zeros((1, *schema.shape), schema.dtype))
    return predictor.predict


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="millrace serve",
        description="Serve one model over HTTP. Options may be given by variables: MILLRACE_MODEL_NAME for --name, "
        "MILLRACE_PORT, MILLRACE_MAX_BATCH_SIZE and so on for the others.",
        epilog="example: millrace serve --model build/model --port 8080",
    )
    folders = " or ".join(map(str, MODEL_FOLDERS))
    parser.add_argument("--model", "--model-dir", type=Path, help=f"folder of a Model artifact (default: {folders})")
    name = os.environ.get(NAME_VARIABLE, "model")
    parser.add_argument("--name", default=name, help=f"the model's name in URLs (default: {name})")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1; without --model 0.0.0.0)")
    # argparse converts text defaults as it does words, so that a wrong variable is refused as a wrong option is
    port = os.environ.get("MILLRACE_PORT", "8080")
    parser.add_argument("--port", type=int, default=port, help=f"port; 0 takes a free one (default: {port})")
    parser.add_argument("--options", action="help", help="show this list")
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--watch-stdin", action="store_true", help=argparse.SUPPRESS)
    for field, info in Limits.model_fields.items():
        kind = int if info.annotation is int else float
        default = os.environ.get(limit_variable(field), str(info.default))
        text = f"{info.description} (default: {default})".replace("%", "%%")
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind, default=default, help=text)
    return parser


def _limits(options: argparse.Namespace) -> Limits:
    try:
        return Limits.model_validate({field: getattr(options, field) for field in Limits.model_fields})
    except ValidationError as error:
        raise ConfigError(explain_validation(error)) from error


def _container_model() -> Path:
    for folder in MODEL_FOLDERS:
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    raise ConfigError(f"no model given: use --model DIR, or mount one at {' or '.join(map(str, MODEL_FOLDERS))}")


def _watch_stdin() -> None:
    """Stop when the process that holds the other end of standard input is gone, however it ended."""
    if os.read(sys.stdin.fileno(), 1) != KEEP:
        os.kill(os.getpid(), signal.SIGTERM)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
