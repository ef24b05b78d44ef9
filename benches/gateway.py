"""gateway.py BINARY forward | cluster | many [WORKSPACES]: what the gateway costs.

forward: requests to open a page, sent by wrk straight to a launcher, through nginx as a reverse proxy, and through the gateway.
    The launcher is a stand-in (nginx with a fixed answer), because a real one opens one page at a time. Needs nginx and wrk.
cluster: 1,000 workspaces on a real API server and 200 page clients: memory, idle CPU, and the time from a change in the cluster to
    every page. Run it through image/kubernetes/server.sh:
    image/kubernetes/server.sh target/kubernetes python3 benches/gateway.py BINARY cluster
many: 100,000 workspaces (or WORKSPACES) on a stand-in for the API server, which a real one of this size would be too slow to
    fill: memory, what the first list and a list after a lost watch cost, and the time from a change to the page.
"""

import asyncio
import http.server
import json
import os
import pathlib
import queue
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

CALLER = "caller-0123456789abcdef"
LAUNCHER = "launcher-0123456789abcdef"
LABEL = "kasm-void.kbve.com/workspace"
HERTZ = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def secret(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def listens(port):
    end = time.time() + 30
    while time.time() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on {port}")


def cpu(pid):
    """CPU time in seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / HERTZ


class Gateway:
    def __init__(self, binary, work, fields):
        self.port = free_port()
        tokens = secret(work / "tokens", f"bench {CALLER}\n")
        settings = work / "gateway.ron"
        settings.write_text(f'Gateway(listen: "127.0.0.1:{self.port}", tokens: "{tokens}", {fields})')
        log = open(work / "log", "w")
        self.process = subprocess.Popen([binary, "gateway", "--config", settings], stdout=log, stderr=log)
        listens(self.port)

    def memory(self):
        """Resident memory in MiB."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def cpu(self):
        return cpu(self.process.pid)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def forward(binary, work):
    upstream, proxy = free_port(), free_port()
    (work / "nginx.conf").write_text(f"""
worker_processes 1; daemon off; error_log {work}/error.log; pid {work}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_body_temp_path {work}/a; proxy_temp_path {work}/b; fastcgi_temp_path {work}/c;
    uwsgi_temp_path {work}/d; scgi_temp_path {work}/e; keepalive_requests 1000000;
    upstream launcher {{ server 127.0.0.1:{upstream}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{upstream}; default_type application/json;
        location /open {{ return 200 '{{"ok":true,"frameId":"F","outcome":"committed","ms":7}}'; }}
    }}
    server {{
        listen 127.0.0.1:{proxy};
        location / {{
            proxy_pass http://launcher/open; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer {LAUNCHER}";
        }}
    }}
}}""")
    nginx = subprocess.Popen(["nginx", "-c", work / "nginx.conf", "-p", work])
    listens(proxy)
    token = secret(work / "token", LAUNCHER)
    desk = f'"desk": Workspace(launcher: "127.0.0.1:{upstream}", token: "{token}")'
    gateway = Gateway(binary, work, f"requests_per_second: 100000, workspaces: {{ {desk} }}")
    script = work / "post.lua"
    script.write_text(f"""wrk.method = "POST"
wrk.body = '{{"url":"https://example.com/"}}'
wrk.headers["Authorization"] = "Bearer {CALLER}"
""")
    places = {
        "launcher itself": f"http://127.0.0.1:{upstream}/open",
        "nginx": f"http://127.0.0.1:{proxy}/dashboard/kasm/launch-url/desk",
        "gateway": f"http://127.0.0.1:{gateway.port}/dashboard/kasm/launch-url/desk",
    }
    worker = int(pathlib.Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text())
    results = {name: {"rate": [], "p50": [], "p99": []} for name in places}
    used = {name: [0, 0, 0] for name in places}  # requests, CPU of nginx and of the gateway
    for _ in range(5):  # in turns, so that a busy moment meets all of them
        for name, url in places.items():
            before = cpu(worker), gateway.cpu()
            said = subprocess.run(["wrk", "-t1", "-c8", "-d4s", "--latency", "-s", script, url], capture_output=True, text=True, check=True).stdout
            if "Non-2xx" in said:
                raise SystemExit(f"{name}: {said}")
            now = int(re.search(r"(\d+) requests in", said)[1]), cpu(worker) - before[0], gateway.cpu() - before[1]
            used[name] = [sum(pair) for pair in zip(used[name], now)]
            rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])
            results[name]["rate"].append(rate)
            for part in ("50", "99"):
                value, unit = re.search(rf"{part}%\s+([\d.]+)(us|ms|s)", said).groups()
                results[name]["p" + part].append(float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit])
    for name, found in results.items():
        median = {key: statistics.median(values) for key, values in found.items()}
        print(f"{name:16} {median['rate']:8.0f}/s   p50 {median['p50']:.2f} ms   p99 {median['p99']:.2f} ms")
    # The worker of nginx is the launcher too, so what the launcher costs is taken off.
    each = lambda name, place: used[name][place] / used[name][0] * 1e6
    print(f"CPU for each request: nginx {each('nginx', 1) - each('launcher itself', 1):.0f} us, gateway {each('gateway', 2):.0f} us")
    rate = lambda name: statistics.median(results[name]["rate"])
    print(f"gateway / nginx: {rate('gateway') / rate('nginx'):.2f} of the rate; memory {gateway.memory():.1f} MiB")
    gateway.end()
    nginx.terminate()
    nginx.wait()


class Api:
    """The API server of KUBECONFIG, as image/kubernetes/server.sh writes it."""

    def __init__(self):
        self.server = os.environ["SERVER"]
        self.token = re.search(r'token: "(\w+)"', pathlib.Path(os.environ["KUBECONFIG"]).read_text())[1]
        self.tls = ssl.create_default_context(cafile=os.environ["SERVER_CA"])

    def ask(self, method, path, body=None, kind="application/json"):
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        request = urllib.request.Request(self.server + path, json.dumps(body).encode() if body else None, headers, method=method)
        with urllib.request.urlopen(request, context=self.tls) as answer:
            return json.load(answer)

    def workspace(self, name, launcher):
        metadata = {"name": name, "labels": {LABEL: name}, "annotations": {"kasm-void.kbve.com/token-secret": "vnc"}}
        template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "x", "image": "x:1"}]}}
        spec = {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": template}
        self.ask("POST", "/apis/apps/v1/namespaces/kasm/deployments", {"metadata": metadata, "spec": spec})
        service = {"selector": {"app": name}, "ports": [{"name": "nav-shim", "port": launcher}]}
        self.ask("POST", "/api/v1/namespaces/kasm/services", {"metadata": metadata, "spec": service})

    def scale(self, name, replicas):
        path = f"/apis/apps/v1/namespaces/kasm/deployments/{name}/scale"
        self.ask("PATCH", path, {"spec": {"replicas": replicas}}, "application/merge-patch+json")


async def page(port, seen, ready):
    """A client of the events. Calls seen(name) for each changed workspace once it has the list."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(f"GET /dashboard/kasm/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CALLER}\r\n\r\n".encode())
    complete, status = False, await reader.readline()
    if b" 200 " not in status:
        raise SystemExit(f"no events: {status}")
    while line := await reader.readline():
        if line.startswith(b"data: "):
            piece = json.loads(line[6:])
            if complete:
                for workspace in piece["changed"]:
                    seen(workspace["name"])
            elif not piece["more"] and piece["cluster"]["state"] == "live":
                complete = True
                ready()


async def measure(api, gateway, workspaces, pages):
    arrived, ready = {}, []
    seen = lambda name: arrived.setdefault(name, []).append(time.perf_counter())
    clients = [asyncio.create_task(page(gateway.port, seen, lambda: ready.append(1))) for _ in range(pages)]
    while len(ready) < pages:
        await asyncio.sleep(0.05)
        for client in clients:
            if client.done():
                client.result()
                raise SystemExit("a page lost its events")
    await asyncio.sleep(3)
    memory, before = gateway.memory(), gateway.cpu()
    await asyncio.sleep(30)
    print(f"{workspaces} workspaces, {pages} pages: {memory:.1f} MiB, {(gateway.cpu() - before) / 30:.2%} of a core idle")
    first, last = [], []
    for number in range(40):
        name = f"w{number:04}"
        began = time.perf_counter()
        await asyncio.to_thread(api.scale, name, 1)
        answered = time.perf_counter() - began
        while len(arrived.get(name, [])) < pages:
            await asyncio.sleep(0.002)
        times = sorted(at - began for at in arrived[name])
        first.append(times[0])
        last.append(times[-1])
        await asyncio.sleep(0.3)
    ms = lambda values: f"{statistics.median(values) * 1000:.1f} ms"
    print(f"from the request to scale to the first page {ms(first)}, to the last {ms(last)} (the API server answered the last one in {answered * 1000:.1f} ms)")
    before = gateway.cpu()
    began = time.perf_counter()
    for number in range(200, 400):
        await asyncio.to_thread(api.scale, f"w{number:04}", 1)
    while any(len(arrived.get(f"w{number:04}", [])) < pages for number in range(200, 400)):
        await asyncio.sleep(0.01)
    took = time.perf_counter() - began
    print(f"200 changes in a row reached all pages in {took:.2f} s, and cost {gateway.cpu() - before:.2f} s of CPU")
    for client in clients:
        client.cancel()


def cluster(binary, work, workspaces=1000, pages=200):
    api = Api()
    api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "kasm"}})
    for number in range(workspaces):
        api.workspace(f"w{number:04}", 9998)
    # All pages come from one address.
    gateway = Gateway(binary, work, 'requests_per_second: 100000, kubernetes: Kubernetes(namespaces: ["kasm"])')
    time.sleep(5)
    print(f"{workspaces} workspaces, no page: {gateway.memory():.1f} MiB")
    before = gateway.cpu()
    time.sleep(30)
    print(f"idle: {(gateway.cpu() - before) / 30:.2%} of a core")
    asyncio.run(measure(api, gateway, workspaces, pages))
    gateway.end()


class StandIn(http.server.ThreadingHTTPServer):
    """Serves Services and Deployments like an API server: lists in pages, and watches."""

    daemon_threads = True

    def __init__(self, workspaces):
        super().__init__(("127.0.0.1", 0), StandInRequest)
        self.version = 1
        self.watchers = {"services": [], "deployments": []}
        # With about as much in them as `kubectl` leaves, which is 2 KB for a Deployment.
        self.items = {"services": [], "deployments": []}
        for number in range(workspaces):
            name = f"w{number:06}"
            self.items["services"].append(json.dumps(self.service(name)))
            self.items["deployments"].append(json.dumps(self.deployment(name, 0)))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def metadata(self, name):
        fields = {f"f:field-{number}": {} for number in range(40)}
        managed = [{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "fieldsV1": fields}]
        return {"name": name, "namespace": "kasm", "uid": name, "resourceVersion": str(self.version), "labels": {LABEL: name}, "managedFields": managed}

    def service(self, name):
        ports = [{"name": "nav-shim", "port": 9998}, {"name": "metrics", "port": 9102}]
        return {"metadata": self.metadata(name), "spec": {"clusterIP": "127.0.0.1", "ports": ports}}

    def deployment(self, name, replicas):
        container = {"name": "workspace", "image": "ghcr.io/kbve/kasm-void:0.1.0", "env": [{"name": f"V{number}", "value": "x" * 20} for number in range(12)]}
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}}
        return {"metadata": self.metadata(name), "spec": spec, "status": {"replicas": replicas}}

    def scale(self, name, replicas):
        self.version += 1
        self.tell("deployments", {"type": "MODIFIED", "object": self.deployment(name, replicas)})

    def tell(self, kind, event):
        for watcher in self.watchers[kind]:
            watcher.put(event)

    def lose(self):
        """Every watch is told that its version is gone, and has to list again."""
        self.version += 1
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "too old", "reason": "Expired", "code": 410}
        for kind, watchers in self.watchers.items():
            self.watchers[kind] = []
            for watcher in watchers:
                watcher.put({"type": "ERROR", "object": status})

    def is_watched(self):
        return all(self.watchers.values())


class StandInRequest(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        place, _, query = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(query))
        kind = "services" if place.endswith("services") else "deployments"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if query.get("watch") == "true":
            return self.watch(kind, int(query.get("timeoutSeconds", 60)))
        if "PartialObjectMetadata" in self.headers.get("Accept", ""):
            return self.wfile.write(b'{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"1"},"items":[]}')
        items, first = self.server.items[kind], int(query.get("continue") or 0)
        last = first + int(query.get("limit") or len(items))
        metadata = {"resourceVersion": str(self.server.version)} | ({"continue": str(last)} if last < len(items) else {})
        head = f'{{"kind":"List","apiVersion":"v1","metadata":{json.dumps(metadata)},"items":['
        self.wfile.write((head + ",".join(items[first:last]) + "]}").encode())

    def watch(self, kind, seconds):
        events, end = queue.Queue(), time.time() + seconds
        self.server.watchers[kind].append(events)
        try:
            while (left := end - time.time()) > 0:
                event = events.get(timeout=left)
                self.wfile.write(json.dumps(event).encode() + b"\n")
                self.wfile.flush()
                if event["type"] == "ERROR":
                    return
        except (queue.Empty, OSError):
            pass
        finally:
            if events in self.server.watchers[kind]:
                self.server.watchers[kind].remove(events)


def settled(gateway, ready):
    """Waits until `ready`, and the gateway has nothing more to do. Returns when, and the CPU time so far."""
    while not ready():
        time.sleep(0.05)
    before = gateway.cpu()
    while True:
        at = time.perf_counter()
        time.sleep(1)
        if (now := gateway.cpu()) - before < 0.02:
            return at, now
        before = now


async def first_pages(server, gateway, pages=10, changes=20):
    arrived, ready, took = {}, [], []
    seen = lambda name: arrived.setdefault(name, []).append(time.perf_counter())
    began = time.perf_counter()
    clients = [asyncio.create_task(page(gateway.port, seen, lambda: ready.append(1))) for _ in range(pages)]
    while len(ready) < pages:
        await asyncio.sleep(0.05)
    print(f"{pages} pages have read the whole list after {time.perf_counter() - began:.1f} s: {gateway.memory():.0f} MiB")
    for number in range(changes):
        name = f"w{number:06}"
        began = time.perf_counter()
        server.scale(name, 1)
        while len(arrived.get(name, [])) < pages:
            await asyncio.sleep(0.002)
        took.append(max(arrived[name]) - began)
        await asyncio.sleep(0.2)
    print(f"from a change in the cluster to the last page: {statistics.median(took) * 1000:.0f} ms")
    for client in clients:
        client.cancel()


def many(binary, work, workspaces=100_000):
    server = StandIn(workspaces)
    kubeconfig = secret(work / "kubeconfig", f"""apiVersion: v1
kind: Config
current-context: here
clusters: [{{ name: here, cluster: {{ server: "http://127.0.0.1:{server.server_port}" }} }}]
users: [{{ name: me, user: {{ token: x }} }}]
contexts: [{{ name: here, context: {{ cluster: here, user: me, namespace: kasm }} }}]
""")
    os.environ["KUBECONFIG"] = str(kubeconfig)
    size = sum(len(item) for items in server.items.values() for item in items)
    began = time.perf_counter()
    gateway = Gateway(binary, work, "kubernetes: Kubernetes()")
    at, cpu = settled(gateway, server.is_watched)
    print(f"{workspaces} workspaces, {size / 2**20:.0f} MiB of objects: listed in {at - began:.1f} s, {cpu:.2f} s of CPU; {gateway.memory():.0f} MiB")
    began = time.perf_counter()
    server.lose()
    at, after = settled(gateway, server.is_watched)
    print(f"listed again after a lost watch in {at - began:.1f} s, {after - cpu:.2f} s of CPU; {gateway.memory():.0f} MiB")
    before = gateway.cpu()
    time.sleep(20)
    print(f"idle: {(gateway.cpu() - before) / 20:.2%} of a core")
    asyncio.run(first_pages(server, gateway))
    gateway.end()


if __name__ == "__main__":
    binary, what, *numbers = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        measures = {"forward": forward, "cluster": cluster, "many": many}
        measures[what](os.path.abspath(binary), pathlib.Path(folder), *map(int, numbers))
