"""Makes each kind of gRPC call and prints what came of it as JSON.

Arguments: the address, and a PEM file with the authority to trust; without the latter it speaks in the clear.
"""

import json
import sys
import time

import grpc

address, *authority = sys.argv[1:]
if authority:
    options = [("grpc.ssl_target_name_override", "dify.example.com")]
    with open(authority[0], "rb") as file:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()), options)
else:
    channel = grpc.insecure_channel(address)


def texts(answers):
    return [answer.decode() for answer in answers]


once = channel.unary_unary("/test.Service/Once")
echo = channel.stream_stream("/test.Service/Echo")


def talk():
    """Says the next word only once the last one has been answered: nothing on the way may wait for more."""
    heard = []

    def words():
        for number in range(5):
            while len(heard) < number:
                time.sleep(0.001)
            yield b"word %d" % number

    for answer in echo(words(), timeout=10):
        heard.append(answer.decode())
    return heard


def failure(call, request):
    try:
        call(request, timeout=10)
    except grpc.RpcError as error:
        return [error.code().name, error.details(), dict(error.trailing_metadata()).get("why")]


print(json.dumps({
    "once": once(b"hello", timeout=10).decode(),
    "large": len(once(b"x" * 3_000_000, timeout=10)),
    "count": texts(channel.unary_stream("/test.Service/Count")(b"5", timeout=10)),
    "gather": channel.stream_unary("/test.Service/Gather")(iter([b"x" * 100_000] * 20), timeout=10).decode(),
    "talk": talk(),
    "fail": failure(once, b"fail"),
    "unknown": failure(channel.unary_unary("/test.Service/Unknown"), b""),
    "many": len({once.future(b"%d" % number).result(timeout=10) for number in range(200)}),
}))
