"""Takes orders, publishes them over Dapr's API, gets them back as events, and keeps them in a state store."""

import json
import os
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DAPR = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0" if "DAPR_HTTP_PORT" in os.environ else ""
kept = {}  # where no Dapr is beside this program, it keeps orders itself


def dapr(method, path, body=None):
    headers = {"content-type": "application/json", "dapr-api-token": os.environ.get("DAPR_API_TOKEN", "")}
    request = urllib.request.Request(DAPR + path, data=body, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def publish(order):
    if DAPR:
        dapr("POST", "/publish/bus/orders", json.dumps(order).encode())
    else:
        keep(order)


def keep(order):
    if DAPR:
        dapr("POST", "/state/store", json.dumps([{"key": str(order["id"]), "value": order}]).encode())
    else:
        kept[str(order["id"])] = order


def find(key):
    if not DAPR:
        return kept.get(key)
    found = dapr("GET", f"/state/store/{key}")
    return json.loads(found) if found else None


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/dapr/subscribe":
            self.answer(200, [{"pubsubname": "bus", "topic": "orders", "route": "/on-order"}])
            return
        found, until = None, time.monotonic() + 10
        while found is None and time.monotonic() < until:  # the event may be on its way
            found = find(self.path.rpartition("/")[2])
            time.sleep(0.05)
        self.answer(200 if found else 404, found)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/on-order":
            keep(body["data"])
            self.answer(200, {"status": "SUCCESS"})
        else:
            publish(body)
            self.answer(202, {"accepted": body["id"]})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
