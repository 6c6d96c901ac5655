"""A short-link service, as a Flask application like any other."""

import secrets

from flask import Flask, abort, jsonify, redirect, request, url_for

app = Flask(__name__)
links = {"flask": "https://flask.palletsprojects.com/"}


@app.post("/links")
def shorten():
    url = request.get_json().get("url", "")
    if not url.startswith(("http://", "https://")):
        abort(400, description="url has to begin with http:// or https://")
    name = request.get_json().get("name") or secrets.token_urlsafe(4)
    links[name] = url
    app.logger.warning("%s -> %s", name, url)
    return jsonify(name=name, at=url_for("follow", name=name)), 201


@app.get("/<name>")
def follow(name):
    if name not in links:
        abort(404, description=f"no link {name}")
    return redirect(links[name])


@app.errorhandler(404)
def not_found(error):
    return jsonify(error=error.description), 404
