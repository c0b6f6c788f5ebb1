"""Makes the calls of an ordinary program with the Python package `dify-client`, and prints what came of each as JSON.

Argument: the base URL of the API.
"""

import json
import sys

from dify_client import ChatClient, CompletionClient


def heard(response):
    """The answer, put together again from its events where it came as a stream."""
    answer, events = "", []
    for line in response.iter_lines(decode_unicode=True):
        if line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            events.append(event["event"])
            answer += event.get("answer", "")
    return {"answer": answer, "events": events}


def told(call, response, content):
    return {"call": call, "status": response.status_code, "instance": response.headers["x-instance"], **content}


def calls(url):
    chat, completion = ChatClient("app-key"), CompletionClient("app-key")
    chat.base_url = completion.base_url = url
    ask = {"inputs": {"events": 3, "gap_ms": 5}, "query": "Who are you?", "user": "ann"}

    response = chat.create_chat_message(**ask, response_mode="blocking")
    yield told("chat blocking", response, {"answer": response.json()["answer"]})
    response = chat.create_chat_message(**ask, response_mode="streaming")
    yield told("chat streaming", response, heard(response))
    response = completion.create_completion_message(ask["inputs"], "blocking", "ann")
    yield told("completion blocking", response, {"answer": response.json()["answer"]})
    response = completion.create_completion_message(ask["inputs"], "streaming", "ann")
    yield told("completion streaming", response, heard(response))
    response = chat.get_application_parameters("ann")
    yield told("parameters", response, {})
    response = chat.get_conversations("ann")
    yield told("conversations", response, {})
    response = chat.file_upload("ann", {"file": ("note.txt", b"x" * 100_000, "text/plain")})
    yield told("upload", response, {})


json.dump(list(calls(sys.argv[1])), sys.stdout)
