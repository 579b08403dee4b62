from __future__ import annotations

import pytest

from firekiln.cli.table import human_size
from firekiln.cli.template import render
from firekiln.errors import UsageError

VALUE = {"Id": "sha256:1", "Config": {"User": "bob", "Env": ["A=1", "B=2"], "Cmd": None, "Labels": {"k.x": "v"}}}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Id}}", "sha256:1"),
        ("{{ .Config.User }}:{{.Id}}", "bob:sha256:1"),
        ("{{json .Config.Env}}", '["A=1","B=2"]'),
        ("{{.Config.Env}}", "[A=1 B=2]"),
        ("{{.Config.Cmd}}", "<nil>"),
        ("{{.Config.Labels}}", "map[k.x:v]"),
        ('{{index .Config.Labels "k.x"}}', "v"),
        ('{{index .Config.Labels "none"}}', ""),
        ("{{index .Config.Env 1}}", "B=2"),
        ("plain", "plain"),
    ],
)
def test_a_template_gives_what_docker_gives(template, text):
    assert render(template, VALUE) == text


@pytest.mark.parametrize("template", ["{{range .Config.Env}}", "{{.Nope}}", "{{.Id.More}}", "{{}}", "{{len .Id}}"])
def test_what_is_not_supported_is_refused(template):
    with pytest.raises(UsageError, match="template parsing error"):
        render(template, VALUE)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (12_288, "12.3kB"), (82_900_000, "82.9MB")]
)
def test_sizes_are_dockers(size, text):
    assert human_size(size) == text
