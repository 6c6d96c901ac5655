"""Converts amounts between currencies: JSON for programs, a page for people."""

import os

import flask
import functions_framework
from flask import abort, jsonify, render_template

EUROS = {"EUR": 1.0, "USD": 0.92, "GBP": 1.17, "CHF": 1.04}


@functions_framework.http
def convert(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """Answer GET /?amount=10&from=USD&to=GBP and the same as a JSON body."""
    if request.method not in {"GET", "POST"}:
        return "only GET and POST\n", 405, {"Allow": "GET, POST"}
    given = request.get_json() if request.method == "POST" else request.args
    source, wanted = given.get("from", "EUR").upper(), given.get("to", "EUR").upper()
    try:
        amount = float(given.get("amount", 1))
        result = round(amount * EUROS[source] / EUROS[wanted], 2)
    except KeyError as exc:
        abort(404, description=f"there is no rate for {exc.args[0]}")
    except ValueError:
        abort(400, description="amount has to be a number")
    print(f"{amount} {source} -> {result} {wanted}")
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        return render_template("result.html", amount=amount, source=source, result=result, wanted=wanted)
    answer = jsonify(amount=amount, source=source, result=result, wanted=wanted)
    answer.headers["X-Served-By"] = os.environ.get("K_SERVICE", "nobody")
    return answer
