"""A small shop: most requests are answered, some items are not there."""

ITEMS = {"apples": 3, "pears": 5}


def shop(request):
    """Answer `GET /<item>` with its price; log a line per request, as a web server does."""
    item = request.path.strip("/")
    status = 200 if item in ITEMS else 404
    print(f'10.0.0.7 - - "{request.method} {request.path} HTTP/1.1" {status} -')
    if status == 404:
        return {"error": f"there is no {item or 'item without a name'} in this shop"}, 404
    return {"item": item, "price": ITEMS[item]}
