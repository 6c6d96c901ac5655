"""The commands of `pelton`: flags and help; each one's work is in the file of its name beside this one.

Called by `cli/main.py`. Imports of commands happen when they run, so that `pelton --help` stays quick.
Over 600 lines: it is one list of flags, in the order of `--help`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pelton import __version__
from pelton.cli.home import Home

__all__ = ["app"]

app = typer.Typer(
    name="pelton",
    help="Event-driven functions on one machine and on Kubernetes with the same manifests.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topic_app = typer.Typer(help="Publish to topics, read them, see what waits.", no_args_is_help=True)
dlq_app = typer.Typer(help="Dead letters: events that a function did not accept.", no_args_is_help=True)
app.add_typer(topic_app, name="topic")
app.add_typer(dlq_app, name="dlq")
why_app = typer.Typer(help="Ask for the reasons of a decision.", no_args_is_help=True)
app.add_typer(why_app, name="why")
rollout_app = typer.Typer(help="Bring a new revision in by steps, or take it back.", no_args_is_help=True)
app.add_typer(rollout_app, name="rollout")
notify_app = typer.Typer(
    help="Notifications: try receivers out, see what became of alerts.", no_args_is_help=True
)
app.add_typer(notify_app, name="notify")
scaler_app = typer.Typer(help="What triggers read, and the replicas it gives.", no_args_is_help=True)
app.add_typer(scaler_app, name="scaler")
token_app = typer.Typer(help="Tokens for others to use the API with.", no_args_is_help=True)
app.add_typer(token_app, name="token")
dapr_app = typer.Typer(help="Apps written against Dapr.", no_args_is_help=True)
app.add_typer(dapr_app, name="dapr")
# Dapr's own flags are read by dapr_flags.py: scripts write them in ways that click does not take.
_OWN_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

Broker = Annotated[
    str, typer.Option("--component", help="A component that Functions use, by name; default: the bus.")
]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Namespace of the function.")]
AppId = Annotated[
    str, typer.Option("--app-id", help="Those of an app of `pelton dapr run` without a platform.")
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait.")]
Output = Annotated[str, typer.Option("-o", "--output", help="table, yaml or json.")]


def _exit(code: int) -> None:
    raise typer.Exit(code)


def _version(shown: bool) -> None:
    if shown:
        print(f"pelton {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def up(
    gateway: Annotated[
        str, typer.Option(help="HOST:PORT of the gateway; port 0 takes a free one.")
    ] = "127.0.0.1:8080",
    api: Annotated[
        str, typer.Option(help="HOST:PORT of the API server; port 0 takes a free one.")
    ] = "127.0.0.1:8081",
    durability: Annotated[
        str, typer.Option(help="process: accepted events survive kill -9; power: power loss too.")
    ] = "process",
    tls: Annotated[
        str, typer.Option(help="HOST:PORT where the gateway speaks TLS as well; default: nowhere.")
    ] = "",
    tls_cert: Annotated[
        str, typer.Option(help="PEM file with the certificate chain for names that no Gateway has.")
    ] = "",
    tls_key: Annotated[str, typer.Option(help="PEM file with its key.")] = "",
    access_log: Annotated[
        str, typer.Option(help="all, failures or off: requests in the gateway's access log.")
    ] = "failures",
    otlp_endpoint: Annotated[
        str,
        typer.Option(
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            help="URL of a collector that takes traces as OTLP over HTTP.",
        ),
    ] = "",
    otlp_headers: Annotated[
        str,
        typer.Option(envvar="OTEL_EXPORTER_OTLP_HEADERS", help="NAME=VALUE,... for its requests."),
    ] = "",
    trace_percent: Annotated[
        float, typer.Option(min=0, max=100, help="Share of requests and events that are traced for it.")
    ] = 100.0,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=HOST:PORT",
            help="Host name in components that stands for another address; may be repeated.",
        ),
    ] = None,
    external_scaler: Annotated[
        str,
        typer.Option(help="HOST:PORT where a KEDA elsewhere asks for values to scale on; default: nowhere."),
    ] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready; it goes on.")] = False,
) -> None:
    """Start the platform on this machine; Ctrl-C ends it."""
    from pelton.cli.detach import detached
    from pelton.cli.ports_owner import parse_address
    from pelton.cli.up import UpOptions
    from pelton.cli.up import up as run
    from pelton.errors import UsageError
    from pelton.plan.aliases import Aliases

    if durability not in ("process", "power"):
        raise UsageError(f"--durability {durability!r} is not known", hint="one of: process, power")
    if bool(tls_cert) != bool(tls_key) or (tls_cert and not tls):
        raise UsageError(
            "--tls-cert and --tls-key go together, with --tls", hint="say --tls HOST:PORT, and both files"
        )
    options = UpOptions(
        gateway=parse_address(gateway, "--gateway"),
        api=parse_address(api, "--api"),
        durability=durability,
        tls=parse_address(tls, "--tls") if tls else None,
        tls_cert=tls_cert,
        tls_key=tls_key,
        access_log=_known("--access-log", access_log, "all", "failures", "off"),
        otlp_endpoint=otlp_endpoint,
        otlp_headers=otlp_headers,
        external_scaler=parse_address(external_scaler, "--external-scaler") if external_scaler else None,
        trace_percent=trace_percent,
        aliases=Aliases.of_options(alias or ()),
    )
    _exit(detached(Home(), sys.argv[1:]) if detach else run(Home(), options))


@app.command()
def api(
    listen: Annotated[
        str, typer.Option(help="HOST:PORT of the API server; port 0 takes a free one.")
    ] = "127.0.0.1:6443",
    directory: Annotated[
        str, typer.Option(help="Keeps objects, kubeconfig and certificates; without it nothing is kept.")
    ] = "",
) -> None:
    """Serve the Kubernetes API alone, for operators under development or test; Ctrl-C ends it."""
    from pelton.cli.api import api as run
    from pelton.cli.ports_owner import parse_address

    _exit(run(parse_address(listen, "--listen"), directory or None))


@app.command()
def down() -> None:
    """End the platform that runs on PELTON_HOME."""
    from pelton.cli.status import down as run

    _exit(run(Home()))


@app.command()
def status(
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Keep it up to date until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks, with --watch.")] = 1.0,
) -> None:
    """Show the parts of the platform and the functions on it."""
    from pelton.cli.status import status as run
    from pelton.cli.status import watch as run_watch
    from pelton.errors import UsageError

    if watch and output != "table":
        raise UsageError("--watch shows a table only", hint="leave -o out, or --watch")
    _exit(
        run_watch(Home(), interval_s=interval)
        if watch
        else run(Home(), output=_one_of(output, "table", "json"))
    )


@app.command()
def trace(
    url: Annotated[str, typer.Argument(help="URL of a function; a path alone goes to the gateway.")],
    method: Annotated[
        str, typer.Option("-X", "--request", help="Method; default: GET, or POST with data.")
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option("-H", "--header", help="'Name: value'; repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option("-d", "--data", help="Body.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for the whole request.")] = 60.0,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Make one request and explain its way hop by hop, with the time spent at each."""
    from pelton.cli.trace import trace as run

    _exit(
        run(
            Home(),
            url,
            method=method,
            headers=header or (),
            data=data,
            timeout_s=timeout,
            output=_one_of(output, "table", "json"),
        )
    )


@app.command()
def deploy(
    directory: Annotated[str, typer.Argument(help="Directory with the function's source.")],
    name: Annotated[str | None, typer.Option(help="Function name; default: the directory's.")] = None,
    namespace: Namespace = "default",
    trigger: Annotated[
        str | None, typer.Option(help="http, topic=TOPIC or cron=SCHEDULE; default: http, or the manifest's.")
    ] = None,
    convention: Annotated[str | None, typer.Option(help="Convention of the code; default: detected.")] = None,
    target: Annotated[str | None, typer.Option(help="Function in the source; default: the only one.")] = None,
    command: Annotated[
        str | None, typer.Option(help="Program to run instead of a function; it listens on $PORT.")
    ] = None,
    annotation: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for an annotation pelton.dev/KEY.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the manifest, change nothing.")] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="yaml or json, with --dry-run.")] = "yaml",
    timeout: Timeout = 180.0,
) -> None:
    """Turn a source directory into a running function."""
    from pelton.cli.deploy import deploy as run
    from pelton.cli.options import pelton_annotations

    _exit(
        run(
            Home(),
            directory,
            name=name,
            namespace=namespace,
            trigger=trigger,
            convention=convention,
            target=target,
            annotations=pelton_annotations(command, annotation or ()),
            dry_run=dry_run,
            output=_one_of(output, "yaml", "json"),
            timeout_s=timeout,
        )
    )


@app.command()
def apply(
    files: Annotated[
        list[str], typer.Option("-f", "--filename", help="Manifest, directory, or - for stdin.")
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when functions are Running or Failed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check against the server, change nothing.")
    ] = False,
    timeout: Timeout = 180.0,
) -> None:
    """Create or update objects from manifests."""
    from pelton.cli.objects import apply as run

    _exit(run(Home(), files, wait=wait, dry_run=dry_run, timeout_s=timeout))


@app.command()
def render(
    files: Annotated[
        list[str], typer.Option("-f", "--filename", help="Manifest, directory, or - for stdin.")
    ],
    target: Annotated[str, typer.Option(help="local or kubernetes.")] = "kubernetes",
    output: Annotated[str, typer.Option("-o", "--output", help="yaml or json.")] = "yaml",
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Namespace of objects that name none.")
    ] = "default",
    only: Annotated[str, typer.Option(help="build, serving or route: only this part of each Function.")] = "",
    gateway: Annotated[str, typer.Option(help="NAMESPACE/NAME of the Gateway that routes attach to.")] = "",
    domain: Annotated[str, typer.Option(help="Domain of external host names; default ofn.io.")] = "",
    cluster_domain: Annotated[
        str, typer.Option(help="Domain of names inside the cluster; default cluster.local.")
    ] = "",
    keda_http: Annotated[
        str, typer.Option(help="v1alpha1 (HTTPScaledObject) or v1beta1 (InterceptorRoute).")
    ] = "v1alpha1",
    keda_http_namespace: Annotated[str, typer.Option(help="Namespace of KEDA's HTTP add-on.")] = "keda",
) -> None:
    """Print what manifests become on this machine or in a cluster; change nothing."""
    from pelton.cli.render import TARGETS, ClusterOptions
    from pelton.cli.render import render as run
    from pelton.targets.kubernetes.cluster import HTTP_ADD_ON_VERSIONS
    from pelton.targets.kubernetes.render import PARTS

    _known("--target", target, *TARGETS)
    _known("--keda-http", keda_http, *HTTP_ADD_ON_VERSIONS)
    if only:
        _known("--only", only, *PARTS)
    _exit(
        run(
            files,
            target=target,
            namespace=namespace,
            output=_one_of(output, "yaml", "json"),
            only=only,
            options=ClusterOptions(
                gateway=gateway,
                domain=domain,
                cluster_domain=cluster_domain,
                http_add_on=keda_http,
                http_add_on_namespace=keda_http_namespace,
            ),
        )
    )


@app.command()
def diff(
    files: Annotated[
        list[str], typer.Option("-f", "--filename", help="Manifest, directory, or - for stdin.")
    ],
) -> None:
    """Show what apply would change; exit 0 for nothing, 1 for something."""
    from pelton.cli.diff import diff as run

    _exit(run(Home(), files))


@app.command()
def convert(
    files: Annotated[
        list[str], typer.Option("-f", "--filename", help="Manifest, directory, or - for stdin.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="GROUP/VERSION, e.g. core.openfunction.io/v1beta2; default: the stored one."
        ),
    ] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="yaml or json.")] = "yaml",
) -> None:
    """Print manifests in another version of their kinds, v1beta1 as v1beta2."""
    from pelton.cli.convert import convert as run

    _exit(run(files, to=to, output=_one_of(output, "yaml", "json")))


@app.command()
def get(
    kind: Annotated[str, typer.Argument(help="functions (fn), components, ...; several with commas.")],
    name: Annotated[str, typer.Argument(help="One object; default: all.")] = "",
    namespace: Namespace = "default",
    all_namespaces: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="In all namespaces.")
    ] = False,
    output: Output = "table",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on with changes.")] = False,
) -> None:
    """Show objects."""
    from pelton.cli.objects import get as run

    space = None if all_namespaces else namespace
    _exit(
        run(Home(), kind, name, namespace=space, output=_one_of(output, "table", "yaml", "json"), watch=watch)
    )


@app.command()
def describe(
    kind: Annotated[str, typer.Argument(help="function, component, receiver.")],
    name: Annotated[str, typer.Argument(help="The object.")],
    namespace: Namespace = "default",
) -> None:
    """Show everything about one object."""
    from pelton.cli.objects import describe as run

    _exit(run(Home(), kind, name, namespace=namespace))


@app.command()
def delete(
    kind: Annotated[str, typer.Argument(help="function, component, receiver.")] = "",
    names: Annotated[list[str] | None, typer.Argument(help="Objects to delete.")] = None,
    files: Annotated[
        list[str] | None, typer.Option("-f", "--filename", help="Delete what manifests name.")
    ] = None,
    namespace: Namespace = "default",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when they are gone.")] = True,
    timeout: Timeout = 60.0,
) -> None:
    """Delete objects."""
    from pelton.cli.objects import delete as run
    from pelton.errors import UsageError

    if not files and not (kind and names):
        raise UsageError("nothing to delete", hint="pelton delete KIND NAME, or pelton delete -f FILE")
    _exit(
        run(Home(), kind, names or (), files=files or (), namespace=namespace, wait=wait, timeout_s=timeout)
    )


@app.command()
def revisions(
    name: Annotated[str, typer.Argument(help="Name of the function.")],
    namespace: Namespace = "default",
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Show the revisions of a function that are kept, with their share of the traffic."""
    from pelton.cli.rollback import revisions as run

    _exit(run(Home(), name, namespace, output=_one_of(output, "table", "json")))


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Name of the function.")],
    namespace: Namespace = "default",
    to_revision: Annotated[str, typer.Option(help="Revision to go back to; default the one before.")] = "",
    timeout: Timeout = 180.0,
) -> None:
    """Give a function the spec and the code of an earlier revision again."""
    from pelton.cli.rollback import rollback as run

    _exit(run(Home(), name, namespace, to_revision=to_revision, timeout_s=timeout))


@rollout_app.command("status")
def rollout_status(
    name: Annotated[str, typer.Argument(help="Name of the function.")],
    namespace: Namespace = "default",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on until it is over.")] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Show how far a rollout has come; exit code 1 when it was aborted."""
    from pelton.cli.rollout import status as run

    _exit(run(Home(), name, namespace, watch=watch, output=_one_of(output, "table", "json")))


@rollout_app.command("pause")
def rollout_pause(
    name: Annotated[str, typer.Argument(help="Name of the function.")], namespace: Namespace = "default"
) -> None:
    """Stay at the current step; the time until `resume` does not count for it."""
    _rollout("pause", name, namespace)


@rollout_app.command("resume")
def rollout_resume(
    name: Annotated[str, typer.Argument(help="Name of the function.")], namespace: Namespace = "default"
) -> None:
    """Go on: with the current step after `pause`, to the next one after a step that waits."""
    _rollout("resume", name, namespace)


@rollout_app.command("abort")
def rollout_abort(
    name: Annotated[str, typer.Argument(help="Name of the function.")], namespace: Namespace = "default"
) -> None:
    """Give all traffic back to the revision before."""
    _rollout("abort", name, namespace)


@rollout_app.command("restart")
def rollout_restart(
    name: Annotated[str, typer.Argument(help="Name of the function.")], namespace: Namespace = "default"
) -> None:
    """Begin an aborted rollout anew, with its first step."""
    _rollout("restart", name, namespace)


def _rollout(verb: str, name: str, namespace: str) -> None:
    from pelton.cli.rollout import act

    _exit(act(Home(), name, namespace, verb))


@app.command()
def invoke(
    name: Annotated[str, typer.Argument(help="The function.")],
    data: Annotated[str | None, typer.Option("-d", "--data", help="Body, @FILE, or @- for stdin.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("-H", "--header", help="`Name: value`; may repeat.")
    ] = None,
    event: Annotated[str | None, typer.Option("--event", help="File with a CloudEvent in JSON.")] = None,
    method: Annotated[str | None, typer.Option("-X", "--request", help="HTTP method.")] = None,
    path: Annotated[str, typer.Option("--path", help="Path and query after the function's address.")] = "/",
    include: Annotated[bool, typer.Option("-i", "--include", help="Print status and headers too.")] = False,
    namespace: Namespace = "default",
    timeout: Timeout = 310.0,
) -> None:
    """Call a function through the gateway."""
    from pelton.cli.invoke import invoke as run

    _exit(
        run(
            Home(),
            name,
            namespace=namespace,
            data=data,
            headers=header or (),
            event=event,
            method=method,
            path=path if path.startswith("/") else f"/{path}",
            include=include,
            timeout_s=timeout,
        )
    )


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="The function.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new lines.")] = False,
    since: Annotated[str | None, typer.Option(help="Only lines of the last 30s, 5m, 2h, ...")] = None,
    namespace: Namespace = "default",
) -> None:
    """Print what all instances of a function wrote."""
    from pelton.cli.logs import logs as run

    _exit(run(Home(), name, namespace=namespace, follow=follow, since=since))


@app.command("ship-logs")
def ship_logs(
    topic: Annotated[str, typer.Option(help="The topic that records go to.")],
    path: Annotated[list[str] | None, typer.Option(help="Pattern of log files; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of files to leave out.")] = None,
    http: Annotated[str, typer.Option(help="Take records by HTTP at this host:port.")] = "",
    forward: Annotated[str, typer.Option(help="Take records by the forward protocol.")] = "",
    metadata: Annotated[
        list[str] | None, typer.Option("--set", help="Further metadata of bindings.logs, KEY=VALUE.")
    ] = None,
    functions: Annotated[
        str, typer.Option(help="Ship what functions of this namespace print; * for all.")
    ] = "",
    brokers: Annotated[str, typer.Option(help="Kafka's addresses; by default the platform's bus.")] = "",
    to: Annotated[Path | None, typer.Option(help="File with the Component of the broker.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where positions are kept; the home.")] = None,
) -> None:
    """Ship log records of this machine to a topic, as a log shipper does."""
    from pelton.cli.ship_logs import ShipOptions
    from pelton.cli.ship_logs import ship_logs as run
    from pelton.errors import UsageError

    for item in metadata or ():
        if "=" not in item:
            raise UsageError(f"--set {item!r} is not KEY=VALUE")
    given = {
        **{item.partition("=")[0]: item.partition("=")[2] for item in metadata or ()},
        "path": ",".join(str(Path(each).absolute()) for each in path or ()),
        "exclude": ",".join(exclude or ()),
        "httpListen": http,
        "forwardListen": forward,
    }
    wanted = {key: value for key, value in given.items() if value}
    if functions and wanted:
        raise UsageError("--functions takes nothing else as a source", hint="Run the command once for each.")
    sources = {key.lower() for key in wanted} & {"path", "httplisten", "forwardlisten"}
    if not functions and not sources:
        raise UsageError("there is nothing to ship", hint="Say --path, --http, --forward or --functions.")
    if to is not None and brokers:
        raise UsageError("--to and --brokers exclude each other")
    options = ShipOptions(
        topic=topic, metadata=wanted, functions=functions, to=to, brokers=brokers, state=state_dir
    )
    _exit(run(Home(), options))


@topic_app.command("publish")
def topic_publish(
    topic: Annotated[str, typer.Argument(help="The topic.")],
    data: Annotated[
        list[str], typer.Option("-d", "--data", help="Payload, @FILE, or @- (a message a line).")
    ],
    header: Annotated[
        list[str] | None, typer.Option("-H", "--header", help="`Name: value`; may repeat.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not wrap the payload in a CloudEvent.")] = False,
    component: Broker = "",
    namespace: Namespace = "default",
) -> None:
    """Publish messages; returns when the bus has stored them."""
    from pelton.cli.topic import publish as run

    _exit(
        run(
            Home(),
            topic,
            data,
            headers=header or (),
            raw=raw,
            component=component,
            namespace=namespace,
        )
    )


@topic_app.command("tail")
def topic_tail(
    topic: Annotated[str, typer.Argument(help="The topic; * and > as in NATS.")],
    since: Annotated[
        str | None, typer.Option(help="Begin with messages of the last 30s, 5m, ...; default: new ones.")
    ] = None,
    count: Annotated[int, typer.Option(help="End after so many; 0 goes on.")] = 0,
    component: Broker = "",
    namespace: Namespace = "default",
) -> None:
    """Print messages as they come."""
    from pelton.cli.topic import tail as run

    _exit(run(Home(), topic, since=since, count=count, component=component, namespace=namespace))


@topic_app.command("lag")
def topic_lag(
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    component: Broker = "",
    namespace: Namespace = "default",
) -> None:
    """Show what waits for each function, or for each consumer of a component's broker."""
    from pelton.cli.topic import lag as run

    form = _one_of(output, "table", "json")
    _exit(run(Home(), output=form, component=component, namespace=namespace))


@topic_app.command("replay")
def topic_replay(
    topic: Annotated[str, typer.Argument(help="The topic, of Kafka or JetStream.")],
    function: Annotated[str, typer.Option(help="The only function that gets the messages.")],
    first: Annotated[
        str, typer.Option("--from", help="Offset, RFC 3339 time, or 10m for ten minutes ago; default: begin.")
    ] = "",
    last: Annotated[
        str, typer.Option("--to", help="Offset, inclusive, or a time as above, exclusive; default: now.")
    ] = "",
    component: Broker = "",
    namespace: Namespace = "default",
) -> None:
    """Give messages that a topic keeps to one function again."""
    from pelton.cli.topic_brokers import place_of
    from pelton.cli.topic_brokers import replay as run

    begin, end = place_of(first, "--from"), place_of(last, "--to")
    _exit(
        run(
            Home(),
            topic,
            function=function,
            namespace=namespace,
            component=component,
            first=begin,
            last=end,
        )
    )


@dlq_app.command("list")
def dlq_list(
    function: Annotated[str, typer.Argument(help="Only this function's; default: all.")] = "",
    namespace: Namespace = "default",
    app_id: AppId = "",
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """List dead letters."""
    from pelton.cli.topic import dead_letters as run

    _exit(
        run(
            Home(),
            function,
            namespace=namespace,
            output=_one_of(output, "table", "json"),
            app_id=app_id,
        )
    )


@dlq_app.command("show")
def dlq_show(
    letter: Annotated[int, typer.Argument(help="Number of the dead letter, from `dlq list`.")],
    namespace: Namespace = "default",
    app_id: AppId = "",
) -> None:
    """Print one dead letter: headers and payload."""
    from pelton.cli.topic import show_dead_letter as run

    _exit(run(Home(), letter, namespace=namespace, app_id=app_id))


@dlq_app.command("redrive")
def dlq_redrive(
    letters: Annotated[list[int] | None, typer.Argument(help="Numbers from `dlq list`.")] = None,
    function: Annotated[str, typer.Option("--function", help="All of this function's.")] = "",
    namespace: Namespace = "default",
    app_id: AppId = "",
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
) -> None:
    """Give dead letters back to the functions they were meant for."""
    from pelton.cli.topic import redrive as run
    from pelton.errors import UsageError

    if not letters and not function and not everything:
        raise UsageError(
            "which dead letters?", hint="numbers from `pelton dlq list`, --function NAME, or --all"
        )
    _exit(run(Home(), letters or (), function=function, namespace=namespace, app_id=app_id))


@notify_app.command("test")
def notify_test(
    receiver: Annotated[str, typer.Argument(help="Name of a Receiver; default: those of the files.")] = "",
    file: Annotated[
        list[str] | None, typer.Option("-f", "--file", help="Manifests that are taken first; - for stdin.")
    ] = None,
    alert_file: Annotated[
        str, typer.Option(help="Alerts to send, JSON as functions send them; - for stdin.")
    ] = "",
    block: Annotated[str, typer.Option("--type", help="Only this type: slack, email, ...")] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Send a test alert by a receiver, and show what was sent and what came back."""
    from pelton.cli.notify import send_test

    output = _one_of(output, "table", "json")
    _exit(send_test(Home(), receiver, files=file or (), alert_file=alert_file, block=block, output=output))


@notify_app.command("redrive")
def notify_redrive(
    receiver: Annotated[str, typer.Argument(help="Name of the Receiver.")],
) -> None:
    """Send what a receiver did not get again, to the channels and addresses that lack it."""
    from pelton.cli.topic import redrive

    # The subscriptions of dead letters are notifications.<receiver>.<type>.
    _exit(redrive(Home(), (), function=receiver, namespace="notifications"))


@notify_app.command("history")
def notify_history(
    receiver: Annotated[str, typer.Option(help="Only this receiver's.")] = "",
    alert: Annotated[str, typer.Option(help="Only with this alert: name or fingerprint.")] = "",
    outcome: Annotated[str, typer.Option(help="Only these: sent, digest, failed or dead.")] = "",
    limit: Annotated[int, typer.Option(help="Most lines.")] = 50,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Show what became of notifications, the newest first."""
    from pelton.cli.notify import history

    output = _one_of(output, "table", "json")
    _exit(history(Home(), receiver=receiver, alert=alert, outcome=outcome, limit=limit, output=output))


@app.command()
def run(
    source: Annotated[str, typer.Argument(help="Directory or Python file.")] = ".",
    target: Annotated[str | None, typer.Option(help="Name of the function; FUNCTION_TARGET.")] = None,
    signature: Annotated[
        str | None, typer.Option(help="http, cloudevent, ...; FUNCTION_SIGNATURE_TYPE.")
    ] = None,
    convention: Annotated[str | None, typer.Option(help="Convention of the code; default: detected.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port, 0 takes a free one; PORT; default 8080.")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a file changes.")] = False,
    install: Annotated[bool, typer.Option("--install/--no-install", help="Install requirements.txt.")] = True,
    command: Annotated[
        str | None, typer.Option(help="Program to run instead of a function; it listens on $PORT.")
    ] = None,
    annotation: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, as a pelton.dev/KEY annotation would say it.")
    ] = None,
    event: Annotated[
        str | None, typer.Option(help="Handle one saved event from a file (- for stdin), and end.")
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="A line per HTTP answer.")
    ] = True,
) -> None:
    """Serve one function without a platform."""
    from pelton.cli.options import pelton_annotations
    from pelton.cli.run import run as serve

    _exit(
        serve(
            source=source,
            target=target,
            signature=signature,
            convention=convention,
            host=host,
            port=port,
            reload=reload,
            install=install,
            options=pelton_annotations(command, annotation or ()),
            event=event,
            access_log=access_log,
        )
    )


@token_app.command("create")
def token_create(
    role: Annotated[str, typer.Option(help="view, edit or admin.")],
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="The only namespace it holds for; default: all.")
    ] = "",
    name: Annotated[str, typer.Option(help="Who will use it.")] = "",
    ttl: Annotated[str, typer.Option(help="How long it is valid, e.g. 12h; default: until revoked.")] = "",
    kubeconfig: Annotated[
        str, typer.Option(help="Write a kubeconfig with it to this file instead of printing it.")
    ] = "",
) -> None:
    """Make a token and print it; it cannot be shown again."""
    from pelton.cli.token import create

    _exit(create(Home(), role=role, namespace=namespace, name=name, ttl=ttl, kubeconfig=kubeconfig))


@token_app.command("list")
def token_list(
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Show the tokens that were made."""
    from pelton.cli.token import list_tokens

    _exit(list_tokens(Home(), output=_one_of(output, "table", "json")))


@token_app.command("revoke")
def token_revoke(which: Annotated[str, typer.Argument(help="Id or name.")]) -> None:
    """Make a token void at once."""
    from pelton.cli.token import revoke

    _exit(revoke(Home(), which))


@why_app.command("detect")
def why_detect(
    directory: Annotated[str, typer.Argument(help="Directory or Python file.")] = ".",
    convention: Annotated[str | None, typer.Option(help="As if this one had been asked for.")] = None,
    target: Annotated[str | None, typer.Option(help="As if this target had been asked for.")] = None,
    signature: Annotated[
        str | None, typer.Option(help="As if this signature type had been asked for.")
    ] = None,
    output: Output = "table",
) -> None:
    """Show which convention a source follows, by which rule, and why not the others."""
    from pelton.cli.why import why_detect as run

    _exit(
        run(
            directory,
            convention=convention,
            target=target,
            signature=signature,
            output=_one_of(output, "table", "yaml", "json"),
        )
    )


@why_app.command("scale")
def why_scale(
    name: Annotated[
        str, typer.Argument(help="Name of the function; deployment/NAME for what a ScaledObject scales.")
    ],
    namespace: Namespace = "default",
    at: Annotated[
        str | None, typer.Option(help="Time (RFC 3339), seconds since 1970, or how long ago, such as 5m.")
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Show what decided how many instances a function has, and each change before."""
    from pelton.cli.why_scale import why_scale as run

    _exit(run(Home(), name, namespace=namespace, at=at, output=_one_of(output, "table", "json")))


@scaler_app.command("check")
def scaler_check(
    file: Annotated[
        list[str],
        typer.Option("-f", "--filename", help="Manifest, directory, or - for standard input; repeatable."),
    ],
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Namespace of objects that name none.")
    ] = "default",
    auth_root: Annotated[
        str, typer.Option(help="Directory of the files that a ClusterTriggerAuthentication names.")
    ] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Read the triggers of a ScaledObject, a ScaledJob or a Function once; needs no running platform."""
    from pelton.cli.scaler import check as run

    output = _one_of(output, "table", "json")
    _exit(run(Home(), file, namespace=namespace, auth_root=auth_root, output=output))


@app.command()
def simulate(
    policy: Annotated[str, typer.Option(help="YAML: algorithm and its policy.")],
    trace: Annotated[str, typer.Option(help="JSON lines, one evaluation each; - for standard input.")],
    output: Annotated[
        list[str] | None,
        typer.Option("-o", "--output", help="json, table or plot; with plot also FILE.png."),
    ] = None,
) -> None:
    """Run a scaling policy over a trace, by the code that scales here."""
    from pelton.cli.simulate import simulate as run

    _exit(run(policy_file=policy, trace_file=trace, outputs=output or []))


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the function, and of its new directory.")],
    trigger: Annotated[str, typer.Option(help="http, cloudevent or topic.")] = "http",
    convention: Annotated[str, typer.Option(help="openfunction or gcf.")] = "",
) -> None:
    """Write a new function to start from."""
    from pelton.cli.init import init as write

    _exit(write(name, trigger=trigger, convention=convention or None))


@why_app.command("alert")
def why_alert(
    words: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Fingerprint, or matchers such as alertname=DiskFull."),
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Say where an alert goes, what keeps it back, what was told and when the next comes."""
    from pelton.cli.why_alert import why_alert as run

    _exit(run(Home(), words, output=_one_of(output, "table", "json")))


@why_app.command("trigger")
def why_trigger(
    name: Annotated[str, typer.Argument(help="Name of the Trigger.")],
    namespace: Namespace = "default",
    output: Output = "table",
) -> None:
    """Show the inputs of a Trigger, which conditions hold, and what would fire."""
    from pelton.cli.why_trigger import why_trigger as run

    output = _one_of(output, "table", "yaml", "json")
    _exit(run(Home(), name, namespace=namespace, output=output))


@why_app.command("route")
def why_route(
    url: Annotated[
        str, typer.Argument(help="URL that a client would ask; a path alone goes to the gateway.")
    ],
    method: Annotated[str, typer.Option("-X", "--request", help="Method.")] = "GET",
    header: Annotated[
        list[str] | None, typer.Option("-H", "--header", help="'Name: value'; repeatable.")
    ] = None,
    output: Output = "table",
) -> None:
    """Say which rule a request would meet, and why no other one does."""
    from pelton.cli.why_route import why_route as run

    output = _one_of(output, "table", "yaml", "json")
    _exit(run(Home(), url, method=method, headers=header or (), output=output))


# `main.py` carries these two out before it comes here; they stand here for `--help`.
@dapr_app.command("run", context_settings=_OWN_FLAGS, add_help_option=False)
def dapr_run() -> None:
    """Run an app with Dapr's API beside it: dapr run's own flags, see pelton dapr run --help."""
    from pelton.cli.dapr_run import dapr_run as run

    _exit(run(sys.argv[sys.argv.index("run") + 1 :]))


@app.command(context_settings=_OWN_FLAGS, add_help_option=False)
def daprd() -> None:
    """Serve one app's Dapr API: daprd's own flags, see pelton daprd --help."""
    from pelton.cli.dapr_run import daprd as run

    _exit(run(sys.argv[sys.argv.index("daprd") + 1 :]))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the scratch home behind.")] = False,
) -> None:
    """Show all of it in a minute: wake from zero, logs as events, an alert, back to zero."""
    from pelton.cli.demo import demo as show

    _exit(show(keep=keep))


def _one_of(value: str, *known: str) -> str:
    return _known("-o", value, *known)


def _known(flag: str, value: str, *known: str) -> str:
    from pelton.errors import UsageError

    if value not in known:
        raise UsageError(f"{flag} {value!r} is not known", hint=f"one of: {', '.join(known)}")
    return value
