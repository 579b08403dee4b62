"""The table of the conformance suite: every instruction, flag and form of a Dockerfile, by names for tests."""

from __future__ import annotations

import cases_files as files
import cases_process as process
import cases_service as service
import cases_steps as steps
from case import numbered

CASES = numbered(
    (
        *steps.FROM,
        *steps.RUN,
        *process.CMD,
        *process.ENTRYPOINT,
        *service.LABEL,
        *service.MAINTAINER,
        *service.EXPOSE,
        *process.ENV,
        *files.ADD,
        *files.COPY,
        *service.VOLUME,
        *process.USER,
        *process.WORKDIR,
        *steps.ARG,
        *steps.ONBUILD,
        *service.STOPSIGNAL,
        *service.HEALTHCHECK,
        *process.SHELL,
        *service.TEXT,
        *files.IGNORED,
    )
)
