"""Ships what has been paid and packed; called by a Trigger, with the event that completed the pair."""

import functions_framework


@functions_framework.cloud_event
def ship(event):
    print(f"shipping order {event.data['order']} after {event['topic']}", flush=True)
