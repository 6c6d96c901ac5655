"""Looks users up: one function, called with /users/{id} by its HTTPTrigger."""

from flask import current_app, jsonify, request

USERS = {"1": {"name": "Ada", "role": "admin"}, "2": {"name": "Grace", "role": "author"}}


def find():
    number = request.headers.get("X-Fission-Params-Id", "")
    if request.method == "PUT":
        USERS[number] = request.get_json()
        current_app.logger.warning("user %s is now %s", number, USERS[number].get("name"))
    if "X-Fission-Timer-Name" in request.headers:
        print(f"{len(USERS)} users, counted by {request.headers['X-Fission-Timer-Name']}")
        return ""
    if number not in USERS:
        return jsonify(error=f"no user {number}"), 404
    return jsonify(USERS[number]), 200, {"X-Answered-By": request.headers["X-Fission-Function-Name"]}
