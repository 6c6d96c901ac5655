"""The fixtures of this folder work: a function with the real packages is served and answers."""


def test_function_with_the_real_flask_is_served(serve):
    served = serve(
        {
            "main.py": """
            import flask
            def hello(request):
                return {"real": isinstance(request, flask.Request)}
            """
        },
        clients=True,
    )

    assert served.get("/").json() == {"real": True}
    assert served.stop() == 0


def test_clients_are_importable_by_their_own_python(clients_python):
    import subprocess

    subprocess.run([clients_python, "-c", "import awslambdaric, boto3, azure.functions"], check=True)
