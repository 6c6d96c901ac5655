"""Says which path it was asked for, and by which edition."""

import functions_framework


@functions_framework.http
def shop(request):
    """Answer with the path that the gateway left."""
    return f"{request.headers.get('x-edition', 'plain')} {request.path}"
