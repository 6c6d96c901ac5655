"""Keeps a catalogue of the objects of a bucket, from the events that the bucket sends."""

import functions_framework
from cloudevents.http import CloudEvent

CATALOGUE: dict[str, int] = {}


@functions_framework.cloud_event
def catalogue(event: CloudEvent) -> None:
    """Take google.cloud.storage.object.v1.finalized and .deleted."""
    data = event.data
    name = f"{data['bucket']}/{data['name']}"
    if event["type"].endswith(".deleted"):
        CATALOGUE.pop(name, None)
        print(f"{name} is gone; {len(CATALOGUE)} left")
    else:
        CATALOGUE[name] = int(data["size"])
        print(f"{name} has {data['size']} bytes of {data['contentType']}")
