"""Orders behind an HTTP API, a queue and a nightly schedule: one function, as one template deploys it."""

import base64
import json
import logging
import os

logger = logging.getLogger()
logger.setLevel(os.environ.get("LOG_LEVEL", "INFO"))

PRICES = {"apples": 3, "pears": 5}


def lambda_handler(event, context):
    if "Records" in event:
        return from_queue(event["Records"])
    if event.get("source") == "aws.events":
        logger.info("nightly check, %d ms left", context.get_remaining_time_in_millis())
        return None
    return from_http(event, context)


def from_http(event, context):
    method = event["requestContext"]["http"]["method"]
    if method == "GET":
        item = (event.get("pathParameters") or {}).get("item", "")
        if item not in PRICES:
            return answer(404, {"error": f"no {item or 'item'} here"})
        return answer(200, {"item": item, "price": PRICES[item]})
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        body = base64.b64decode(body).decode()
    try:
        total = price_of(json.loads(body))
    except (KeyError, TypeError, ValueError) as exc:
        return answer(400, {"error": f"not an order: {exc!r}"})
    made = answer(201, {"total": total, "function": context.function_name})
    made["cookies"] = [f"last-total={total}; HttpOnly"]
    return made


def from_queue(records):
    """Price each order; those that cannot be priced stay in the queue, the others leave it."""
    failures = []
    for record in records:
        try:
            logger.info("order %s costs %d", record["messageId"], price_of(json.loads(record["body"])))
        except (KeyError, TypeError, ValueError):
            logger.warning("order %s cannot be read", record["messageId"])
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}


def price_of(order):
    return sum(PRICES[item] * count for item, count in order["items"].items())


def answer(status, body):
    return {"statusCode": status, "headers": {"Content-Type": "application/json"}, "body": json.dumps(body)}
