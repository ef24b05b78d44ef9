#!/usr/bin/env python3
"""growth.py BINARY [APPS ...]: how the costs of a session grow with its apps (1, 10, 100, 1000 and 5000 by default).

For each number of apps: the time until all of them run, memory (PSS with the guard), the time from one app's death to its
replacement, from one edit to the app's new process, of `kasm-void status`, from the death of all apps to all of them running
again, and of the stop. In brackets: the supervisor's CPU time, in ms for each app. A line that is straight has the same number in
brackets everywhere. Needs a process limit of twice the number of apps.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")
APP = 'App(command: "/bin/sleep", args: ["%s"], backoff: Backoff(first: "1ms", jitter: 0.0, stable_after: "10ms"))\n'


class Session:
    def __init__(self, binary, root, apps):
        self.binary, self.root, self.apps = binary, root, apps
        self.manifests = root / "manifests"
        self.manifests.mkdir()
        for number in range(apps):
            self.write(number, "1000000")
        self.environment = {**os.environ, "KASM_VOID_STATE": str(root / "state")}
        log = open(root / "log", "w")
        self.guard = subprocess.Popen([binary, "run", self.manifests], env=self.environment, stdout=log)

    def write(self, number, seconds):
        (self.manifests / f"a{number:05}.ron").write_text(APP % seconds)

    def ask(self):
        answer = subprocess.run([self.binary, "status", "--json"], env=self.environment, capture_output=True, text=True)
        return json.loads(answer.stdout)["apps"] if answer.stdout else []

    def up(self, restarts=0):
        """Waits until all apps run, and have been restarted at least this often. Returns their pids."""
        while True:
            apps = self.ask()
            running = [app["pid"] for app in apps if app["state"] == "Running" and app["restarts"] >= restarts]
            if len(running) == self.apps:
                return running
            time.sleep(0.02)

    def supervisor(self):
        return int(pathlib.Path(f"/proc/{self.guard.pid}/task/{self.guard.pid}/children").read_text().split()[0])

    def children(self):
        pid = self.supervisor()
        return set(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def cpu(self):
        """Seconds."""
        fields = pathlib.Path(f"/proc/{self.supervisor()}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self):
        """MiB."""
        total = 0
        for pid in (self.guard.pid, self.supervisor()):
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])
        return total / 1024

    def replaced(self, act):
        """Seconds from `act` to a child that was not there before."""
        before = self.children()
        began = time.perf_counter()
        act()
        while not self.children() - before:
            time.sleep(0.0001)
        return time.perf_counter() - began


def measure(binary, apps):
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        session = Session(binary, pathlib.Path(folder), apps)
        pids = session.up()
        row = [f"{time.perf_counter() - began:.2f} s ({session.cpu() / apps * 1000:.2f})"]
        time.sleep(2)  # until the memory of the start has been given back
        row.append(f"{session.memory():.1f} MiB")
        deaths, edits, questions = [], [], []
        for turn in range(10):
            time.sleep(0.05)  # an app that dies young has to wait
            pid = pids[turn * 7 % apps]
            deaths.append(session.replaced(lambda: os.kill(pid, signal.SIGKILL)))
            pids = session.up()
        for turn in range(10):
            edits.append(session.replaced(lambda: session.write(turn * 7 % apps, f"20000{turn:02}")))
            session.up()
        for _ in range(10):
            began = time.perf_counter()
            subprocess.run([binary, "status"], env=session.environment, capture_output=True)
            questions.append(time.perf_counter() - began)
        row += [f"{statistics.median(times) * 1000:.1f} ms" for times in (deaths, edits, questions)]
        restarts = {app["name"]: app["restarts"] for app in session.ask()}
        before, began = session.cpu(), time.perf_counter()
        for pid in session.up():
            os.kill(pid, signal.SIGKILL)
        while sum(app["state"] == "Running" and app["restarts"] > restarts[app["name"]] for app in session.ask()) < apps:
            time.sleep(0.02)
        row.append(f"{time.perf_counter() - began:.2f} s ({(session.cpu() - before) / apps * 1000:.2f})")
        began, last = time.perf_counter(), (before := session.cpu())
        session.guard.terminate()
        while session.guard.poll() is None:
            try:
                last = session.cpu()
            except (OSError, IndexError):
                pass  # it has ended
            time.sleep(0.001)
        row.append(f"{time.perf_counter() - began:.2f} s ({(last - before) / apps * 1000:.2f})")
        return row


if __name__ == "__main__":
    binary, *numbers = sys.argv[1:]
    print("| apps | start | memory | one death | one edit | `status` | all killed, all back | stop |")
    print("|---|---|---|---|---|---|---|---|")
    for apps in map(int, numbers or (1, 10, 100, 1000, 5000)):
        print(f"| {apps:,} | " + " | ".join(measure(os.path.abspath(binary), apps)) + " |", flush=True)
