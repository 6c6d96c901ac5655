"""Go's template language as it is carried out; expected texts are what Go's text/template writes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.texttemplate.fault import TemplateFault
from pelton.texttemplate.go_run import GoTemplates


class Thing:
    """Something that a template sees parts of."""

    GO: ClassVar[dict[str, str]] = {"Name": "name", "Add": "add"}

    def __init__(self, name: str) -> None:
        self.name = name
        self.secret = "never"

    def add(self, left: int, right: int) -> int:
        return left + right


DATA = {
    "a": {"b": "x<y"},
    "list": ["p", "q", "r"],
    "n": 3,
    "map": {"z": 1, "y": 2},
    "thing": Thing("T"),
    "empty": [],
    "zero": 0,
}


def run(text: str, data: Any = DATA, **options: Any) -> str:
    templates = GoTemplates()
    templates.add(text, name="t")
    return templates.run("t", data, **options)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        # fields, absence
        ("{{.a.b}}|{{ .n }}|{{$.a.b}}", "x<y|3|x<y"),
        ("{{.q.w.e}}|{{.a.q}}|{{ .list }}|{{ .map }}", "||[p q r]|map[y:2 z:1]"),
        ("{{ .thing.Name }} {{ .thing.Add 1 2 }} {{ 3 | .thing.Add 4 }}", "T 3 7"),
        # trimming and comments
        ("a  {{- 1 -}}  b {{- /* c */ -}} d", "a1bd"),
        ("{{/* c */ -}}  x", "x"),
        ("a\n{{- \"b\" }}\n", "ab\n"),
        # conditions
        ("{{if .zero}}a{{else if .empty}}b{{else if .n}}c{{else}}d{{end}}", "c"),
        ("{{if and .n (gt .n 2) (not .q)}}yes{{end}}{{if or .zero .q}}no{{else}}no!{{end}}", "yesno!"),
        ("{{with .a}}{{.b}}{{end}}{{with .q}}x{{else}}none{{end}}", "x<ynone"),
        ("{{with .q}}x{{else with .n}}{{.}}{{end}}", "3"),
        # loops
        ("{{range .list}}{{.}};{{end}}{{range .map}}{{.}}{{end}}", "p;q;r;21"),
        ("{{range $i, $e := .list}}{{if $i}},{{end}}{{$i}}={{$e}}{{end}}", "0=p,1=q,2=r"),
        ("{{range $k, $v := .map}}{{$k}}{{$v}} {{end}}", "y2 z1 "),
        ("{{range .empty}}x{{else}}none{{end}}", "none"),
        ("{{range .list}}{{if eq . \"q\"}}{{continue}}{{end}}{{.}}{{end}}", "pr"),
        ("{{range .list}}{{if eq . \"q\"}}{{break}}{{end}}{{.}}{{end}}", "p"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{range .list}}{{range .}}{{end}}{{end}}", None),
        # variables
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{$y := 3}}{{$y}}{{end}}{{$x}}", "32"),
        ("{{$n := 0}}{{range .list}}{{$n = len .}}{{end}}{{$n}}", "1"),
        # definitions
        ('{{define "T"}}<{{.}}>{{end}}{{template "T" .n}}{{template "T"}}', "<3><>"),
        ('{{block "B" .list}}{{len .}}{{end}}', "3"),
        ('{{define "T"}}{{$x := 1}}{{$x}}{{end}}{{$x := 5}}{{template "T"}}{{$x}}', "15"),
        # pipelines
        ('{{ "a" | printf "%s-%s" "b" | printf "%q" }}', '"b-a"'),
        ("{{ (index .list 0) | printf \"%s\" }}{{ (index .list 1) }}", "pq"),
        # constants
        ("{{1.5}} {{0x10}} {{1_000}} {{true}} {{nil}} {{'a'}} {{`r\\n`}} {{\"\\u00e9\\t\\x41\"}}",
         "1.5 16 1000 true  97 r\\n é\tA"),
        ("{{1000000.0}} {{0.00001}} {{123456.5}}", "1e+06 1e-05 123456.5"),
        # functions
        ('{{eq 1 2 1}}{{ne "a" "b"}}{{lt 1 2}}{{le 2 2}}{{gt "b" "a"}}{{ge 1 2}}', "true" * 5 + "false"),
        ('{{len "é"}} {{len .map}} {{index .map "z"}} {{index .list 2}}', "2 2 1 r"),
        ('{{slice "abcdef" 1 3}} {{slice .list 1}}', "bc [q r]"),
        ('{{printf "%-5s|%05d|%.2f|%v|%x|%t|%%|%+d|%6.1f" "ab" 42 3.14159 .list "hi" true 7 2.25}}',
         "ab   |00042|3.14|[p q r]|6869|true|%|+7|   2.2"),
        ('{{printf "%d %s" 1}} {{printf "%s" 1 2}} {{printf "%d" "x"}}',
         "1 %!s(MISSING) 1%!(EXTRA number=2) %!d(string=x)"),
        ('{{print 1 2 "a" 3}}|{{println "x" 1}}', "1 2a3|x 1\n"),
        ('{{html "<a>"}} {{urlquery "a b&"}} {{js "a<b\'"}}', "&lt;a&gt; a+b%26 a\\u003Cb\\'"),
        ('{{toUpper "a"}}{{toLower "B"}}{{title "hello wORLD"}}{{trimSpace " x "}}', "AbHello WORLDx"),
        ('{{join ", " .list}} {{join "" (stringSlice "a" "b")}} {{append (list 1) 2}}', "p, q, r ab [1 2]"),
        ('{{match "^a+$" "aaa"}} {{match "b" "aaa"}}', "true false"),
        ('{{reReplaceAll "(p+)(?P<y>x?)" "[$1|${y}|$$]" "appb"}}', "a[pp||$]b"),
        ('{{escape "a\\"b\\n"}} {{toJson .map}} {{toJson .list}}', 'a\\"b\\n {"z":1,"y":2} ["p","q","r"]'),
        ('{{safeUrl "a b?c=d"}} {{urlUnescape "a+b%20c"}}', "a%20b?c=d a b c"),
        ('{{base64encode "hi"}} {{base64decode "aGk="}} {{(dict "k" 1).k}}', "aGk= hi 1"),
        ("{{humanizeDuration 3725.5}} {{humanizeDuration 0.0123}} {{humanizeDuration 86400}}",
         "1h 2m 5s 12.3ms 1d 0h 0m 0s"),
        ('{{date "02.01.2006 15:04" "2026-01-02T03:04:05Z"}}', "02.01.2026 03:04"),
        ('{{(tz "Europe/Berlin" "2026-07-02T03:04:05Z").Format "15:04 -0700 MST"}}', "05:04 +0200 CEST"),
    ],
)  # fmt: skip
def test_run_writes_what_go_writes(text, written):
    if written is None:
        with pytest.raises(TemplateFault):
            run(text)
    else:
        assert run(text) == written


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{{foo}}", "t:1:3: function foo is not defined"),
        ("a\n  {{$y}}", "t:2:5: variable $y is not defined"),
        ("{{if}}x{{end}}", "t:1:1: if has no value"),
        ("x{{range .list}}", "t:1:2: has no {{end}}"),
        ("{{end}}", "t:1:1: unexpected {{end}}"),
        ("{{else}}", "t:1:1: unexpected {{else}}"),
        ('{{ "unclosed }}', "t:1:4: text is not closed"),
        ("{{ .a ", "t:1:1: action is not closed with }}"),
        ("{{ }}", "t:1:1: action is empty"),
        ("{{ .a | }}", "t:1:1: a command is missing"),
        ("{{ (.a }}", "t:1:4: parenthesis is not closed"),
        ("{{ .a ) }}", "t:1:7: unexpected ')' in action"),
        ("{{break}}", "t:1:3: break is outside of range"),
        ("{{/* x }}", "t:1:1: comment is not closed"),
        ("{{ 1 | 2 }}", "t:1:8: what follows | is not a function"),
        ("{{ define }}", "t:1:1: define needs a name in quotes"),
        ('{{if .a}}{{define "x"}}{{end}}{{end}}', "t:1:12: define is inside of another structure"),
        ("{{range .list}}{{$x := .}}{{end}}{{$x}}", "t:1:36: variable $x is not defined"),
        ('{{ "\\q" }}', 't:1:4: "\\q" is no valid text'),
        ("{{ 5x }}", "t:1:5: blank is missing before 'x'"),
        ("{{ # }}", "t:1:4: unexpected '#'"),
    ],
)
def test_reading_names_the_place_and_what_is_wrong(text, fault):
    with pytest.raises(TemplateFault) as raised:
        run(text)

    assert str(raised.value) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a\n {{ .n.foo }}", "t:2:7: int has no field foo"),
        ("{{ .thing.secret }}", "t:1:10: Thing has no field secret"),
        ("{{ .thing.__class__ }}", "t:1:10: Thing has no field __class__"),
        ("{{ index .list 9 }}", "t:1:4: index: index 9 is out of range: there are 3"),
        ("{{ .a | toUpper }}", "t:1:9: toUpper: expected text, found dict"),
        ("{{ .thing.Add 1 }}", "t:1:10: Add cannot be called with these 1 argument"),
        ('{{ match "(" "x" }}', "t:1:4: match: '(' is no regular expression"),
        ('{{ eq 1 "a" }}', "t:1:4: eq: cannot compare number with string"),
        ('{{ template "none" }}', "t:1:4: there is no template 'none'"),
        ("{{ range .n }}{{ .x }}{{ end }}", "t:1:18: int has no field x"),
        ('{{ tz "Nowhere/At" "2026-01-02T03:04:05Z" }}', "t:1:4: tz: there is no time zone 'Nowhere/At'"),
    ],
)
def test_running_names_the_place_and_what_is_wrong(text, fault):
    with pytest.raises(TemplateFault) as raised:
        run(text)

    assert str(raised.value).startswith(fault)


@pytest.mark.parametrize(
    "text",
    [
        '{{template "t" .}}',
        "{{range 100000}}{{range 100000}}{{end}}{{end}}",
        '{{printf "%999999999d" 1}}',
        '{{$x := "aaaaaaaaaa"}}{{range 60}}{{$x = print $x $x}}{{end}}',
        '{{range 2000}}{{printf "%1000d" 1}}{{end}}',
        "(" * 5000,
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{{if 1}}" * 200 + "{{end}}" * 200,
    ],
)
def test_bounds_hold_for_what_would_never_end_or_grow(text):
    if text.startswith("(("):
        assert run(text) == text
        return
    with pytest.raises(TemplateFault):
        run(text)


def test_html_values_are_escaped_and_safe_ones_are_not():
    text = '<a href="{{.u}}" title="{{.v}}">{{.v}}</a>{{safeHtml "<b>"}}{{html "<"}}'
    data = {"u": "javascript:alert(1)", "v": "<&\"'"}

    assert run(text, data, escape=True) == (
        '<a href="#unsafe-address" title="&lt;&amp;&quot;&#x27;">&lt;&amp;&quot;&#x27;</a><b>&lt;'
    )


def test_later_definitions_replace_earlier_ones_and_missing_ones_are_told():
    templates = GoTemplates()
    templates.add('{{define "x"}}1{{end}}{{define "y"}}{{template "x"}}{{template "z"}}{{end}}', name="one")
    templates.add('{{define "x"}}2{{end}}', name="two")

    assert [str(fault) for fault in templates.missing()] == ["one:1:55: there is no template 'z'"]
    assert templates.with_text('{{define "z"}}!{{end}}', name="three").run("y", None) == "2!"


def test_text_that_cannot_be_read_leaves_the_set_as_it_was():
    templates = GoTemplates()
    templates.add('{{define "x"}}1{{end}}', name="one")
    with pytest.raises(TemplateFault):
        templates.add('{{define "x"}}2{{end}}{{', name="two")

    assert templates.run("x", None) == "1"


@settings(deadline=None)
@given(st.text(alphabet='{}-/*$.|()="`\\ abrange if end with define_12\n', max_size=60))
def test_any_text_is_read_or_refused_with_a_fault(text):
    try:
        run(text)
    except TemplateFault as fault:
        assert fault.message


@settings(deadline=None)
@given(st.text())
def test_text_without_actions_is_written_as_it_is(text):
    if "{{" not in text:
        assert run(text) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{{ $x := list "a" "b" }}' + "{{ $x = list $x $x }}" * 25 + "{{ $x }}", id="shown"),
        pytest.param('{{ $x := list "a" }}' + "{{ $x = list $x $x }}" * 25 + "{{ toJson $x }}", id="json"),
        pytest.param(
            '{{ $x := list "a" }}{{ $y := list "a" }}'
            + "{{ $x = list $x $x }}{{ $y = list $y $y }}" * 25
            + "{{ eq $x $y }}",
            id="compared",
        ),
        pytest.param(
            '{{ $s := printf "%900d" 1 }}{{ $l := list $s $s $s $s $s $s $s $s }}'
            + "{{ $l = list $l $l $l $l }}" * 5
            + '{{ len (join "" $l) }}',
            id="joined",
        ),
        pytest.param(
            '{{ $s := printf "%900d%900d%900d" 1 1 1 }}{{ len (join $s (slice .long 0)) }}', id="separated"
        ),
        pytest.param('{{ $s := printf "%900d%900d" 1 1 }}{{ len (reReplaceAll " " $s $s) }}', id="replaced"),
        pytest.param('{{ len (printf "' + "%900d" * 2000 + '") }}', id="padded"),
        pytest.param(
            "{{ $t := .text }}{{ range 100000 }}{{ $_ := toUpper $t }}{{ end }}", id="again and again"
        ),
    ],
)
def test_values_that_grow_out_of_little_text_are_refused(text):
    with pytest.raises(TemplateFault, match="more than"):
        run(text, {"long": ["x"] * 1000, "text": "x" * 100_000})
