"""A real API server of Kubernetes on loopback, with etcd and perhaps the controller manager."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

import yaml

PATIENCE = 120
TOKEN = "loopback"
ASSETS = os.environ.get("KUBEBUILDER_ASSETS", "")


def program(name):
    """Returns the path of a program in KUBEBUILDER_ASSETS or PATH, or None."""
    return shutil.which(name, path=f"{ASSETS}{os.pathsep}{os.environ['PATH']}")


def eventually(check, what):
    """Waits until `check` returns something true, and returns it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """Starts with `with`, and ends its processes."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.processes = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def launch(self, name, *arguments):
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [program(name), *arguments], stdout=log, stderr=log, cwd=self.folder
            )
        self.processes.append(process)
        return process

    def start(self):
        client, peer, secure = free_ports(3)
        self.make_keys()
        self.write_kubeconfig(secure)
        etcd = f"http://127.0.0.1:{client}"
        self.launch(
            "etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        (self.folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        self.launch(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={secure}",
            "--tls-cert-file=server.crt",
            "--tls-private-key-file=server.key",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-signing-key-file=accounts.key",
            "--service-account-key-file=accounts.pub",
            "--service-cluster-ip-range=10.0.0.0/16,fd00::/108",
            # No pod can reach loopback, so there is no endpoint to publish.
            "--endpoint-reconciler-type=none",
        )
        eventually(self.is_ready, f"the API server answers; see {self.folder}/kube-apiserver.log")
        if program("kube-controller-manager"):
            self.launch(
                "kube-controller-manager",
                "--kubeconfig=kubeconfig",
                "--service-account-private-key-file=accounts.key",
                "--use-service-account-credentials=false",
                "--leader-elect=false",
                "--secure-port=0",
            )

    def make_keys(self):
        def openssl(*command):
            subprocess.run(["openssl", *command], cwd=self.folder, check=True, capture_output=True)

        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=kube-apiserver", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", "server.key", "-out", "server.crt"),
        )
        openssl("genrsa", "-out", "accounts.key", "2048")
        openssl("rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")

    def write_kubeconfig(self, port):
        server = {
            "server": f"https://127.0.0.1:{port}",
            "certificate-authority": str(self.folder / "server.crt"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "loopback", "cluster": server}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "loopback", "context": {"cluster": "loopback", "user": "admin"}}],
            "current-context": "loopback",
        }
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(config))

    def is_ready(self):
        for process in self.processes:
            assert process.poll() is None, f"{process.args[0]} ended; see the logs in {self.folder}"
        return self.run("kubectl", "get", "--raw=/readyz", check=False).returncode == 0

    def run(self, name, *arguments, stdin=None, check=True):
        """Runs kubectl or helm, and returns the finished process."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.folder / "kubeconfig"),
            # Neither reads settings of the person who runs the test.
            "HOME": str(self.folder),
        }
        done = subprocess.run(
            [program(name), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=environment,
            timeout=PATIENCE,
        )
        assert not check or done.returncode == 0, f"{name} {' '.join(arguments)}: {done.stderr}"
        return done

    def get(self, kind, name, namespace=None):
        """Returns an object, or None."""
        where = ["--namespace", namespace] if namespace else []
        done = self.run("kubectl", "get", kind, name, *where, "--output=json", "--ignore-not-found")
        return json.loads(done.stdout) if done.stdout else None

    def all(self, kinds, namespace):
        done = self.run("kubectl", "get", kinds, "--namespace", namespace, "--output=json")
        return json.loads(done.stdout)["items"]

    def create(self, *objects, check=True):
        text = yaml.safe_dump_all(objects)
        return self.run("kubectl", "create", "--filename=-", stdin=text, check=check)
