"""Stages that another engine builds: `--stage-engine=docker`."""

from firekiln.build.stageengine.docker import DockerStages, Prebuilt, StageRequest

__all__ = ["DockerStages", "Prebuilt", "StageRequest"]
