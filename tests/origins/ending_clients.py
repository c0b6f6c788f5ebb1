"""Lets a real client meet the end of what it asked for, and tells each thing that happens as a line of JSON.

Arguments: the client, the URL of the gate, and for TLS the certificate to trust. A line on standard input ends what goes on without an end.
"""

import asyncio
import json
import ssl
import sys
import threading
import time

BEGAN = time.monotonic()
CHAT = {"inputs": {"events": 10000, "gap_ms": 20}, "query": "q", "user": "u", "response_mode": "streaming"}


def tell(event, **more):
    print(json.dumps({"event": event, "at": time.monotonic() - BEGAN, **more}), flush=True)


def told_to_go_on():
    """Waits for a line."""
    return sys.stdin.readline()


def last_data(lines):
    """The data of the last event, where that is an object."""
    data = [line[6:] for line in lines if line.startswith("data: ")]
    return json.loads(data[-1]) if data and data[-1].startswith("{") else None


def sdk(package, http, streams):
    """Asks with an SDK for the streams that standard input names, and tells how each ends."""
    asked = []
    client = http(event_hooks={"request": [lambda request: asked.append(request.url.path)]})
    for line in sys.stdin:
        asked.clear()
        try:
            pieces = 0
            for _ in streams(client, line.strip()):
                pieces += 1
                if pieces == 1:
                    tell("piece")
            tell("end", asked=len(asked))
        except package.APIStatusError as error:
            tell("status", status=error.status_code, body=error.body, asked=len(asked))
        except package.APIError as error:
            tell("error", kind=type(error).__name__, body=error.body, asked=len(asked))
        except Exception as error:
            tell("error", kind=type(error).__name__, asked=len(asked))


def openai(url):
    import openai as package

    def streams(http, what):
        client = package.OpenAI(base_url=f"{url}/v1", api_key="key", http_client=http, max_retries=1)
        if what == "responses":
            return client.responses.create(stream=True, model="m", input="q")
        return client.chat.completions.create(stream=True, model="m", messages=[{"role": "user", "content": "q"}])

    sdk(package, package.DefaultHttpxClient, streams)


def anthropic(url):
    import anthropic as package

    def streams(http, what):
        client = package.Anthropic(base_url=url, api_key="key", http_client=http, max_retries=1)
        return client.messages.create(stream=True, model="m", max_tokens=9, messages=[{"role": "user", "content": "q"}])

    sdk(package, package.DefaultHttpxClient, streams)


def dify(url):
    from dify_client import ChatClient

    client = ChatClient("app-key")
    client.base_url = f"{url}/v1"
    while told_to_go_on():
        response = client.create_chat_message(CHAT["inputs"], "q", "u", response_mode="streaming")
        read(response, response.iter_lines(decode_unicode=True))


def read(response, lines):
    """Tells of a streamed answer of `requests`."""
    if response.status_code != 200:
        return tell("status", status=response.status_code, body=response.json(), retry_after=response.headers.get("retry-after"))
    heard = []
    try:
        for line in lines:
            if line and not heard:
                tell("piece")
            heard.append(line)
        tell("end", last=last_data(heard))
    except Exception as error:
        tell("error", kind=type(error).__name__)


def requests(url):
    import requests as package

    for line in sys.stdin:
        response = package.post(f"{url}{line.strip()}", json=CHAT, stream=True)
        read(response, response.iter_lines(decode_unicode=True))


def aiohttp(url):
    import aiohttp as package

    async def ask(session, path):
        async with session.post(f"{url}{path}", json=CHAT) as response:
            if response.status != 200:
                return tell("status", status=response.status, retry_after=response.headers.get("retry-after"))
            heard = []
            try:
                async for line in response.content:
                    if not heard:
                        tell("piece")
                    heard.append(line.decode().rstrip("\n"))
                tell("end", last=last_data(heard))
            except package.ClientError as error:
                tell("error", kind=type(error).__name__)

    async def run():
        async with package.ClientSession() as session:
            for line in iter(sys.stdin.readline, ""):
                await ask(session, line.strip())

    asyncio.run(run())


def httpx(url, certificate):
    """Asks by one connection in HTTP/2, while a stream is under way on it as well; `stream`, `ask` and `post` on standard input say what."""
    import httpx as package

    context = ssl.create_default_context(cafile=certificate)
    threads = []
    with package.Client(http2=True, verify=context, timeout=30) as client:

        def ask(method, path, **more):
            try:
                answer = client.request(method, f"{url}{path}", **more)
                port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
                tell("answer", status=answer.status_code, version=answer.http_version, port=port)
            except package.HTTPError as error:
                tell("error", kind=type(error).__name__, message=str(error))

        def stream():
            try:
                with client.stream("POST", f"{url}/v1/chat-messages", json={**CHAT, "inputs": {"events": 100, "gap_ms": 20}}) as answer:
                    heard = []
                    for line in answer.iter_lines():
                        if not heard:
                            tell("piece")
                        heard.append(line)
                tell("end", last=last_data(heard))
            except package.HTTPError as error:
                tell("error", kind=type(error).__name__, message=str(error))

        for line in iter(sys.stdin.readline, ""):
            match line.strip():
                case "stream":
                    threads.append(threading.Thread(target=stream))
                    threads[-1].start()
                case "ask":
                    ask("GET", "/v1/info")
                case "post":
                    ask("POST", "/v1/messages/1/feedbacks", json={"rating": "like"})
        for thread in threads:
            thread.join()


def websockets(url):
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async def run():
        async for socket in connect(url.replace("http://", "ws://") + "/socket.io/", process_exception=failed):
            try:
                await socket.send("hello")
                tell("open", heard=await socket.recv())
                await socket.recv()
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else None
                tell("closed", kind=type(closed).__name__, code=code, reason=closed.rcvd.reason if closed.rcvd else None)

    def failed(error):
        from websockets.client import process_exception

        response = getattr(error, "response", None)
        tell("failed", kind=type(error).__name__, status=response.status_code if response else None)
        return process_exception(error)

    asyncio.run(run())


CLIENTS = {client.__name__: client for client in (openai, anthropic, dify, requests, aiohttp, httpx, websockets)}
CLIENTS[sys.argv[1]](*sys.argv[2:])
