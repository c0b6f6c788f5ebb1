"""The same guarded api on FastAPI. Run as a program it is served by uvicorn with h11, on the socket that it is given as
standard input."""

import socket

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

GUARDED = ["/healthz", "/threads", "/inner/api/x"]
METHODS = ["GET", "HEAD", "OPTIONS", "POST"]

app = FastAPI(openapi_url=None)
arrivals = 0


async def guarded():
    global arrivals
    arrivals += 1
    return {"status": "healthy"}


for path in GUARDED:
    app.add_api_route(path, guarded, methods=METHODS)


@app.get("/arrivals")
async def count():
    return {"guarded": arrivals}


@app.get("/ping")
async def ping():
    return PlainTextResponse("pong")


@app.exception_handler(404)
async def anything_else(request: Request, _):
    """Tells what has arrived, with success, so that a refusal can only be the gate's."""
    path, query = request.scope["raw_path"], request.scope["query_string"]
    target = (path + b"?" + query if query else path).decode("latin-1")
    return JSONResponse({"target": target, "headers": dict(request.headers)})


if __name__ == "__main__":
    config = uvicorn.Config(app, http="h11", ws="none", log_level="critical", access_log=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=0)])
