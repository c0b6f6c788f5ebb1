"""A guarded api on Flask, as Dify's is. gunicorn serves `app`; run as a program it is Werkzeug's own server.

Both listen on the socket that they are given as standard input.
"""

from flask import Flask, request
from werkzeug.serving import make_server

GUARDED = ["/healthz", "/threads", "/inner/api/x"]
METHODS = ["GET", "HEAD", "OPTIONS", "POST"]

app = Flask(__name__)
arrivals = 0


def guarded():
    global arrivals
    arrivals += 1
    return {"status": "healthy"}


for path in GUARDED:
    app.add_url_rule(path, path, guarded, methods=METHODS, provide_automatic_options=False)


@app.get("/arrivals")
def count():
    return {"guarded": arrivals}


@app.get("/ping")
def ping():
    return "pong"


@app.errorhandler(404)
def anything_else(_):
    """Tells what has arrived, with success, so that a refusal can only be the gate's."""
    return {
        "target": request.environ["RAW_URI"],
        "headers": dict(request.headers),
        "cookies": dict(request.cookies),
        "scheme": request.scheme,
    }, 200


if __name__ == "__main__":
    make_server("127.0.0.1", 0, app, threaded=True, fd=0).serve_forever()
