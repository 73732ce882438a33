"""The two proxies with the shipped configurations, and clients that work through them."""

import base64
import collections
import http.client
import itertools
import json
import os
import pathlib
import re
import shlex
import socket
import struct
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 40


def until(what, look, seconds=PATIENCE_SECONDS):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(port, method, path, body=None, headers=None, host="127.0.0.1"):
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def is_ready(port, host="127.0.0.1"):
    try:
        return ask(port, "GET", "/api/health/ready", host=host)[0] == 200
    except OSError:
        return False


class Proxy:
    """One of the two, with the shipped configuration and its `drain`. `settings` are what `drain` finds in the environment."""

    process = None

    def script(self, *arguments):
        """`drain`, for a shell."""
        settings = [f"{key}={value}" for key, value in self.settings.items()]
        return shlex.join(["env", *settings, str(ROOT / "manifest" / self.name / "drain"), *arguments])

    def drain(self, *arguments):
        return subprocess.run(["sh", "-c", self.script(*arguments)], capture_output=True, text=True)

    def places(self):
        """Who is in and who is out."""
        return {line.split()[0]: line.split()[2] for line in self.drain("status").stdout.splitlines()}


class Nginx(Proxy):
    name = "nginx"

    def __init__(self, directory, addresses):
        self.directory, self.port = directory / "nginx", free_port()
        self.place = self.directory / "hotgo"
        self.settings = {"HOTGO_PROXY_DIR": self.place}
        self.place.mkdir(parents=True)
        for name, address in addresses.items():
            text = (ROOT / "manifest/nginx/servers" / name).read_text()
            (self.place / name).write_text(re.sub(r"[\d.]+:\d+", address, text))
        self.directory.chmod(0o755)
        text = (ROOT / "manifest/nginx/hotgo.conf").read_text()
        text = text.replace("/etc/nginx/hotgo", str(self.place)).replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        self.write(text.replace("/var/log/nginx", str(self.directory)))

    def write(self, text):
        (self.directory / "hotgo.conf").write_text(text)
        (self.directory / "nginx.conf").write_text(
            f"daemon off; pid {self.directory}/pid; error_log {self.directory}/error.log; worker_processes 2;\n"
            f"events {{ worker_connections 1024; }}\nhttp {{ include {self.directory}/hotgo.conf; }}\n"
        )

    def edit(self, old, new):
        text = (self.directory / "hotgo.conf").read_text()
        assert old in text, old
        self.write(text.replace(old, new))

    def start(self):
        command = ["nginx", "-p", self.directory, "-c", self.directory / "nginx.conf", "-e", self.directory / "error.log"]
        subprocess.run([*command, "-t", "-q"], check=True)
        self.process = subprocess.Popen(command)
        until("nginx listens", lambda: listens(self.port))

    REPEATS_ALL = ("proxy_next_upstream error", "proxy_next_upstream non_idempotent error")


class Haproxy(Proxy):
    name = "haproxy"

    def __init__(self, directory, addresses):
        self.directory, self.port = directory / "haproxy", free_port()
        self.settings = {"HOTGO_PROXY_SOCKET": self.directory / "admin.sock", "HOTGO_PROXY_STATE": self.directory / "state"}
        self.directory.mkdir()
        text = (ROOT / "manifest/haproxy/hotgo.cfg").read_text()
        text = text.replace("192.168.1.10:8000", addresses["a"]).replace("192.168.1.11:8000", addresses["b"])
        text = text.replace("/run/haproxy/admin.sock mode 660", f"{self.directory}/admin.sock mode 600")
        text = text.replace("/var/lib/haproxy/hotgo.state", str(self.directory / "state"))
        text = text.replace("bind :80", f"bind 127.0.0.1:{self.port}")
        text = text.replace("maxconn 20000", "maxconn 2000")  # twice as many descriptors, and a few
        (self.directory / "state").touch()
        (self.directory / "hotgo.cfg").write_text(re.sub(r"^ *(user|group|log /dev/log).*\n", "", text, flags=re.M))

    def edit(self, old, new):
        text = (self.directory / "hotgo.cfg").read_text()
        assert old in text, old
        (self.directory / "hotgo.cfg").write_text(text.replace(old, new))

    def start(self):
        subprocess.run(["haproxy", "-c", "-q", "-f", self.directory / "hotgo.cfg"], check=True)
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(["haproxy", "-db", "-f", self.directory / "hotgo.cfg"], stdout=log, stderr=log)
        until("haproxy listens", lambda: listens(self.port))

    REPEATS_ALL = ("    retry-on conn-failure\n    option", "    retry-on all-retryable-errors\n    option")


def end(process):
    if process and process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Load:
    """GETs and POSTs over connections that are kept; nothing is ever sent twice. What fails is kept, with its words."""

    loads = itertools.count()

    def __init__(self, port, token, robot, readers=3, writers=3, pause_seconds=0.002):
        self.name = f"load-{next(self.loads)}"
        self.port, self.token, self.robot, self.pause_seconds = port, token, robot, pause_seconds
        self.over, self.failed, self.gets, self.posted = threading.Event(), [], 0, []
        self.numbers, self.lock, self.slowest = itertools.count(), threading.Lock(), 0.0
        work = [(self.read,)] * readers + [(self.write,)] * writers
        self.threads = [threading.Thread(target=self.run, args=(*what, i)) for i, what in enumerate(work)]
        for thread in self.threads:
            thread.start()

    def run(self, what, sender):
        connection = None
        for turn in itertools.count():
            if self.over.is_set():
                break
            number = f"{self.name}-{sender}-{next(self.numbers)}"
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
            at = time.monotonic()
            try:
                method, path, body, headers = what(number, turn)
                connection.request(method, path, body, {**self.token, "X-Request-Id": number, **headers})
                answer = connection.getresponse()
                text = answer.read()
                failure = None if 200 <= answer.status < 300 else f"{answer.status} {text[:200]!r}"
                if answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                failure, connection = repr(error), None
            with self.lock:
                self.slowest = max(self.slowest, time.monotonic() - at)
                if failure:
                    self.failed.append((method, number, failure))
                elif method == "POST":
                    self.posted.append((number, json.loads(text)))
                else:
                    self.gets += 1
            time.sleep(self.pause_seconds)

    def read(self, _number, turn):
        return "GET", ("/api/accounts", "/api/orders?limit=5", "/health")[turn % 3], None, {}

    def write(self, number, turn):
        side = "buy" if turn % 2 == 0 else "sell"
        wish = {"robot": self.robot, "action": side, "qty": "0.0001", "order": {"type": "market"}}
        return "POST", "/api/signals", json.dumps(wish), {"Idempotency-Key": number}

    def grows(self):
        """Waits for so many requests that every connection was used again, several times."""
        with self.lock:
            aim = self.gets + 30, len(self.posted) + 30
        until("the load goes on", lambda: self.gets >= aim[0] and len(self.posted) >= aim[1])

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE_SECONDS)


def assert_each_at_one_server_once(load, servers, token):
    """Every POST that was answered has reached one server, once, and no other server knows of it."""
    reached = collections.Counter(number for server in servers for number in server.requests())
    wrong = [(number, reached[number]) for number, _ in load.posted if reached[number] != 1]
    assert not wrong, f"reached the servers not exactly once: {wrong[:5]}"
    connections = [http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_SECONDS) for server in servers]
    for number, answer in load.posted:
        known = []
        for connection in connections:
            connection.request("GET", f"/api/signals/{answer['source']}/{answer['key']}", headers=token)
            response = connection.getresponse()
            response.read()
            known.append(response.status)
        assert sorted(known) == [200, 404], f"{number} was decided by {known}"
    for connection in connections:
        connection.close()


class Closed(AssertionError):
    def __init__(self, payload, op):
        super().__init__(f"closed while waiting for {op}: {payload}")
        self.code = int.from_bytes(payload[:2], "big")


class Websocket:
    def __init__(self, port, token):
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self.stream = self.connection.makefile("rb")
        self.connection.sendall(
            f"GET /api/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            f"Authorization: {token['Authorization']}\r\n\r\n".encode()
        )
        status = self.stream.readline().decode()
        assert " 101 " in status, status
        while self.stream.readline().strip():
            pass
        self.wait_for("welcome")

    def send(self, message):
        self.write(1, json.dumps(message).encode())

    def write(self, opcode, payload):
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self.connection.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)

    def frame(self):
        head = self.stream.read(2)
        assert len(head) == 2, "the websocket broke without a Close"
        length = head[1] & 127
        if length == 126:
            (length,) = struct.unpack("!H", self.stream.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.stream.read(8))
        opcode, payload = head[0] & 15, self.stream.read(length)
        if opcode == 9:
            self.write(10, payload)
        return opcode, payload

    def wait_for(self, op):
        while True:
            opcode, payload = self.frame()
            if opcode == 8:
                raise Closed(payload, op)
            if opcode == 1 and (message := json.loads(payload))["op"] == op:
                return message
