"""`asyncio.run` in a sync function works from the first call to the thousandth, on threads and inline."""

import re


def test_sync_function_may_run_a_loop_of_its_own(serve):
    served = serve(
        {
            "main.py": """
            import asyncio

            async def work(n):
                await asyncio.sleep(0)
                return n + 1

            def f(request):
                if request.path == "/old":
                    loop = asyncio.get_event_loop()
                    return str(loop.run_until_complete(work(1)))
                return str(asyncio.run(work(1)))
            """
        },
        "--no-access-log",
    )
    import httpx

    with httpx.Client(base_url=served.url) as client:
        # The worker moves fast functions from threads to its own thread after some hundred calls.
        answers = {client.get("/" if n % 2 else "/old").text for n in range(1_500)}

    assert answers == {"2"}
    assert not re.search("Traceback|Warning", served.output)
