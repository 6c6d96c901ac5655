"""Expressions with their values, types, faults and costs."""

import pytest

from pelton.cel import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NOTHING,
    STRING,
    TIMESTAMP,
    Field,
    OptionalValue,
    adapt,
    compile_cel,
    list_of,
    map_of,
    object_of,
    optional_of,
)
from pelton.errors import CelCompileError, CelCostError, CelEvaluateError

DATA = {
    "self": {
        "a": 1,
        "b": [3, 1, 2],
        "s": "Hello",
        "m": {"x": 1, "y": 2},
        "nul": None,
        "f": 1.5,
        "items": [{"name": "a", "v": 1}, {"name": "b", "v": 2}],
        "empty": [],
    }
}

VALUES = [
    # macros
    ("has(self.a)", True),
    ("has(self.zz)", False),
    ("self.b.all(x, x > 0)", True),
    ("self.b.exists(x, x > 2)", True),
    ("self.items.exists_one(i, i.name == 'a')", True),
    ("self.items.map(i, i.name)", ["a", "b"]),
    ("self.items.map(i, i.v > 1, i.name)", ["b"]),
    ("self.items.filter(i, i.v > 1).size()", 1),
    ("self.m.all(k, self.m[k] > 0)", True),
    ("self.b.exists(i, v, i == 0 && v == 3)", True),
    ("self.m.transformMap(k, v, v > 1, v * 10)", {"y": 20}),
    ("self.m.transformMapEntry(k, v, {v: k})", {1: "x", 2: "y"}),
    ("self.b.transformList(i, v, i * v)", [0, 1, 4]),
    ("self.b.all(x, x > 0 ? self.b.exists(y, y == x) : false)", True),
    # logic absorbs errors where the other side decides
    ("self.zz == 1 || true", True),
    ("false && self.zz == 1", False),
    ("self.zz == 1 && false", False),
    ("[1, 0].exists(x, 1 / x == 1)", True),
    ("[0, 1].all(x, 1 / x == 2)", False),
    # arithmetic
    ("-5 / 2", -2),
    ("-5 % 3", -2),
    ("5.0 / 0.0 > 1e308", True),
    ("1 + 2 * 3 - 4", 3),
    ("self.a < 1.5 && self.f > 1", True),
    ("dyn(1) == 1.0", True),
    ("dyn([1, 2]) == [1.0, 2.0]", True),
    ("dyn(1) == dyn(true)", False),
    ("1u + 2u == 3u", True),
    ("0x1F", 31),
    ("-9223372036854775808", -(2**63)),
    ("1 in {1: 'a'}", True),
    ("dyn(true) in {1: 'a'}", False),
    # texts
    ("'a' + \"b\" + '''c''' + r'\\d'", "abc\\d"),
    ("'\\u00e9\\x41\\101\\n'", "éAA\n"),
    ("b'\\xff' + b'a'", b"\xffa"),
    ("self.s.lowerAscii() + self.s.upperAscii()", "helloHELLO"),
    ("self.s.matches('^H.*o$')", True),
    ("'a,b,c'.split(',')", ["a", "b", "c"]),
    ("'a,b,c'.split(',', 2)", ["a", "b,c"]),
    ("'abc'.split('')", ["a", "b", "c"]),
    ("['a', 'b'].join('-')", "a-b"),
    ("self.s.indexOf('l') * 10 + self.s.lastIndexOf('l')", 23),
    ("self.s.substring(1, 3)", "el"),
    ("self.s.replace('l', 'L', 1)", "HeLlo"),
    ("'  a '.trim()", "a"),
    ("self.s.charAt(0)", "H"),
    ("self.s.contains('ell') && self.s.startsWith('He') && self.s.endsWith('lo')", True),
    ("strings.quote('a\"\\n')", '"a\\"\\n"'),
    ("'%s is %d, %.2f %x %s'.format(['a', 3, 1.5, 255, ['b']])", 'a is 3, 1.50 ff ["b"]'),
    ("size('é')", 1),
    ("string(1.0) + string(2) + string(true) + string(1e30)", "12true1e+30"),
    ("int('3') + int(2.9) + int(timestamp('1970-01-01T00:00:05Z'))", 10),
    # times
    ("timestamp('2024-02-29T12:00:00Z').getFullYear()", 2024),
    ("timestamp('2024-02-29T23:30:00Z').getDayOfMonth('+01:00')", 0),
    ("timestamp('2024-07-01T00:00:00Z').getHours('Europe/Berlin')", 2),
    ("duration('1h30m').getMinutes()", 90),
    ("timestamp('2024-01-01T00:00:00Z') + duration('36h') > timestamp('2024-01-02T00:00:00Z')", True),
    ("string(timestamp('2024-01-01T00:00:00.5Z') - timestamp('2024-01-01T00:00:00Z'))", "0.5s"),
    # optionals
    ("self.?zz.orValue(5)", 5),
    ("self.?m.x.orValue(0)", 1),
    ("self.?m.?zz.hasValue()", False),
    ("self.b[?7].orValue(9) + self.b[?0].value()", 12),
    ("optional.of(1).or(optional.of(2)).value()", 1),
    ("optional.none().optMap(x, x + 1).orValue(7)", 7),
    ("optional.of(2).optMap(x, x + 1).value()", 3),
    ("self.?m.optFlatMap(m, m.?x).value()", 1),
    ("[?optional.none(), ?optional.of(3)]", [3]),
    ("{?'a': optional.none(), 'b': 1}", {"b": 1}),
    ("optional.ofNonZeroValue('').hasValue()", False),
    # the libraries of Kubernetes
    ("[1, 3, 2].isSorted()", False),
    ("[1, 2, 3].sum() + [1, 5].max() - [4, 2].min()", 9),
    ("['a', 'b'].indexOf('b') + ['a', 'a'].lastIndexOf('a')", 2),
    ("[3, 1].sort()", [1, 3]),
    ("[dyn(1), [2]].flatten().size() + [1, 1, 2].distinct().size()", 4),
    ("[1, 2, 3].slice(1, 3)", [2, 3]),
    (
        "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 2, 2], [2, 1])",
        True,
    ),
    ("'a1b22'.findAll('[0-9]+')", ["1", "22"]),
    ("'abc'.find('b+')", "b"),
    ("quantity('1Gi').compareTo(quantity('1024Mi'))", 0),
    ("quantity('200m').add(quantity('0.8')) == quantity('1')", True),
    ("quantity('5').sub(1).asInteger() + quantity('-3').sign()", 3),
    ("quantity('1500m').isInteger() || !isQuantity('1.5.5')", True),
    ("quantity('1').isLessThan(quantity('2')) && quantity('3').isGreaterThan(quantity('2'))", True),
    ("url('https://user@a.example:80/p%20q?x=1&x=2').getHost()", "a.example:80"),
    ("url('https://[::1]:80/').getHostname() + url('/a').getScheme()", "::1"),
    ("url('https://a/?x=1&x=2').getQuery()", {"x": ["1", "2"]}),
    ("isURL('a b') || !isURL('/path')", False),
    ("ip('10.0.0.1').family() + (ip('::1').isLoopback() ? 10 : 0)", 14),
    ("isIP('::ffff:1.2.3.4') || isIP('1.2.3')", False),
    ("ip.isCanonical('::0001')", False),
    ("cidr('10.0.0.0/8').containsIP('10.1.1.1') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))", True),
    (
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.1.0.0/16').containsCIDR('10.0.0.0/8')",
        True,
    ),
    ("string(cidr('10.1.2.3/8').masked()) + string(cidr('10.1.2.3/8').ip())", "10.0.0.0/810.1.2.3"),
    ("cidr('10.0.0.0/8').prefixLength()", 8),
    ("isCIDR('10.0.0.0/99') || isCIDR('10.0.0.0')", False),
    (
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-rc.1').isLessThan(semver('1.0.0'))",
        True,
    ),
    ("semver('v1.2', true).minor() + semver('1.2.3').patch()", 5),
    ("format.dns1123Label().validate('a-b').hasValue()", False),
    ("format.named('uuid').value().validate('x').hasValue()", True),
    # types
    ("type(1) == int && type('a') != int", True),
    ("type(self.b) == list", True),
]


@pytest.mark.parametrize(("expression", "expected"), VALUES)
def test_expression_has_its_value(expression, expected):
    program = compile_cel(expression, {"self": DYN})

    assert program.evaluate(DATA) == expected
    assert type(program.evaluate(DATA)) is type(expected)


FAULTS = [
    ("self.zz", "no such key: zz"),
    ("1 / (self.a - 1) > 1", "division by zero"),
    ("1 % (self.a - 1) > 1", "modulus by zero"),
    ("9223372036854775807 + self.a", "integer overflow"),
    ("self.b[5]", "index out of bounds: 5"),
    ("self.s.foo", "no such overload: string has no fields"),
    ("self.a + self.s", "no such overload: _+_(int, string)"),
    ("self.a && true", "no such overload: int is no bool"),
    ("int('x')", "cannot convert 'x' to int"),
    ("self.s.substring(9)", "index out of range: 9"),
    ("optional.none().value()", "optional.none() dereference"),
    ("self.empty.min()", "min called on empty list"),
    ("self.s.matches('(?=a)')", "error parsing regexp: invalid perl operator: (?="),
    ("timestamp('yesterday')", "cannot read 'yesterday' as a timestamp"),
    ("quantity('1x')", '"1x" is not a quantity'),
    ("{'a': 1, self.s.lowerAscii().charAt(0): 1, 'h': 2}", "Failed with repeated key: h"),
    ("'%d'.format(['a'])", "error during formatting: %d cannot be used on string"),
    ("'%d'.format([])", "index 0 out of range"),
    ("self.a.all(x, x)", "no such overload: int cannot be range of a comprehension"),
    ("self.b.all(x, x / 0 == 1)", "division by zero"),
]


@pytest.mark.parametrize(("expression", "message"), FAULTS)
def test_evaluation_fault_says_what_is_wrong(expression, message):
    with pytest.raises(CelEvaluateError) as caught:
        compile_cel(expression, {"self": DYN}).evaluate(DATA)

    assert caught.value.message.startswith(message)


REFUSED = [
    ("self.", (1, 6), "Syntax error"),
    ("1 +", (1, 4), "Syntax error"),
    ("foo.bar", (1, 1), "undeclared reference to 'foo' (in container '')"),
    ("n + 'a'", (1, 3), "found no matching overload for '_+_' applied to '(int, string)'"),
    ("'a'.startsWith(1)", (1, 4), "found no matching overload for 'startsWith' applied to 'string.(int)'"),
    ("o.zz", (1, 2), "undefined field 'zz'"),
    ("n.x", (1, 2), "type 'int' does not support field selection"),
    ("n.all(x, true)", (1, 1), "expression of type 'int' cannot be range of a comprehension"),
    ("[1].all(x, x)", (1, 12), "expected type 'bool' but found 'int'"),
    ("[1, 'a']", (1, 5), "expected type 'int' but found 'string'"),
    ("true ? 1 : 'a'", (1, 6), "found no matching overload for '_?_:_' applied to '(bool, int, string)'"),
    ("nosuch(1)", (1, 1), "undeclared reference to 'nosuch' (in container '')"),
    ("namespace == 1", (1, 1), "reserved identifier: namespace"),
    ("has(n)", (1, 1), "invalid argument to has() macro"),
    ("[1].map(1, 2)", (1, 9), "argument must be a simple name"),
    ("'\\q'", (1, 1), "Syntax error: invalid escape"),
    ("99999999999999999999", (1, 1), "invalid int literal"),
    ("a &", (1, 3), "Syntax error: token recognition error at: '&'"),
    (
        "o == null && n == null",
        (1, 16),
        "found no matching overload for '_==_' applied to '(int, null_type)'",
    ),
    ("true &&\n  n", (1, 6), "found no matching overload for '_&&_' applied to '(bool, int)'"),
    ("l.zz", (1, 2), "type 'list(int)' does not support field selection"),
    ("{1.5: 1}", (1, 2), "unsupported key type: double"),
    ("(" * 200 + "1" + ")" * 200, (1, 1), "expression recursion limit exceeded"),
    ("n" + " + n" * 200, (1, 1), "expression recursion limit exceeded"),
]
VARIABLES = {"n": INT, "l": list_of(INT), "o": object_of("O", {"a": Field(INT, "a")})}


@pytest.mark.parametrize(("expression", "position", "message"), REFUSED)
def test_compile_refuses_with_the_place(expression, position, message):
    with pytest.raises(CelCompileError) as caught:
        compile_cel(expression, VARIABLES)

    assert f": {message}" in caught.value.message
    assert caught.value.position == position


def test_compile_tells_every_fault_with_its_line_marked():
    with pytest.raises(CelCompileError) as caught:
        compile_cel("foo == 1 ||\n n == 'a'", VARIABLES)

    assert caught.value.message == (
        "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n"
        " | foo == 1 ||\n"
        " | ^\n"
        "ERROR: <input>:2:4: found no matching overload for '_==_' applied to '(int, string)'\n"
        " |  n == 'a'\n"
        " | ...^"
    )


def test_result_type_is_demanded_but_dyn_passes():
    with pytest.raises(CelCompileError, match="must evaluate to bool"):
        compile_cel("n + 1", VARIABLES, result=BOOL)

    assert compile_cel("dyn(n)", VARIABLES, result=BOOL).result == DYN


def test_undeclared_names_are_dyn_where_allowed():
    program = compile_cel("event.type == 'x' && event.data.n > 3", undeclared=DYN)

    assert program.uses == {"event"}
    assert program.evaluate({"event": {"type": "x", "data": {"n": 4}}}) is True
    with pytest.raises(CelEvaluateError, match="no such attribute: event"):
        program.evaluate({})


def test_a_variable_of_a_macro_hides_an_outer_one():
    program = compile_cel("[1].all(n, n == 1) && n == 5", {"n": INT})

    assert program.evaluate({"n": 5}) is True
    assert program.uses == {"n"}


def test_dotted_variables_win_over_fields():
    program = compile_cel(
        "authorizer.requestResource == 1 && authorizer == 2",
        {"authorizer": INT, "authorizer.requestResource": INT},
    )

    assert program.evaluate({"authorizer": 2, "authorizer.requestResource": 1}) is True


def test_cost_is_counted_and_bounded():
    program = compile_cel("self.all(i, self.all(j, j >= 0))", {"self": DYN})

    small, cost = program.run({"self": [1, 2]})
    assert (small, cost) == (True, 29)  # 1 + 2 * (3 + 1 + 2 * (3 + 2))
    with pytest.raises(CelCostError):
        program.evaluate({"self": list(range(3000))})


def test_budget_is_not_absorbed_by_logic():
    program = compile_cel("self.all(i, i >= 0) || true", {"self": DYN})

    with pytest.raises(CelCostError):
        program.evaluate({"self": list(range(100))}, budget=50)


@pytest.mark.parametrize(
    ("expression", "variables", "most"),
    [
        ("self == 'a'", {"self": STRING.sized(100)}, 3),
        ("self.all(x, x > 0)", {"self": list_of(INT, 10)}, 100),
        ("self.all(x, self.all(y, x == y))", {"self": list_of(INT, 100)}, 100_000),
        ("self.matches('a+')", {"self": STRING.sized(1000)}, 200),
    ],
)
def test_estimate_bounds_what_an_evaluation_costs(expression, variables, most):
    program = compile_cel(expression, variables)

    assert 1 < program.cost <= most


def test_estimate_of_what_nothing_bounds_is_huge():
    assert compile_cel("self.all(x, self.all(y, x == y))", {"self": list_of(STRING)}).cost > 10**12


def test_adapt_turns_json_into_the_values_of_types():
    kind = object_of(
        "O",
        {
            "d": Field(DOUBLE, "d"),
            "__namespace__": Field(STRING, "namespace"),
            "when": Field(TIMESTAMP, "when"),
            "wait": Field(DURATION, "wait"),
            "raw": Field(BYTES, "raw"),
            "set": Field(list_of(INT, list_type="set"), "set"),
            "byname": Field(list_of(map_of(STRING, INT), list_type="map", list_keys=("k",)), "byname"),
        },
    )
    data = adapt(
        {
            "d": 1,
            "namespace": "x",
            "when": "2024-01-01T00:00:00Z",
            "wait": "90s",
            "raw": "aGk=",
            "set": [1, 2],
            "byname": [{"k": 1, "v": 1}],
        },
        kind,
    )
    rules = [
        "self.d / 2.0 == 0.5",
        "self.__namespace__ == 'x'",
        "self.when.getFullYear() == 2024",
        "self.wait == duration('1m30s')",
        "self.raw == b'hi'",
        "self.set == [2, 1] && (self.set + [2, 3]).size() == 3",
        "(self.byname + [{'k': 1, 'v': 5}, {'k': 2, 'v': 2}]).map(x, x.v) == [5, 2]",
    ]

    assert [compile_cel(rule, {"self": kind}).evaluate({"self": data}) for rule in rules] == [True] * 7


def test_optional_types_are_checked():
    kind = optional_of(object_of("O", {"a": Field(INT, "a")}))

    program = compile_cel("oldSelf.optMap(o, o.a).orValue(0) < 3", {"oldSelf": kind}, result=BOOL)

    assert program.evaluate({"oldSelf": NOTHING}) is True
    assert program.evaluate({"oldSelf": OptionalValue({"a": 3})}) is False
    with pytest.raises(CelCompileError, match="undefined field 'zz'"):
        compile_cel("oldSelf.optMap(o, o.zz)", {"oldSelf": kind})
