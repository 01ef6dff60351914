"""`millrace endpoint`: the endpoint of a pipeline's deploy task."""

from __future__ import annotations

from millrace.commands.of_target import Asked
from millrace.errors import ConfigError
from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.services.sagemaker import endpoints
    from millrace.services.sagemaker.session import session

    change = settings.endpoint
    _check_unused(settings)
    one = endpoints.find(session(settings.sagemaker()), settings.compose(), change.task)
    match change.action:
        case "deploy":
            endpoints.deploy(one, change.package, follow=change.wait, tell=print)
        case "rollback":
            endpoints.rollback(one, follow=change.wait, tell=print)
        case "weights":
            endpoints.weights(one, change.weights, follow=change.wait, tell=print)
        case "delete":
            endpoints.delete(one, follow=change.wait, tell=print)
            return 0
    for line in endpoints.status(one):
        print(line)
    return 0


def _check_unused(settings: Settings) -> None:
    """Refuse what the action would not look at.

    Raises:
        ConfigError: Naming it.
    """
    change = settings.endpoint
    if change.package is not None and change.action != "deploy":
        raise ConfigError(f"endpoint.package: endpoint.action={change.action} deploys nothing; leave it out")
    if change.weights and change.action != "weights":
        raise ConfigError(
            f"endpoint.weights: endpoint.action={change.action} changes none; use endpoint.action=weights"
        )
    if settings.document is not None:
        raise ConfigError("document: an endpoint is that of a pipeline's deploy task: name it, pipeline=NAME")
