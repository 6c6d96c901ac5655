"""Takes readings of a sensor: from a topic, or by HTTP from whoever asks."""

READINGS = {}


def handler(event, context):
    request = event["extensions"]["request"]
    if request.method == "GET":
        place = request.query.get("place", "")
        return {"place": place, "celsius": READINGS.get(place)}
    reading = event["data"]
    if not isinstance(reading, dict) or "place" not in reading:
        raise ValueError(f"not a reading: {reading!r}")
    READINGS[reading["place"]] = reading["celsius"]
    print(f"{reading['place']}: {reading['celsius']} C, by {event['event-namespace'] or 'http'}")
    return f"{context['function-name']} has {len(READINGS)} readings\n"
