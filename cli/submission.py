"""Training on a managed trainer: the job that the settings and the command ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cli.environment import Environment
from cli.errors import CommandError
from cli.preflight import require_account
from infra.trainers import azureml, sagemaker, vertex
from infra.trainers.job import TrainerJob
from stacks.settings import SageMakerSettings, VertexSettings


@dataclass(frozen=True)
class Submission:
    """A job: its name, the request that starts it, and how to send that.

    Attributes
    ----------
    send
        Starts the job unless it is there; its id at the trainer, and whether it is new.
    """

    trainer: str
    name: str
    request: dict[str, Any]
    send: Callable[[], tuple[str, bool]]


def prepare(
    environment: Environment, data: str, recipe: dict[str, Any], *, shard_items: bool
) -> Submission:
    """Write down a job of the environment's trainer; nothing is asked of a cloud.

    Parameters
    ----------
    data
        Address of the interactions.
    recipe
        Fields that differ from the defaults.
    shard_items
        Spread the item table over the GPUs.

    Raises
    ------
    CommandError
        The settings name no trainer.
    RecipeError
        A field is unknown or has a value that it cannot have.
    TrainerError
        The machines could not reach the data or the model store.
    """
    from recsys.recipe import Recipe

    trainer = environment.settings.trainer
    if trainer is None:
        raise CommandError(
            f"The settings of {environment.name} name no trainer: add a section trainer with the "
            "kind sagemaker, vertex or azureml.",
            2,
        )
    Recipe.from_dict(Recipe().to_dict() | recipe)
    job = TrainerJob(
        environment=environment.name,
        image=trainer.image,
        data=data,
        models=environment.model_store_address,
        recipe=recipe,
        shard_items=shard_items,
        machine=trainer.machine,
        nodes=trainer.nodes,
        gpus=trainer.gpus_per_node,
        spot=trainer.spot,
        hours=trainer.hours,
    )
    if isinstance(trainer, SageMakerSettings):
        request = sagemaker.request(job, role=trainer.role, volume_gib=trainer.volume_gib)

        def send() -> tuple[str, bool]:
            require_account(environment)
            return sagemaker.submit(request, environment.aws())

    elif isinstance(trainer, VertexSettings):
        request = vertex.request(
            job,
            accelerator=trainer.accelerator,
            service_account=trainer.service_account,
            volume_gib=trainer.volume_gib,
        )
        project = environment.settings.gcp.project

        def send() -> tuple[str, bool]:
            return vertex.submit(request, project=project, region=trainer.region)

    else:
        request = azureml.request(job, workspace=trainer.workspace, compute=trainer.compute)

        def send() -> tuple[str, bool]:
            return azureml.submit(request, workspace=trainer.workspace)

    return Submission(trainer.kind, job.name, request, send)
