"""Which source trees hold Lambda functions, by templates, names and the executable bootstrap."""

import json

import pytest

from pelton.builders.detect import Wanted, detect, examine
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.compat.aws_lambda.templates import schedule
from pelton.errors import SourceError, UnknownConventionError

ALL = {name: resolve_convention(name) for name in CONVENTIONS}
HANDLER = "def lambda_handler(event, context): ...\n"
SAM = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Timeout: 5, Runtime: python3.12, Environment: {Variables: {STAGE: dev, N: 1}}}
Resources:
  Table: {Type: AWS::DynamoDB::Table}
  Orders:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: src/
      Handler: app.handler
      FunctionName: orders-fn
      MemorySize: 256
      Environment: {Variables: {TABLE: !Ref Table, N: 2, ARN: {"Fn::GetAtt": [Table, Arn]}, ON: true}}
      Events:
        Get: {Type: Api, Properties: {Path: '/orders/{id}', Method: get}}
        Any: {Type: Api, Properties: {Path: /rest, Method: any}}
        Tick: {Type: Schedule, Properties: {Schedule: rate(5 minutes)}}
        Queue: {Type: SQS, Properties: {Queue: !GetAtt Jobs.Arn}}
"""


@pytest.fixture
def tree(tmp_path):
    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("app_dot_py", "def lambda_handler(event, context): ...\n"),
        ("app_dot_py", "def handler(event, context): ...\n"),
        ("lambda_function_dot_py", "def anything(event, context): ...\n"),
        ("app_dot_py", "async def handler(event, context): ...\n"),
    ],
)
def test_usual_names_mean_lambda(tree, file, source):
    found = detect(tree(**{file: source}), ALL)
    name = source.partition("def ")[2].partition("(")[0]

    assert (found.convention, found.signature) == ("lambda", "handler")
    assert found.target == f"{file.removesuffix('_dot_py')}.{name}"
    assert found.source == file.replace("_dot_", ".")


@pytest.mark.parametrize("file", ["main_dot_py", "app_dot_py"])
def test_event_and_context_alone_are_a_tie_that_is_reported(tree, file):
    folder = tree(**{file: "def f(event, context): ...\n"})

    with pytest.raises(UnknownConventionError, match="conventions fit") as caught:
        detect(folder, ALL)

    assert ".f (lambda: def f(event, context))" in str(caught.value)
    assert detect(folder, ALL, Wanted(convention="lambda")).target.endswith(".f")


def test_reading_kubeless_keys_is_not_lambda(tree):
    source = "def f(event, context):\n    return event['data']\n"

    report = examine(tree(app_dot_py=source), ALL)

    assert [item.verdict for item in report.considered if item.convention == "lambda"] == ["no match"]


def test_own_import_settles_a_tie(tree):
    source = "from aws_lambda_powertools import Logger\ndef handler(event, context): ...\n"

    assert detect(tree(main_dot_py=source), ALL).convention == "lambda"


def test_sam_template_says_how_to_serve(tree):
    found = detect(tree(template_dot_yaml=SAM, src__app_dot_py="def handler(e, c): ...\n"), ALL)

    assert (found.convention, found.target, found.source) == ("lambda", "app.handler", "src/app.py")
    environment = {"N": "2", "ON": "true", "STAGE": "dev", "TABLE": "Table"}
    assert found.options == {
        "environment": json.dumps(environment),
        "request-timeout": "5s",
        "memory-size": "256",
        "http-event": "apigw-v1",
        "http-routes": "GET /orders/{id}, ANY /rest",
        "event-source": "sqs",
        "code-uri": "src",
    }
    assert [(item.kind, item.value) for item in found.triggers] == [
        ("http", "/orders/{id}"),
        ("http", "/rest"),
        ("cron", "@every 5m"),
        ("topic", "Jobs"),
    ]


@pytest.mark.parametrize("target", ["Orders", "orders-fn", "app.handler"])
def test_function_of_a_template_is_chosen_by_any_of_its_names(tree, target):
    other = "  Other: {Type: AWS::Serverless::Function, Properties: {Handler: other.handler, CodeUri: src}}\n"
    folder = tree(
        template_dot_yaml=SAM + other,
        src__app_dot_py="def handler(e, c): ...\n",
        src__other_dot_py="def handler(e, c): ...\n",
    )

    found = detect(folder, ALL, Wanted(target=target))

    assert found.target == target
    assert found.options.get("handler", "app.handler") == "app.handler"
    with pytest.raises(UnknownConventionError, match="2 functions could be meant"):
        detect(folder, ALL)


def test_functions_with_one_handler_are_told_apart_by_their_ids(tree):
    text = (
        "Resources:\n"
        "  A: {Type: AWS::Lambda::Function, Properties: {Handler: app.f, Runtime: python3.11}}\n"
        "  B: {Type: AWS::Lambda::Function, Properties: {Handler: app.f, Runtime: python3.11}}\n"
        "  C: {Type: AWS::Lambda::Function, Properties: {Handler: index.f, Runtime: nodejs22.x}}\n"
        "  D: {Type: AWS::Lambda::Function, Properties: {PackageType: Image}}\n"
    )
    folder = tree(template_dot_yml=text, app_dot_py="def f(event, context): ...\n")

    found = detect(folder, ALL, Wanted(target="B"))

    assert (found.target, found.options["handler"]) == ("B", "app.f")
    with pytest.raises(UnknownConventionError) as caught:
        detect(folder, ALL)
    assert caught.value.message.count("AWS::Lambda::Function") == 2


def test_serverless_file_says_how_to_serve(tree):
    text = """
service: shop
provider: {name: aws, runtime: python3.12, timeout: 7, memorySize: 512, environment: {A: x}}
functions:
  hello:
    handler: pkg/app.hello
    events:
      - httpApi: "GET /hello/{name}"
      - http: {path: old, method: post}
      - schedule: cron(0 12 ? * 2-6 *)
      - stream: arn:aws:kinesis:eu-west-1:1:stream/clicks
      - s3: photos
"""
    found = detect(tree(serverless_dot_yml=text, pkg__app_dot_py="def hello(event, context): ...\n"), ALL)

    assert (found.target, found.source) == ("pkg/app.hello", "pkg/app.py")
    assert found.options == {
        "request-timeout": "7s",
        "memory-size": "512",
        "environment": '{"A": "x"}',
        "http-event": "apigw-v1",
        "http-routes": "GET /hello/{name}, POST /old",
        "event-source": "kinesis",
    }
    assert [item.value for item in found.triggers] == [
        "/hello/{name}",
        "/old",
        "0 12 * * MON-FRI",
        "clicks",
        "photos",
    ]


@pytest.mark.parametrize(
    "text", ["provider: google\nfunctions: {f: {handler: a.f}}\n", "[1]\n", "Resources: 1\n"]
)
def test_other_documents_declare_nothing(tree, text):
    report = examine(tree(serverless_dot_yml=text, template_dot_yaml=text, a_dot_txt=""), ALL)

    assert report.detected is None


def test_executable_bootstrap_is_a_runtime_of_its_own(tree):
    folder = tree(bootstrap="#!/bin/sh\n", main_dot_py="def f(request): ...\n")
    (folder / "bootstrap").chmod(0o755)

    found = detect(folder, ALL)

    assert (found.convention, found.signature, found.target) == ("lambda", "runtime", "bootstrap")


def test_custom_runtime_of_a_template_is_a_runtime_of_its_own(tree):
    text = "Resources: {F: {Type: AWS::Lambda::Function, Properties: {Runtime: provided.al2023}}}\n"
    folder = tree(template_dot_yaml=text, bootstrap="#!/bin/sh\n")
    (folder / "bootstrap").chmod(0o755)

    assert detect(folder, ALL).signature == "runtime"


# --- what the user asks for ---


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("from mangum import Mangum\nhandler = Mangum(None)\n", "src/app.handler"),
        ("from other import handler\n", "src.app.handler"),
        ("def work(e, c, *rest): ...\n", "src/app.work"),
        ("from other import *\n", "src/app.anything"),
    ],
)
def test_handler_string_is_understood(tree, source, target):
    found = detect(tree(src__app_dot_py=source), ALL, Wanted(target=target, convention="lambda"))

    assert (found.target, found.source, found.signature) == (target, "src/app.py", "handler")


def test_handler_string_that_names_nothing_lists_the_names(tree):
    with pytest.raises(SourceError) as caught:
        detect(tree(app_dot_py=HANDLER), ALL, Wanted(target="app.nothing", convention="lambda"))

    assert "lambda_handler" in caught.value.hint


def test_function_name_alone_is_understood(tree):
    folder = tree(app_dot_py=HANDLER + "def other(event, context): ...\n")

    assert detect(folder, ALL, Wanted(target="lambda_handler")).target == "lambda_handler"
    assert detect(folder, ALL, Wanted(target="other", convention="lambda")).target == "other"


def test_looser_rules_apply_when_lambda_is_asked_for(tree):
    folder = tree(app_dot_py="def handler(evt, _): ...\ndef other(a, b): ...\n")

    assert detect(folder, ALL, Wanted(convention="aws")).target == "app.handler"
    with pytest.raises(UnknownConventionError):
        detect(folder, ALL)


@pytest.mark.parametrize(
    ("expression", "cron"),
    [
        ("rate(1 minute)", "@every 1m"),
        ("rate(2 days)", "@every 48h"),
        ("cron(15 10 ? * MON-FRI *)", "15 10 * * MON-FRI"),
        ("cron(0/5 8-17 ? * 2-6 *)", "0/5 8-17 * * MON-FRI"),
        ("cron(0 9 1 * ? *)", "0 9 1 * *"),
        ("cron(0 9 ? * 1,7 *)", "0 9 * * SUN,SAT"),
        ("cron(0 9 L * ? *)", ""),
        ("cron(0 9 ? * 6#3 *)", ""),
        ("cron(0 9 ? * 6L *)", ""),
        ("cron(0 9 1 1 ? 2030)", ""),
        ("at(2030-01-01T00:00:00)", ""),
        ("rate(0 minutes)", ""),
    ],
)
def test_schedules_become_crons(expression, cron):
    assert schedule(expression) == cron
