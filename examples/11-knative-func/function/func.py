"""Hands out a limited number of tokens to each client."""

import json
import logging


def new():
    return Function()


class Function:
    """One object per instance; the runtime starts, asks and stops it."""

    def start(self, cfg):
        """Read the configuration; called before the first request."""
        self.limit = int(cfg.get("TOKENS", "1"))
        self.taken = {}
        logging.warning("every client has %d tokens", self.limit)

    async def handle(self, scope, receive, send):
        """Answer POST /<client> with what is left; 429 when nothing is."""
        client = scope["path"].strip("/") or "anybody"
        if scope["method"] == "POST":
            if self.taken.get(client, 0) >= self.limit:
                return await answer(send, 429, {"client": client, "left": 0})
            self.taken[client] = self.taken.get(client, 0) + 1
        left = self.limit - self.taken.get(client, 0)
        await answer(send, 200, {"client": client, "left": left})

    def alive(self):
        return True, "alive"

    def ready(self):
        return hasattr(self, "taken"), f"{len(self.taken)} clients"

    def stop(self):
        logging.warning("%d clients had tokens", len(self.taken))


async def answer(send, status, body):
    headers = [[b"content-type", b"application/json"]]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
