"""Build checks of a whole Dockerfile: what its text tells (`dockerfile/lint.py`) and what its plan does.

`# check=skip=…;error=true;experimental=…`, or the build argument BUILDKIT_DOCKERFILE_CHECK in its place, says which
checks speak and whether one that does fails the build.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from firekiln.build.graph import Plan
from firekiln.build.plan.options import BaseConfigs, PlanOptions
from firekiln.build.plan.planner import plan
from firekiln.dockerfile import rules
from firekiln.dockerfile.check import CheckOptions, in_order, parse_check, violation
from firekiln.dockerfile.convert import convert_syntax
from firekiln.dockerfile.instructions import Dockerfile
from firekiln.dockerfile.lint import lint
from firekiln.dockerfile.parser import Syntax, parse_syntax
from firekiln.dockerfile.rules import CheckWarning
from firekiln.errors import DockerfileError, Location, UsageError
from firekiln.oci.config import Image
from firekiln.oci.platform import Platform
from firekiln.values import dataclass

BUILD_ARG = "BUILDKIT_DOCKERFILE_CHECK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A Dockerfile that was read, what checks say of its text, and which checks are to speak."""

    dockerfile: Dockerfile
    warnings: tuple[CheckWarning, ...]
    checks: CheckOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The warnings of the checks that speak, in the order of their lines; `error` is why there can be no plan.

    `source` is the Dockerfile's text, for excerpts; "" where it could not be read.
    """

    warnings: tuple[CheckWarning, ...]
    source: str = ""
    error: DockerfileError | None = None


def load(text: bytes | str, *, file: str = "Dockerfile", build_args: Mapping[str, str] | None = None) -> Definition:
    """Read a Dockerfile. DockerfileError where it, or its `check` directive, is malformed; UsageError: BUILD_ARG is."""
    syntax = parse_syntax(text, file=file)
    checks = _check_options(syntax, build_args or {})
    dockerfile = convert_syntax(syntax)
    return Definition(dockerfile=dockerfile, warnings=lint(syntax, dockerfile), checks=checks)


def plan_definition(definition: Definition, options: PlanOptions, base_configs: BaseConfigs) -> Plan:
    """`plan` with the warnings of all checks that speak. With `error=true` any of them is a DockerfileError."""
    made = plan(definition.dockerfile, options, base_configs)
    warnings = in_order(definition.checks.select((*definition.warnings, *made.warnings)))
    if warnings and definition.checks.error:
        first = warnings[0]
        raise DockerfileError(
            violation(warnings),
            location=first.location,
            source=definition.dockerfile.source,
            span=first.span,
            hint=f"{first.rule.name}: {first.message}",
        )
    return replace(made, warnings=warnings)


def check(
    text: bytes | str, options: PlanOptions, base_configs: BaseConfigs | None = None, *, file: str = "Dockerfile"
) -> CheckResult:
    """What the checks find in a Dockerfile, in all stages unless `options` name a target.

    Base images are taken to have an empty config unless `base_configs` tells better. UsageError where the options
    make no sense; what `base_configs` raises.
    """
    try:
        definition = load(text, file=file, build_args=options.build_args)
    except DockerfileError as error:
        return CheckResult(warnings=(), source=error.source or "", error=error)
    # Who asks for checks wants to hear of copies that will fail, though BuildKit counts the rule as experimental.
    checks, source = definition.checks.asking(rules.COPY_IGNORED_FILE), definition.dockerfile.source
    wanted = replace(options, all_stages=not options.target)
    quiet = replace(definition, checks=checks)
    try:
        made = plan_definition(quiet, wanted, base_configs or any_image)
    except DockerfileError as error:
        return CheckResult(warnings=in_order(checks.select(definition.warnings)), source=source, error=error)
    return CheckResult(warnings=made.warnings, source=source)


def any_image(_reference: str, platform: Platform) -> Image:
    """Every image exists, with an empty config; its one layer keeps it from being taken for `scratch`."""
    return Image(platform=platform, diff_ids=("sha256:" + "0" * 64,))


def _check_options(syntax: Syntax, build_args: Mapping[str, str]) -> CheckOptions:
    given = build_args.get(BUILD_ARG)
    if given is not None:
        try:
            return parse_check(given)
        except ValueError as error:
            raise UsageError(f"--build-arg {BUILD_ARG}={given}: {error}") from None
    directive = syntax.directives.get("check")
    if directive is None:
        return CheckOptions()
    try:
        return parse_check(directive.value)
    except ValueError as error:
        where = Location(file=syntax.file, start=directive.line, end=directive.line)
        raise DockerfileError(
            f"failed to parse check options: {error}", location=where, source=syntax.source, span=directive.value
        ) from None
