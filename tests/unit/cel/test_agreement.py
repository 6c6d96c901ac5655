"""Generated expressions have the same value here and in the reference implementation in C++."""

from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.cel import BOOL, INT, STRING, compile_cel, list_of, map_of
from pelton.errors import CelEvaluateError

KINDS = cel.Type
ENVIRONMENT = cel.NewEnv(
    variables={
        "i": KINDS.INT,
        "s": KINDS.STRING,
        "l": KINDS.List(KINDS.INT),
        "m": KINDS.Map(KINDS.STRING, KINDS.INT),
        "b": KINDS.BOOL,
    },
    extensions=[ext_strings.ExtStrings(), ext_optional.ExtOptional()],
)
VARIABLES = {"i": INT, "s": STRING, "l": list_of(INT), "m": map_of(STRING, INT), "b": BOOL}

small = st.integers(-3, 3)
word = st.text("abc", max_size=3)


def integers(deeper: dict[str, Any]) -> st.SearchStrategy[str]:
    return st.one_of(
        small.map(str),
        st.sampled_from(["i", "size(l)", "s.size()", "m.size()", "l[0]", "m['a']", "9223372036854775807"]),
        st.tuples(deeper["int"], st.sampled_from("+-*/%"), deeper["int"]).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        st.tuples(deeper["bool"], deeper["int"], deeper["int"]).map(lambda t: f"({t[0]} ? {t[1]} : {t[2]})"),
        deeper["string"].map(lambda text: f"size({text})"),
        st.tuples(deeper["string"], deeper["string"]).map(lambda t: f"{t[0]}.indexOf({t[1]})"),
        deeper["list"].map(lambda items: f"{items}.size()"),
    )


def strings(deeper: dict[str, Any]) -> st.SearchStrategy[str]:
    return st.one_of(
        word.map(lambda text: f"'{text}'"),
        st.just("s"),
        st.tuples(deeper["string"], deeper["string"]).map(lambda t: f"({t[0]} + {t[1]})"),
        st.tuples(deeper["string"], small).map(lambda t: f"{t[0]}.substring({t[1]})"),
        st.tuples(deeper["string"], word, word).map(lambda t: f"{t[0]}.replace('{t[1]}', '{t[2]}')"),
        deeper["string"].map(lambda text: f"{text}.upperAscii()"),
        deeper["int"].map(lambda number: f"string({number})"),
    )


def lists(deeper: dict[str, Any]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.just("l"),
        st.lists(deeper["int"], min_size=1, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.tuples(deeper["list"], deeper["list"]).map(lambda t: f"({t[0]} + {t[1]})"),
        st.tuples(deeper["list"], deeper["int"]).map(lambda t: f"{t[0]}.map(x, x + {t[1]})"),
        st.tuples(deeper["list"], small).map(lambda t: f"{t[0]}.filter(x, x > {t[1]})"),
    )


def booleans(deeper: dict[str, Any]) -> st.SearchStrategy[str]:
    compare = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    return st.one_of(
        st.sampled_from(["true", "false", "b", "has(m.a)", "has(m.zz)", "('a' in m)"]),
        st.tuples(deeper["int"], compare, deeper["int"]).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(deeper["string"], compare, deeper["string"]).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(deeper["list"], deeper["list"]).map(lambda t: f"({t[0]} == {t[1]})"),
        st.tuples(deeper["bool"], st.sampled_from(["&&", "||"]), deeper["bool"]).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        deeper["bool"].map(lambda test: f"!{test}"),
        st.tuples(deeper["list"], st.sampled_from(["all", "exists", "exists_one"]), deeper["int"]).map(
            lambda t: f"{t[0]}.{t[1]}(x, x > {t[2]})"
        ),
        st.tuples(deeper["int"], deeper["list"]).map(lambda t: f"({t[0]} in {t[1]})"),
        st.tuples(deeper["string"], deeper["string"]).map(lambda t: f"{t[0]}.startsWith({t[1]})"),
    )


def expressions() -> st.SearchStrategy[str]:
    deeper: dict[str, Any] = {
        "int": small.map(str),
        "string": word.map(lambda text: f"'{text}'"),
        "list": st.just("l"),
        "bool": st.just("b"),
    }
    for _ in range(2):
        deeper = {
            "int": integers(deeper),
            "string": strings(deeper),
            "list": lists(deeper),
            "bool": booleans(deeper),
        }
    return st.one_of(*deeper.values())


@settings(max_examples=300, deadline=None)
@given(
    expression=expressions(),
    data=st.fixed_dictionaries(
        {
            "i": small,
            "s": word,
            "l": st.lists(small, max_size=3),
            "m": st.dictionaries(st.sampled_from("ab"), small, max_size=2),
            "b": st.booleans(),
        }
    ),
)
def test_expression_agrees_with_the_reference_implementation(expression, data):
    reference = ENVIRONMENT.compile(expression).eval(data=data)
    failed = reference.type().name() == "ERROR"
    program = compile_cel(expression, VARIABLES)

    try:
        value: Any = program.evaluate(data)
    except CelEvaluateError:
        value = "an error"

    assert value == ("an error" if failed else reference.plain_value())
