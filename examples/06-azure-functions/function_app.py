"""Bookings: an HTTP route with parameters, a queue that changes them, and a timer that sweeps."""

import datetime
import json
import logging

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

BOOKINGS: dict[int, dict[str, str]] = {1: {"guest": "Ada", "until": "2999-01-01"}}


@app.route(route="rooms/{room:int}", methods=["GET", "PUT"])
def room(req: func.HttpRequest) -> func.HttpResponse:
    number = int(req.route_params["room"])
    if req.method == "PUT":
        try:
            BOOKINGS[number] = {key: req.get_json()[key] for key in ("guest", "until")}
        except (KeyError, ValueError) as exc:
            return func.HttpResponse(f"not a booking: {exc}", status_code=400)
        logging.info("room %d is booked", number)
    if number not in BOOKINGS:
        return func.HttpResponse(f"room {number} is free", status_code=404)
    found = {"room": number, **BOOKINGS[number]}
    return func.HttpResponse(json.dumps(found), mimetype="application/json")


@app.queue_trigger(arg_name="message", queue_name="departures", connection="AzureWebJobsStorage")
def depart(message: func.QueueMessage) -> None:
    number = json.loads(message.get_body())["room"]
    guest = BOOKINGS.pop(number, {}).get("guest", "nobody")
    logging.info("%s left room %d (delivery %d)", guest, number, message.dequeue_count)


@app.timer_trigger(schedule="0 0 3 * * *", arg_name="timer")
def sweep(timer: func.TimerRequest) -> None:
    today = datetime.date.today().isoformat()
    for number in [number for number, booking in BOOKINGS.items() if booking["until"] < today]:
        del BOOKINGS[number]
    logging.info("%d rooms are booked; late: %s", len(BOOKINGS), timer.past_due)
