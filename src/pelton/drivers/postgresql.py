"""PostgreSQL: `state.postgresql` in both of Dapr's layouts, `bindings.postgresql` and the configuration.

Implements `ports.StateStore`, `ports.Binding` and `ports.ConfigurationStore`. Layout v1 of the state keeps
JSON with `xmin` as etag, v2 keeps bytes with a UUID. Expiry goes by the server's clock. Connections are made
when they are needed and replaced when they break.
Source: `dapr-components` contract, sections 3 to 5. Over 600 lines: all ports share one link and its errors.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

import asyncpg

from pelton.autoscale.scalers.postgresql import PostgreSqlScaling, measure
from pelton.certificates import PemFiles
from pelton.clock import Clock, SystemClock, rfc3339
from pelton.errors import ComponentError, DeliveryError, PeltonError, ScalerError
from pelton.log import get
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.model.scaler import ScalerReading
from pelton.model.settings import ComponentSettings
from pelton.model.state import StateChange, StateItem, check_etag, check_form
from pelton.ports import ConfigurationItem

__all__ = ["PostgreSqlBinding", "PostgreSqlConfiguration", "PostgreSqlScaler", "PostgreSqlStates"]

_TIMEOUT_S: Final = 20.0
_CONNECTIONS: Final = 10
_SCALER_TIMEOUT: Final = "5s"
"""Of a scaler's query: it is asked again at the next look."""
_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_CHANNEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_AGAIN_S: Final = 1.0
_LOOK_S: Final = 10.0
_LOCK: Final = 0x70656C746F6E  # "pelton": one process at a time makes tables

_log = get(__name__)


class _Link:
    """A pool of connections, opened when it is needed.

    Args:
        component: `connectionString` (a URL, or `key=value` words), or the single keys.
    """

    def __init__(self, component: Component) -> None:
        self.settings = ComponentSettings(component)
        self.where = self.settings.where
        self._pem = PemFiles()
        self._options = self._target(self.settings, self._pem)
        self.timeout_s = self.settings.seconds("timeout", _TIMEOUT_S) or _TIMEOUT_S
        self._size = self.settings.number("maxConns", 0) or _CONNECTIONS
        self._idle_s = self.settings.seconds("connectionMaxIdleTime", 0.0) or 300.0
        self._pool: Any = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def connection(self, kind: type[PeltonError]) -> AsyncIterator[Any]:
        """Lend a connection for at most `timeout`; errors become `kind`, without what was connected with."""
        with self.translated(kind):
            async with asyncio.timeout(self.timeout_s):
                async with self._lock:
                    if self._pool is None:
                        self._pool = await asyncpg.create_pool(
                            **self._options,
                            min_size=0,
                            max_size=self._size,
                            max_inactive_connection_lifetime=self._idle_s,
                            timeout=self.timeout_s,
                        )
                async with self._pool.acquire() as connection:
                    yield connection

    @asynccontextmanager
    async def own(self, kind: type[PeltonError]) -> AsyncIterator[Any]:
        """Lend a connection of the caller's own, for as long as it likes; errors as in `connection`."""
        with self.translated(kind):
            made = await asyncpg.connect(**self._options, timeout=self.timeout_s)
            try:
                yield made
            finally:
                if not made.is_closed():
                    made.terminate()

    @contextmanager
    def translated(self, kind: type[PeltonError]) -> Iterator[None]:
        """Turn the library's errors into `kind`; refused credentials are a ComponentError always."""
        try:
            yield
        except (
            asyncpg.InvalidPasswordError,
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InsufficientPrivilegeError,
        ) as exc:
            raise ComponentError(
                f"the database rejected the credentials: {type(exc).__name__}",
                where=self.where,
                hint="Check user, password and what that user may do.",
            ) from exc
        except TimeoutError as exc:
            raise kind(f"no answer from the database within {self.timeout_s:g} s", where=self.where) from exc
        except (asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, OSError) as exc:
            raise kind(f"the database was not reached: {type(exc).__name__}", where=self.where) from exc
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            raise kind(f"the database refused: {exc}", where=self.where) from exc

    async def close(self) -> None:
        """Close all connections; safe to repeat."""
        self._pem.close()
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(self.timeout_s):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @staticmethod
    def _target(settings: ComponentSettings, pem: PemFiles) -> dict[str, Any]:
        text = settings.text("connectionString").strip()
        words = dict(re.findall(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|\S+)", text)) if "://" not in text else {}
        if "://" in text:
            if not _is_url(text):
                raise ComponentError(
                    "metadata `connectionString` is not a postgresql:// URL",
                    where=settings.where,
                    hint="For example `postgresql://user:password@postgres:5432/orders`; percent-encode what "
                    "is special in user and password.",
                )
            # What only Dapr's client knows is not for the server.
            url = re.sub(r"(?<=[?&])(pool_\w+|default_query_exec_mode)=[^&]*&?", "", text).rstrip("?&")
            further = "&".join(
                f"{name}={quote(value, safe='')}"
                for name, value in _authority(settings, pem).items()
                if f"{name}=" not in url
            )
            return {"dsn": url + (f"{'&' if '?' in url else '?'}{further}" if further else "")}
        if text and not words:
            raise ComponentError(
                "metadata `connectionString` is neither a URL nor `key=value` words", where=settings.where
            )
        host = settings.text("hostaddr") or settings.text("host")
        for name, value in (
            ("host", host),
            ("port", settings.text("port")),
            ("user", settings.text("user")),
            ("password", settings.text("password")),
            ("dbname", settings.text("database")),
        ):
            if value:
                words[name] = value
        words = _authority(settings, pem) | words
        if not words.get("host") and not words.get("hostaddr"):
            raise ComponentError(
                "metadata `connectionString` is required",
                where=settings.where,
                hint="For example `postgresql://user:password@postgres:5432/orders`, or host, user, ...",
            )
        plain = {name: re.sub(r"\\(.)", r"\1", value.strip("'")) for name, value in words.items()}
        address = quote(plain.pop("hostaddr", "") or plain.get("host", ""), safe=":[]")
        plain.pop("host", None)
        user, password = plain.pop("user", ""), plain.pop("password", "")
        login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        port, database = plain.pop("port", "5432"), plain.pop("dbname", plain.pop("database", ""))
        known = {"sslmode", "sslrootcert", "sslcert", "sslkey", "application_name"}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in plain.items() if name in known)
        return {"dsn": f"postgresql://{login}@{address}:{port}/{database}" + (f"?{query}" if query else "")}


def _is_url(text: str) -> bool:
    """Tell whether a text is a URL of PostgreSQL, which may name several servers, or none.

    The client library shows what it cannot read, such as a password with a `/` that it takes for a port.
    """
    try:
        url = urlsplit(text)
    except ValueError:
        return False
    servers = url.netloc.rpartition("@")[2].split(",")
    ports = [server.rpartition("]")[2].partition(":")[2] for server in servers]
    return (
        url.scheme in {"postgres", "postgresql"}
        and "@" not in url.path
        and all(not port or (port.isdecimal() and 0 < int(port) < 65536) for port in ports)
    )


def _authority(settings: ComponentSettings, pem: PemFiles) -> dict[str, str]:
    """Return what makes the client look at the server's certificate, nothing where no authority is named.

    A connection that may do without TLS would make the authority pointless, so it has to be verified unless
    the connection string says otherwise.
    """
    path = pem.path(settings.text("sslRootCert"))
    return {"sslrootcert": path, "sslmode": "verify-full"} if path else {}


class PostgreSqlStates:
    """A store in a PostgreSQL table.

    Args:
        component: Where the database is; `tableName` (v1) or `tablePrefix` (v2), `metadataTableName`,
            `timeout`, `cleanupInterval`. The layout is v2 when `tablePrefix` is set or `version` is v2.
        clock: Tells when to clean up; what has expired is decided by the server.
        folder: Unused; other stores keep files there.
    """

    def __init__(self, component: Component, *, clock: Clock, folder: Path | None = None) -> None:
        self._link = _Link(component)
        settings = self._link.settings
        self._clock = clock
        self._second = component.version == "v2" or bool(settings.text("tablePrefix"))
        prefix = settings.text("tablePrefix")
        table = f"{prefix}state" if self._second else settings.text("tableName", "state")
        notes = settings.text("metadataTableName", "dapr_metadata")
        for name in (table, notes):
            if _TABLE.fullmatch(name) is None:
                raise ComponentError(
                    f"{name!r} is no table name", where=settings.where, hint="Use letters, digits and _."
                )
        self._table, self._notes = table, notes
        self._cleanup_s = settings.seconds("cleanupInterval", 3600.0)
        self._cleaned = clock.monotonic()
        self._made = False

    async def get(self, keys: Sequence[str]) -> list[StateItem]:
        """Return an item per key; see `ports.StateStore`."""
        async with self._ready() as connection:
            rows = await connection.fetch(self._select("key = ANY($1::text[])"), list(keys))
        found = {row["key"]: self._item(row) for row in rows}
        return [found.get(key) or StateItem(key=key) for key in keys]

    async def write(self, changes: Sequence[StateChange]) -> None:
        """Carry out all changes in one transaction; see `ports.StateStore`."""
        async with self._ready() as connection:
            async with connection.transaction():
                # Rows that do not exist cannot be locked, so keys are: in one order, against deadlocks.
                for key in sorted({change.key for change in changes}):
                    await connection.execute(
                        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"{self._table}:{key}"
                    )
                for change in changes:
                    await self._change(connection, change)
            await self._clean(connection)

    async def scan(self, prefix: str, *, limit: int) -> list[StateItem]:
        """Return items whose key begins so, in order of their keys."""
        async with self._ready() as connection:
            rows = await connection.fetch(
                self._select("starts_with(key, $1)") + ' ORDER BY key COLLATE "C" LIMIT $2', prefix, limit
            )
        return [self._item(row) for row in rows]

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        await self._link.close()

    @property
    def _expires(self) -> str:
        return "expires_at" if self._second else "expiredate"

    def _select(self, condition: str) -> str:
        etag = "etag::text AS etag" if self._second else "xmin::text AS etag, value::text AS document"
        etag += f", {self._expires} AS ends"
        alive = f"({self._expires} IS NULL OR {self._expires} > now())"
        return f"SELECT key, value, isbinary, {etag} FROM {self._table} WHERE {condition} AND {alive}"  # noqa: S608

    async def _change(self, connection: Any, change: StateChange) -> None:
        check_form(change, number=not self._second)
        row = await connection.fetchrow(self._select("key = $1"), change.key)
        check_etag(change, row["etag"] if row is not None else "")
        if change.delete:
            await connection.execute(f"DELETE FROM {self._table} WHERE key = $1", change.key)  # noqa: S608
            return
        ttl_s = change.ttl_s()
        end = "now() + make_interval(secs => $3)" if ttl_s else "NULL"
        more = [float(ttl_s)] if ttl_s else []
        if self._second:
            await connection.execute(
                f"INSERT INTO {self._table} (key, value, isbinary, etag, updated_at, expires_at) "  # noqa: S608
                f"VALUES ($1, $2, {not change.json}, gen_random_uuid(), now(), {end}) ON CONFLICT (key) "
                "DO UPDATE SET value = EXCLUDED.value, isbinary = EXCLUDED.isbinary, etag = EXCLUDED.etag, "
                "updated_at = now(), expires_at = EXCLUDED.expires_at",
                change.key,
                change.data,
                *more,
            )
            return
        await connection.execute(
            f"INSERT INTO {self._table} (key, value, isbinary, expiredate) "  # noqa: S608
            f"VALUES ($1, $2, {not change.json}, {end}) ON CONFLICT (key) DO UPDATE SET "
            "value = EXCLUDED.value, isbinary = EXCLUDED.isbinary, updatedate = now(), "
            "expiredate = EXCLUDED.expiredate",
            change.key,
            _document(change),
            *more,
        )

    def _item(self, row: Any) -> StateItem:
        if self._second:
            data, is_json = bytes(row["value"]), not row["isbinary"]
        elif row["isbinary"]:
            data, is_json = base64.b64decode(json.loads(row["document"])), False
        else:
            data, is_json = row["document"].encode(), True
        expires = rfc3339(row["ends"]) if row["ends"] is not None else ""
        return StateItem(key=row["key"], data=data, json=is_json, etag=row["etag"], expires=expires)

    @asynccontextmanager
    async def _ready(self) -> AsyncIterator[Any]:
        async with self._link.connection(ComponentError) as connection:
            if not self._made:
                await self._make(connection)
                self._made = True
            yield connection

    async def _make(self, connection: Any) -> None:
        """Make the tables where they are missing, and the column in which Pelton says what is no JSON."""
        if self._second:
            columns = (
                "key text PRIMARY KEY, value bytea NOT NULL, etag uuid NOT NULL, "
                "created_at timestamptz NOT NULL DEFAULT now(), "
                "updated_at timestamptz, expires_at timestamptz"
            )
        else:
            columns = (
                "key text PRIMARY KEY, value jsonb NOT NULL, isbinary boolean NOT NULL, "
                "insertdate timestamptz NOT NULL DEFAULT now(), "
                "updatedate timestamptz, expiredate timestamptz"
            )
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute(f"CREATE TABLE IF NOT EXISTS {self._table} ({columns})")
            if self._second:
                await connection.execute(
                    f"ALTER TABLE {self._table} ADD COLUMN IF NOT EXISTS isbinary boolean "
                    "NOT NULL DEFAULT false"
                )
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._notes} (key text PRIMARY KEY, value text NOT NULL)"
            )

    async def _clean(self, connection: Any) -> None:
        elapsed = self._clock.monotonic() - self._cleaned
        if self._cleanup_s and elapsed >= self._cleanup_s:
            self._cleaned += elapsed
            await connection.execute(f"DELETE FROM {self._table} WHERE {self._expires} <= now()")  # noqa: S608


def _document(change: StateChange) -> str:
    """Return a value's jsonb column: JSON as it is, anything else as text in base64."""
    if not change.json:
        return json.dumps(base64.b64encode(change.data).decode())
    try:
        return change.data.decode()
    except UnicodeDecodeError as exc:
        raise ComponentError(f"the value of key {change.key!r} is no JSON text: {exc}") from exc


class PostgreSqlBinding:
    """`bindings.postgresql`: statements of the function's own.

    Args:
        component: Where the database is.
    """

    def __init__(self, component: Component) -> None:
        self._link = _Link(component)
        self._clock = SystemClock()

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Carry out one statement; see `ports.Binding`.

        Args:
            operation: exec, query (answers with a JSON array of rows, each an array), or close.
            data: Unused.
            metadata: `sql`, and `params`, a JSON array of its `$1`, `$2`, ...
        """
        name = operation.lower()
        if name == "close":
            await self._link.close()
            return Delivered(ok=True)
        if name not in {"exec", "query"}:
            raise ComponentError(
                f"bindings.postgresql has no operation {operation!r}",
                where=self._link.where,
                hint="Use exec, query or close.",
            )
        given = {key.lower(): value for key, value in metadata.items()}
        sql = given.get("sql", "")
        if not sql.strip():
            raise ComponentError("the request's metadata have no `sql`", where=self._link.where)
        parameters = self._parameters(given.get("params", ""))
        began = self._clock.now()
        before = self._clock.monotonic()
        async with self._link.connection(DeliveryError) as connection:
            if name == "exec" and not parameters:  # the only way to carry out several statements
                rows, status = [], await connection.execute(sql)
            else:
                statement = await connection.prepare(sql)
                kinds = [kind.name for kind in statement.get_parameters()]
                if len(kinds) != len(parameters):
                    raise ComponentError(
                        f"the statement takes {len(kinds)} parameters, `params` has {len(parameters)}",
                        where=self._link.where,
                    )
                fitted = [_fitted(value, kind) for value, kind in zip(parameters, kinds, strict=True)]
                columns = [column.type.name for column in statement.get_attributes()]
                rows = [
                    [_plain(value, kind) for value, kind in zip(row, columns, strict=True)]
                    for row in await statement.fetch(*fitted)
                ]
                status = statement.get_statusmsg()
        answer = {
            "operation": name,
            "sql": sql,
            "start-time": rfc3339(began, fraction=True),
            "end-time": rfc3339(self._clock.now(), fraction=True),
            "duration": f"{(self._clock.monotonic() - before) * 1000:.3f}ms",
        }
        if name == "query":
            return Delivered(ok=True, data=json.dumps(rows, ensure_ascii=False).encode(), metadata=answer)
        affected = status.rpartition(" ")[2]
        answer["rows-affected"] = affected if affected.isdecimal() else "0"
        return Delivered(ok=True, metadata=answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    def _parameters(self, text: str) -> list[Any]:
        try:
            found = json.loads(text) if text.strip() else []
        except ValueError as exc:
            raise ComponentError("`params` is no JSON", where=self._link.where) from exc
        if not isinstance(found, list):
            raise ComponentError("`params` is no JSON array", where=self._link.where)
        return found


class PostgreSqlScaler:
    """Scaler `postgresql`: a query's first number. Implements `ports.Scaler`.

    Args:
        settings: Of the trigger.
        clock: Unused; deadlines are the link's.
        where: For messages.
    """

    def __init__(self, settings: PostgreSqlScaling, *, clock: Clock, where: str) -> None:
        del clock
        self._settings = settings
        metadata = {**settings.connection, "maxConns": "1", "timeout": _SCALER_TIMEOUT}
        self._link = _Link(Component(namespace="", name="", type="bindings.postgresql", metadata=metadata))
        self._link.where = where

    async def read(self) -> Sequence[ScalerReading]:
        """Return the query's value; see `ports.Scaler`."""
        async with self._link.connection(ScalerError) as connection:
            row = await connection.fetchrow(self._settings.query)
        return [measure(self._settings, [] if row is None else [list(row)])]

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()


def _fitted(value: Any, kind: str) -> Any:
    """Turn a JSON value into what a parameter of that type takes; raises ComponentError."""
    if value is None:
        return None
    try:
        if kind in {"json", "jsonb"}:
            return value if isinstance(value, str) else json.dumps(value)
        if kind in {"text", "varchar", "bpchar", "name"} and not isinstance(value, str):
            return json.dumps(value)
        if isinstance(value, str):
            if kind in {"timestamp", "timestamptz"}:
                moment = datetime.fromisoformat(value)
                return moment if kind == "timestamptz" else moment.replace(tzinfo=None)
            if kind == "date":
                return date.fromisoformat(value)
            if kind in {"int2", "int4", "int8"}:
                return int(value)
            if kind in {"float4", "float8"}:
                return float(value)
            if kind == "bytea":
                return value.encode()
        if kind == "numeric":
            return Decimal(str(value))
    except (ValueError, ArithmeticError) as exc:
        raise ComponentError(f"a value of `params` is no {kind}") from exc
    return value


def _plain(value: Any, kind: str) -> Any:
    """Turn a column's value into one that JSON has: numbers of any length as text, bytes in base64."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if kind in {"json", "jsonb"} and isinstance(value, str):
        return json.loads(value)
    if isinstance(value, str):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [_plain(item, "") for item in value]
    return str(value)


class PostgreSqlConfiguration:
    """`configuration.postgresql`: settings in a table of the user's, told of by its trigger.

    Args:
        component: Where the database is; `table` (columns key, value, version, metadata) is required,
            `notifyChannel` names the channel that the table's trigger notifies.
        clock: Times attempts to connect again.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._link = _Link(component)
        settings = self._link.settings
        self._clock = clock
        self._table = settings.required("table", "A table with the columns key, value, version, metadata.")
        if _TABLE.fullmatch(self._table) is None:
            raise ComponentError("metadata `table` is no table name", where=settings.where)
        self._channel = settings.text("notifyChannel").strip()

    async def get(
        self, keys: Sequence[str], *, metadata: Mapping[str, str] | None = None
    ) -> dict[str, ConfigurationItem]:
        """Return items by key; see `ports.ConfigurationStore`."""
        text = f"SELECT key, value, version, metadata::text AS metadata FROM {self._table}"  # noqa: S608
        async with self._link.connection(ComponentError) as connection:
            if keys:
                rows = await connection.fetch(text + " WHERE key = ANY($1::text[])", list(keys))
            else:
                rows = await connection.fetch(text)
        return {row["key"]: _setting(row) for row in rows}

    async def subscribe(
        self, keys: Sequence[str], *, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[Mapping[str, ConfigurationItem]]:
        """Iterate over changes; see `ports.ConfigurationStore`. Metadata: `pgNotifyChannel`."""
        given = {key.lower(): value for key, value in (metadata or {}).items()}
        channel = given.get("pgnotifychannel", "").strip() or self._channel
        if _CHANNEL.fullmatch(channel) is None:
            raise ComponentError(
                "the request's metadata have no `pgNotifyChannel`",
                where=self._link.where,
                hint="Name the channel that the table's trigger notifies, or set `notifyChannel`.",
            )
        known: dict[str, ConfigurationItem] | None = None
        trouble = ""
        while True:
            try:
                async with aclosing(cast(Any, self._told(channel))) as told:
                    async for _ in told:
                        # What the notification says is not relied on: it may be cut, or of an older state.
                        now = await self.get(keys)
                        before, known, trouble = (now if known is None else known), now, ""
                        changes = {key: item for key, item in now.items() if before.get(key) != item}
                        changes |= {key: ConfigurationItem(value="") for key in before if key not in now}
                        if changes:
                            yield changes
            except PeltonError as exc:
                if known is None:
                    raise
                if str(exc) != trouble:
                    _log.warning("%s: changes are told later: %s", self._link.where, exc)
                trouble = str(exc)
                await self._clock.sleep(_AGAIN_S)

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        await self._link.close()

    async def _told(self, channel: str) -> AsyncIterator[None]:
        """Yield at the start, and whenever the channel was notified since."""
        changed = asyncio.Event()
        async with self._link.own(ComponentError) as connection:
            await connection.add_listener(channel, lambda *_: changed.set())
            connection.add_termination_listener(lambda _: changed.set())
            yield
            while True:
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await changed.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")  # a connection that died silently shows when used
                    continue
                changed.clear()
                if connection.is_closed():
                    raise ComponentError("the database ended the connection", where=self._link.where)
                yield


def _setting(row: Any) -> ConfigurationItem:
    try:
        found = json.loads(row["metadata"] or "{}")
    except ValueError:
        found = {}
    more = found.items() if isinstance(found, dict) else ()
    return ConfigurationItem(
        value=row["value"] or "",
        version=str(row["version"] or ""),
        metadata={key: value if isinstance(value, str) else json.dumps(value) for key, value in more},
    )
