"""Jinja2 templates: what they write, and what they must not do."""

from __future__ import annotations

import pytest

from pelton.texttemplate.fault import TemplateFault
from pelton.texttemplate.jinja import JinjaTemplates

DATA = {"a": "q<", "list": [1, 2], "map": {"k": "v"}}


def run(text: str, *, escape: bool = False) -> str:
    return JinjaTemplates({"t.j2": text, "other.j2": "[{{ a }}]"}).run("t.j2", DATA, escape=escape)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("{{ a|upper }}{% for x in list %}{{ loop.index }}{{ x }}{% endfor %}", "Q<1122"),
        ("{{ map.k }}{{ map.items()|list }}{{ missing }}{{ a.split('<')[0] }}", "v[('k', 'v')]q"),
        ("{% include 'other.j2' %}{% macro m(x) %}{{ x }}{% endmacro %}{{ m(1) }}{{ 3 * 4 }}", "[q<]112"),
    ],
)
def test_run_writes_what_jinja_writes(text, written):
    assert run(text) == written


def test_html_is_escaped():
    assert run("<b>{{ a }}</b>", escape=True) == "<b>q&lt;</b>"


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        '{{ "x" * 1000000000 }}',
        "{{ 9 ** 99999 }}",
        '{{ "%1000000000d" % 1 }}',
        '{{ "x".ljust(1000000000) }}',
        '{{ "{:1000000000}".format(1) }}',
        '{{ "x"|center(1000000000) }}',
        "{% for a in range(2000) %}{{ map|tojson|indent(900, true) }}{% endfor %}",
        '{{ "".__class__.__mro__ }}{{ undefined.x.y }}',
        "{{ 1 / 0 }}",
        "{{ missing.field }}",
        "{% if %}",
        "{% include 'none' %}",
    ],
)
def test_what_would_harm_or_fail_is_a_fault(text):
    with pytest.raises(TemplateFault):
        run(text)


@pytest.mark.parametrize(
    "text",
    ["{{ ''.__class__ }}", "{{ map.__init__ }}", "{{ a.format }}", "{{ self._TemplateReference__context }}"],
)
def test_python_is_out_of_reach(text):
    assert run(text) == ""


def test_faults_name_template_and_line():
    made = JinjaTemplates({"good.j2": "x", "bad.j2": "a\n{% if %}"})

    (fault,) = made.faults()
    assert str(fault).startswith("bad.j2:2:1: Expected an expression")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{% set x = 'abcdefgh' %}" + "{% set x = x ~ x %}" * 22 + "{{ x|length }}", id="joined"),
        pytest.param("{% set x = 'abcdefgh' %}" + "{% set x = x + x %}" * 22 + "{{ x|length }}", id="added"),
        pytest.param("{% set x = [1] %}" + "{% set x = x + x %}" * 22 + "{{ x|length }}", id="lists"),
        pytest.param(
            "{% set x = [1] %}" + "{% set x = [x, x] %}" * 22 + "{{ (x|string)|length }}", id="nested"
        ),
        pytest.param(
            "{% set x = 'abcdefgh' %}" + "{% set x = x|replace('a', x) %}" * 22 + "{{ x|length }}",
            id="filter",
        ),
        pytest.param(
            "{% set x = 'aaaa' %}" + "{% set x = x.replace('a', x) %}" * 5 + "{{ x|length }}", id="method"
        ),
        pytest.param(
            "{{ [1, 2, 3]|join('x' ~ long ~ long)|length }}{{ lines|join(long)|length }}", id="join"
        ),
    ],
)
def test_values_that_grow_out_of_little_text_are_refused(text):
    templates = JinjaTemplates({"t": text})
    with pytest.raises(TemplateFault, match="more than"):
        templates.run("t", {"long": "x" * 10_000, "lines": ["y"] * 500})
