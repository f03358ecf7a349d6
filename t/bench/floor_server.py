"""The floor under harpd: a bare TLS server that gives each connection to a process
forked ahead, and does nothing else. No protocol, no limits, no authentication.

Usage: floor_server.py CERTIFICATE KEY; prints its port, ends when its input does.
"""

import collections
import os
import socket
import socketserver
import ssl
import sys
import threading

_STANDBY = 8


class Children:
    """Processes that wait for a line, answer it and exit."""

    def __init__(self):
        self._ready = collections.deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._keep_forking, daemon=True).start()

    def take(self):
        with self._changed:
            self._changed.wait_for(lambda: self._ready)
            child = self._ready.popleft()
            self._changed.notify_all()
            return child

    def _keep_forking(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._ready) < _STANDBY)
            child = self._fork()
            with self._changed:
                self._ready.append(child)
                self._changed.notify_all()

    @staticmethod
    def _fork():
        ours, its = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            if its.recv(65536):
                its.sendall(b'{"harp":1,"stream_result":false}\n{"result":null}\n')
            os._exit(0)
        its.close()
        return pid, ours


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, certificate, key):
        super().__init__(("127.0.0.1", 0), None)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.num_tickets = 0
        self._context.load_cert_chain(certificate, key)
        self._children = Children()

    def finish_request(self, request, client_address):
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._context.wrap_socket(request, server_side=True) as client:
            line = client.recv(65536)
            pid, child = self._children.take()
            with child:
                child.sendall(line)
                while data := child.recv(65536):
                    client.sendall(data)
            os.waitpid(pid, 0)


def main():
    with Server(*sys.argv[1:]) as server:
        print(server.server_address[1], flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()
        os._exit(0)


main()
