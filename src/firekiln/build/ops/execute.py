"""RUN: an ExecOp becomes a Step for the Runner."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from threading import Event as Flag
from typing import assert_never

from firekiln.build.graph import (
    BindMount,
    CacheMount,
    ExecOp,
    InlineFile,
    Mount,
    Network,
    SecretMount,
    SshMount,
    TmpfsMount,
    Vertex,
)
from firekiln.build.ops.output import Log
from firekiln.build.runner import Runner
from firekiln.build.solver import CanceledError, Inputs, Solved
from firekiln.errors import BuildError, FirekilnError, MachineError, SandboxError, StepFailedError
from firekiln.oci.platform import Platform
from firekiln.rootfs.tree import Directory, File, Meta, Node, Tree
from firekiln.sandbox.limits import Limits
from firekiln.sandbox.step import (
    FileMount,
    FolderMount,
    LayersMount,
    Outcome,
    Output,
    ScratchMount,
    SocketMount,
    Step,
    StepMount,
    TreeMount,
)
from firekiln.store import Store
from firekiln.values import dataclass

ENTITLEMENT_HOST = "network.host"
ENTITLEMENT_INSECURE = "security.insecure"

_COMPATIBLE = frozenset({("amd64", "386")})
"""What a host (first) executes besides its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOptions:
    """What the command line says about RUN steps.

    `network` stands for the steps that name none. `secrets` are by id, `ssh` are agents' sockets by id. `ca_bundle`
    is offered to each step (see `Step`). `limits` are in no key, as with BuildKit: a step that passes them has the
    same result.
    """

    network: str = "default"
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    ssh: Mapping[str, Path] = field(default_factory=dict)
    allow: frozenset[str] = frozenset()
    limits: Limits = Limits()
    ca_bundle: Path | None = None


class Executor:
    """Runs the RUN steps of one build. `runner` is called when the first one runs."""

    def __init__(
        self, *, runner: Callable[[], Runner], store: Store, options: ExecOptions, platform: Platform, cancel: Flag
    ) -> None:
        self._make_runner = runner
        self._store = store
        self._options = options
        self._platform = platform
        self._cancel = cancel

    def check(self, vertex: Vertex) -> None:
        """BuildError, before anything runs, where the step can't be carried out here as it was written."""
        op = vertex.op
        assert isinstance(op, ExecOp)
        allow = self._options.allow
        if self._network(op) == Network.HOST and ENTITLEMENT_HOST not in allow:
            raise _refused(vertex, f"{ENTITLEMENT_HOST} is not allowed", f"--allow {ENTITLEMENT_HOST}")
        if op.insecure and ENTITLEMENT_INSECURE not in allow:
            raise _refused(vertex, f"{ENTITLEMENT_INSECURE} is not allowed", f"--allow {ENTITLEMENT_INSECURE}")
        self._check_platform(vertex)
        for mount in op.mounts:
            self._check_mount(vertex, mount)

    def _check_platform(self, vertex: Vertex) -> None:
        host = Platform.host()
        ours, theirs = host.architecture, self._platform.architecture
        if self._platform.os == host.os and (ours == theirs or (ours, theirs) in _COMPATIBLE):
            return
        from firekiln.sandbox import binfmt  # noqa: PLC0415 - few builds are for another machine

        emulated = self._platform.os == host.os
        problem = binfmt.problem(theirs) if emulated else "no emulator runs them"
        if problem is not None:
            raise BuildError(
                f"RUN can't execute programs for {self._platform} here: this machine is {host}, and {problem}",
                location=vertex.location,
                hint="apt install qemu-user-static binfmt-support, on the host" if emulated else None,
            )

    def _check_mount(self, vertex: Vertex, mount: Mount) -> None:
        options = self._options
        if isinstance(mount, SecretMount) and mount.required and mount.id not in options.secrets:
            raise _refused(vertex, f"secret {mount.id}: not found", f"--secret id={mount.id},src=FILE")
        if isinstance(mount, SshMount) and mount.required and mount.id not in options.ssh:
            raise _refused(vertex, f"unset ssh forward key {mount.id}", f"--ssh {mount.id}")

    @contextlib.contextmanager
    def run(self, op: ExecOp, inputs: Inputs, output: Output) -> Iterator[Tree]:
        """Run the process; yields what it changed. StepFailedError where its status is not 0."""
        log = Log(output)
        with contextlib.ExitStack() as stack:
            try:
                runner = self._runner(op)
                step = self._step(op, inputs, runner, stack)
                outcome = stack.enter_context(runner.run(step, output=log, cancel=self._cancel))
            except (SandboxError, MachineError, OSError) as error:
                reason = error.strerror or str(error) if isinstance(error, OSError) else error.message
                hint = None if isinstance(error, OSError) else error.hint
                raise self._unless_canceled(
                    BuildError(f"{_process(op)} did not complete successfully: {reason}", hint=hint)
                ) from error
            if outcome.status != 0 or self._cancel.is_set():
                log.show_end()
                raise self._unless_canceled(
                    StepFailedError(
                        f"{_process(op)} did not complete successfully: exit code: {self._ending(outcome)}",
                        status=outcome.status,
                        output=log.last,
                        hint=runner.advice(step, log.last),
                    )
                )
            yield outcome.diff

    def _ending(self, outcome: Outcome) -> str:
        """The status, and what it does not say itself."""
        if not outcome.out_of_memory:
            return str(outcome.status)
        limit = self._options.limits.memory >> 20
        return f"{outcome.status}: cannot allocate memory: it used all that --memory allows, {limit} MiB"

    def _unless_canceled(self, error: FirekilnError) -> FirekilnError:
        """A step that was killed because another one failed has no failure of its own."""
        return CanceledError("canceled") if self._cancel.is_set() else error

    def _runner(self, op: ExecOp) -> Runner:
        runner = self._make_runner()
        network = self._network(op)
        if not runner.supports([network]):
            raise BuildError(f"RUN --network={network} is not supported here")
        return runner

    def _network(self, op: ExecOp) -> str:
        return self._options.network if op.network == Network.DEFAULT else op.network.value

    def _step(self, op: ExecOp, inputs: Inputs, runner: Runner, stack: contextlib.ExitStack) -> Step:
        secrets = self._options.secrets
        secret_env = [
            f"{mount.env}={secrets[mount.id].decode(errors='surrogateescape')}"
            for mount in op.mounts
            if isinstance(mount, SecretMount) and mount.env is not None and mount.id in secrets
        ]
        caches = self._caches(op, inputs, runner, stack)
        mounts = (self._mount(mount, inputs, caches) for mount in op.mounts)
        return Step(
            layers=_paths(inputs[0]),
            args=op.args,
            env=(*op.env, *op.proxy_env, *secret_env),
            cwd=op.cwd,
            user=op.user,
            mounts=tuple(mount for mount in mounts if mount is not None),
            network=self._network(op),
            insecure=op.insecure,
            extra_hosts=self._options.extra_hosts,
            ca_bundle=self._options.ca_bundle,
            limits=self._options.limits,
        )

    def _caches(
        self, op: ExecOp, inputs: Inputs, runner: Runner, stack: contextlib.ExitStack
    ) -> Mapping[CacheMount, Path]:
        """The folders of cache mounts, locked until `stack` is closed."""
        if not any(isinstance(mount, CacheMount) for mount in op.mounts):
            return {}
        from firekiln.build.ops import cachemount  # noqa: PLC0415 - most builds have none

        return cachemount.folders(
            op, inputs, store=self._store, runner=runner, waiting=self._check_canceled, stack=stack
        )

    def _mount(self, mount: Mount, inputs: Inputs, caches: Mapping[CacheMount, Path]) -> StepMount | None:
        match mount:
            case BindMount():
                return _bind(mount, inputs)
            case CacheMount():
                part = mount.source if mount.input is None else "/"  # else the folder begins with that part of it
                return FolderMount(target=mount.target, folder=caches[mount], source=part, readonly=mount.readonly)
            case TmpfsMount():
                return ScratchMount(target=mount.target, size=mount.size)
            case SecretMount():
                return self._secret(mount)
            case SshMount():
                return self._ssh(mount)
            case _:
                assert_never(mount)

    def _secret(self, mount: SecretMount) -> FileMount | None:
        data = self._options.secrets.get(mount.id)
        if data is None or mount.target is None:
            return None
        return FileMount(target=mount.target, data=data, mode=mount.mode, uid=mount.uid, gid=mount.gid)

    def _ssh(self, mount: SshMount) -> SocketMount | None:
        socket = self._options.ssh.get(mount.id)
        if socket is None:
            return None
        return SocketMount(target=mount.target, socket=socket, mode=mount.mode, uid=mount.uid, gid=mount.gid)

    def _check_canceled(self) -> None:
        if self._cancel.is_set():
            raise CanceledError("canceled")


def _bind(mount: BindMount, inputs: Inputs) -> StepMount:
    if mount.input is None:
        tree = _folder(mount.files)
        return TreeMount(target=mount.target, tree=tree, source=mount.source, readonly=mount.readonly)
    source = inputs[mount.input]
    if source is not None and source.tree is not None:
        return TreeMount(target=mount.target, tree=source.tree, source=mount.source, readonly=mount.readonly)
    return LayersMount(target=mount.target, layers=_paths(source), source=mount.source, readonly=mount.readonly)


def _folder(files: Sequence[InlineFile]) -> Tree:
    children: dict[bytes, Node] = {
        file.name.encode(errors="surrogateescape"): File.of(file.data, Meta(mode=file.mode)) for file in files
    }
    return Directory(meta=Meta(mode=0o755), children=children)


def _paths(solved: Solved | None) -> tuple[Path, ...]:
    return tuple(layer.path for layer in (solved.layers if solved is not None else None) or ())


def _process(op: ExecOp) -> str:
    return f"process {json.dumps(' '.join(op.args), ensure_ascii=False)}"


def _refused(vertex: Vertex, message: str, option: str | None) -> BuildError:
    return BuildError(message, location=vertex.location, hint=f"build with {option}" if option else None)
