"""A web action: answers browsers, and sees how it was called."""

import html
import os


def main(params):
    if params["__ow_method"] not in ("get", "head"):
        return {"statusCode": 405, "body": {"error": "only GET"}}
    name = html.escape(params.get("name", "you"))
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "text/html", "X-Action": os.environ["__OW_ACTION_NAME"]},
        "body": f"<p>Hello {name}, this is {params['__ow_path'] or '/'}</p>",
    }
