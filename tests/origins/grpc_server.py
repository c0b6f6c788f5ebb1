"""A gRPC service without a schema: each kind of call, on bytes; and, on a port of its own, HTTP/1.1 for probes. It prints both ports.

Argument: the server's name, with which every answer begins.
"""

import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc

NAME = sys.argv[1].encode()


def once(request, context):
    if request == b"fail":
        context.set_trailing_metadata([("why", "asked-to")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as it was asked to: 50 % of \u00fcbel")
    return NAME + b" " + request


def count(request, context):
    for number in range(int(request)):
        yield NAME + b" %d" % number


def gather(requests, context):
    return NAME + b" %d" % sum(len(request) for request in requests)


def echo(requests, context):
    for request in requests:
        yield NAME + b" " + request


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


METHODS = {
    "Once": grpc.unary_unary_rpc_method_handler(once),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Gather": grpc.stream_unary_rpc_method_handler(gather),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", METHODS)])
health = HTTPServer(("127.0.0.1", 0), Health)
threading.Thread(target=health.serve_forever, daemon=True).start()
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, health.server_port, flush=True)
server.wait_for_termination()
