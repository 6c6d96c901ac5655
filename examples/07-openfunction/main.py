"""A guest book that remembers: entries are kept in a state store, and a hook times every call."""

import json
import time

from functions_framework.context.user_context import UserContext


class Stopwatch:
    """A hook, before and after each call: an object of its own per call, named in the manifest."""

    name = "stopwatch"

    def exec_pre_hook(self, context, plugins):
        self.started = time.perf_counter()

    def exec_post_hook(self, context, plugins):
        context.logger.info("took %.1f ms", (time.perf_counter() - self.started) * 1e3)


def guest_book(context: UserContext):
    """Take an entry from HTTP or from the topic; show one by GET /<guest>."""
    event = context.get_topic_event()
    if event is not None:
        return sign(context, json.loads(event.Data()))
    request = context.get_http_request()
    if request.method == "POST":
        return sign(context, request.get_json()), 201
    guest = request.path.strip("/")
    entry = context.state.get(guest)
    if entry is None:
        return {"error": f"{guest or 'nobody'} has not been here"}, 404
    return {"guest": guest, "words": entry["words"]}


def sign(context, entry):
    context.state.save({"key": entry["guest"], "value": {"words": entry["words"]}})
    print(f"{entry['guest']} was here")
    context.send("signed", entry["guest"])
    return {"signed": entry["guest"]}
