"""BuildKit's build checks, by name: what each says. Where they look lies in `lint.py` and in `build/plan/checks.py`.

Names, and what calls forth a check, are BuildKit's (frontend 1.26), so that `# check=skip=…` and people's habits
keep their meaning.
"""

from __future__ import annotations

import re

from firekiln.errors import Location
from firekiln.values import dataclass

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a word of a rule's name begins: `JSONArgsRecommended` is `json-args-recommended`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One check. An experimental one is silent unless it is asked for by name, or all are."""

    name: str
    description: str
    experimental: bool = False

    @property
    def url(self) -> str:
        """Docker's page about the check."""
        return f"https://docs.docker.com/go/dockerfile/rule/{_WORD.sub('-', self.name).lower()}/"

    def warn(self, message: str, location: Location, *, span: str | None = None) -> CheckWarning:
        return CheckWarning(rule=self, message=message, location=location, span=span)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckWarning:
    """A check that found something. `message` says what, in this place; `span` is the text that is meant there."""

    rule: Rule
    message: str
    location: Location
    span: str | None = None

    def __str__(self) -> str:
        return f"{self.location}: {self.rule.name}: {self.message}"


STAGE_NAME_CASING = Rule(name="StageNameCasing", description="Stage names should be lowercase")
FROM_AS_CASING = Rule(name="FromAsCasing", description="The 'as' keyword should match the case of the 'from' keyword")
NO_EMPTY_CONTINUATION = Rule(
    name="NoEmptyContinuation", description="Empty continuation lines will become errors in a future release"
)
CONSISTENT_INSTRUCTION_CASING = Rule(
    name="ConsistentInstructionCasing",
    description="All instructions of a Dockerfile should be written alike, in upper or in lower case",
)
DUPLICATE_STAGE_NAME = Rule(name="DuplicateStageName", description="Stage names should be unique")
RESERVED_STAGE_NAME = Rule(name="ReservedStageName", description="Reserved words should not be used as stage names")
JSON_ARGS_RECOMMENDED = Rule(
    name="JSONArgsRecommended",
    description="The exec form of CMD and ENTRYPOINT lets signals reach the service itself, not a shell before it",
)
MAINTAINER_DEPRECATED = Rule(
    name="MaintainerDeprecated", description="MAINTAINER is deprecated: a label names the author instead"
)
UNDEFINED_ARG_IN_FROM = Rule(name="UndefinedArgInFrom", description="FROM should use declared arguments only")
WORKDIR_RELATIVE_PATH = Rule(
    name="WorkdirRelativePath",
    description="A relative WORKDIR without an absolute one before it depends on the base image",
)
UNDEFINED_VAR = Rule(name="UndefinedVar", description="Variables should be defined before they are used")
MULTIPLE_INSTRUCTIONS_DISALLOWED = Rule(
    name="MultipleInstructionsDisallowed",
    description="Of several CMD, ENTRYPOINT or HEALTHCHECK in one stage only the last counts",
)
LEGACY_KEY_VALUE_FORMAT = Rule(
    name="LegacyKeyValueFormat", description="The old form of key and value, parted by white space, should not be used"
)
INVALID_BASE_IMAGE_PLATFORM = Rule(
    name="InvalidBaseImagePlatform", description="The base image's platform is not the one that is built for"
)
REDUNDANT_TARGET_PLATFORM = Rule(
    name="RedundantTargetPlatform", description="$TARGETPLATFORM is the platform of FROM anyway"
)
SECRETS_USED_IN_ARG_OR_ENV = Rule(
    name="SecretsUsedInArgOrEnv", description="ARG and ENV are kept in the image: no place for secrets"
)
INVALID_DEFAULT_ARG_IN_FROM = Rule(
    name="InvalidDefaultArgInFrom",
    description="With its arguments' defaults, FROM has an empty or invalid image name",
)
FROM_PLATFORM_FLAG_CONST_DISALLOWED = Rule(
    name="FromPlatformFlagConstDisallowed", description="FROM --platform should not be a constant"
)
COPY_IGNORED_FILE = Rule(
    name="CopyIgnoredFile", description="A file to copy is left out by .dockerignore", experimental=True
)
INVALID_DEFINITION_DESCRIPTION = Rule(
    name="InvalidDefinitionDescription",
    description="The comment above a stage or an argument should be its description: `# <name> <description>`",
    experimental=True,
)
EXPOSE_PROTO_CASING = Rule(name="ExposeProtoCasing", description="The protocol in EXPOSE should be in lower case")
EXPOSE_INVALID_FORMAT = Rule(name="ExposeInvalidFormat", description="EXPOSE takes no address and no port of the host")

RULES = {rule.name: rule for rule in list(globals().values()) if isinstance(rule, Rule)}
"""All rules by name."""
