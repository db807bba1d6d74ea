"""A process of a given name with a socket: `NAME serve PORT` or `NAME ask ADDRESS PORT COUNT`.

It begins when a line comes in. `ask` asks COUNT times for each line, says so, and closes its
connection at the end of its input.
"""

import socket
import sys
import threading

SIZE = 100


def answer(stream):
    with stream:
        while data := stream.recv(SIZE):
            stream.sendall(data)


def serve(port):
    listener = socket.create_server(("", port))
    print("listens", flush=True)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=[stream], daemon=True).start()


def ask(address, port, count):
    with socket.create_connection((address, port), timeout=20) as stream:
        while True:
            for _ in range(count):
                stream.sendall(b"x" * SIZE)
                left = SIZE
                while left > 0:
                    left -= len(stream.recv(left))
            print("asked", flush=True)
            if not sys.stdin.readline():
                return


name, verb, *arguments = sys.argv[1:]
with open("/proc/self/comm", "w", encoding="ascii") as file:
    file.write(name)
sys.stdin.readline()
if verb == "serve":
    serve(int(arguments[0]))
else:
    ask(arguments[0], int(arguments[1]), int(arguments[2]))
