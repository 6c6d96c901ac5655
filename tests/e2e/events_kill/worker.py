"""A worker process: the real worker around a function that notes each event id in a file."""

import asyncio
import os
import socket
import sys

from pelton.dataplane.load_page import LoadPage
from pelton.dataplane.worker import Worker, WorkerSettings, run
from pelton.model.invocation import Invocation, LoadedFunction, Reply


def main() -> None:
    directory, instance = sys.argv[1:]
    log = os.open(f"{directory}/{instance}.handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def call(invocation: Invocation) -> Reply:
        assert invocation.event is not None
        await asyncio.sleep(0.002)
        os.write(log, invocation.event.data + b"\n")
        return Reply(status=200)

    http, control = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    http.bind(f"{directory}/{instance}.http")
    control.bind(f"{directory}/{instance}.ctl")
    for sock in (http, control):
        sock.setblocking(False)
        sock.listen(16)
    settings = WorkerSettings(
        instance=instance, namespace="default", name="sink", revision="sink-1", concurrency=20
    )
    page = LoadPage(f"{directory}/{instance}.page", create=True)
    run(Worker(settings, page), LoadedFunction(call=call, sync=False), [http], control)


main()
