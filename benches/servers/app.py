"""A small application with Dify's shape, once for WSGI and once for ASGI servers.

`LAB_LEDGER` names a file that gets a line with the query of each prompt as its run begins, and `LAB_BOOT` one that holds how many seconds the start takes.
"""

import asyncio
import json
import os
import time

LEDGER = os.open(os.environ["LAB_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"

with open(os.environ["LAB_BOOT"]) as file:
    time.sleep(float(file.read()))


def begin(body):
    """Notes a run; returns what is asked for, the time that it takes and the time between two of its events, in seconds."""
    asked = json.loads(body)
    os.write(LEDGER, f"{asked['query']}\n".encode())
    inputs = asked["inputs"]
    return asked, float(inputs["seconds"]), float(inputs.get("every", 1))


def plain(method, path):
    """The status and the object that a request without a run is answered with."""
    match method, path:
        case "GET", "/health":
            return 200, {"pid": os.getpid(), "status": "ok", "version": "lab"}
        case "GET", "/healthz":
            return 200, {"status": "healthy", "details": {"database": True, "cache": True}}
        case "GET", "/v1/parameters":
            return 200, {"opening_statement": "", "system_parameters": {"file_size_limit": 15}}
    return 404, {"code": "not_found", "message": path, "status": 404}


def answer(asked):
    return {"event": "message", "task_id": asked["query"], "message_id": asked["query"], "answer": "yes"}


def event(name, asked):
    return f"data: {json.dumps({**answer(asked), 'event': name})}\n\n".encode()


PING = b"event: ping\n\n"


def pauses(seconds, every):
    """How long to wait before each event."""
    while seconds > 0:
        yield min(every, seconds)
        seconds -= every


def wsgi(environ, start_response):
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]

    def whole(status, content):
        body = json.dumps(content).encode()
        start_response(f"{status} {'OK' if status == 200 else 'Not Found'}", [("Content-Type", JSON), ("Content-Length", str(len(body)))])
        return [body]

    if (method, path) != ("POST", "/v1/chat-messages"):
        return whole(*plain(method, path))
    asked, seconds, every = begin(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    if asked["response_mode"] == "blocking":
        time.sleep(seconds)
        return whole(200, answer(asked))
    start_response("200 OK", [("Content-Type", EVENTS)])

    def events():
        yield PING
        for pause in pauses(seconds, every):
            time.sleep(pause)
            yield event("message", asked)
        yield event("message_end", asked)

    return events()


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    method, path = scope["method"], scope["path"]

    async def start(status, kind, *more):
        headers = [(b"content-type", kind.encode()), *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def part(body, more):
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def whole(status, content):
        body = json.dumps(content).encode()
        await start(status, JSON, (b"content-length", str(len(body)).encode()))
        await part(body, False)

    if (method, path) != ("POST", "/v1/chat-messages"):
        return await whole(*plain(method, path))
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    asked, seconds, every = begin(body)
    if asked["response_mode"] == "blocking":
        await asyncio.sleep(seconds)
        return await whole(200, answer(asked))
    await start(200, EVENTS)
    await part(PING, True)
    for pause in pauses(seconds, every):
        await asyncio.sleep(pause)
        await part(event("message", asked), True)
    await part(event("message_end", asked), True)
    await part(b"", False)
