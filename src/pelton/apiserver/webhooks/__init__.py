"""Admission webhooks: configurations, matching, reviews, and the calls themselves.

`apiserver/service.py` puts the parts together. Source: contracts operator-webhook.md sections 1 and 2.
"""

from pelton.apiserver.webhooks.admission import Webhooks
from pelton.apiserver.webhooks.caller import Caller, CallError
from pelton.apiserver.webhooks.configuration import ROWS

__all__ = ["ROWS", "CallError", "Caller", "Webhooks"]
