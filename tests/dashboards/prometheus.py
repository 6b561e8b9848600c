"""A real Prometheus."""

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from world import HERE, Process, free_port

RULES = Path(__file__).resolve().parents[2] / "charts" / "usher" / "rules" / "usher.yaml"


class Prometheus(Process):
    """A Prometheus that scrapes the nodes every second, with the rules."""

    def __init__(self, folder: Path, nodes, rules: Path, evaluation: str = "5s"):
        self.port = free_port()
        self.folder = folder
        targets = [f"{HERE}:{node.admin}" for node in nodes]
        scrape = {"job_name": "usher", "static_configs": [{"targets": targets}]}
        if token := nodes[0].token:
            scrape["authorization"] = {"credentials": token}
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": evaluation},
            "rule_files": [str(rules)],
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yml").write_text(json.dumps(settings))

    async def start(self) -> None:
        await self.run(
            "prometheus", f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/tsdb", f"--web.listen-address={HERE}:{self.port}",
            "--enable-feature=exemplar-storage", "--log.level=error", env={"GOMAXPROCS": "1"},
        )  # fmt: skip

    async def ask(self, query: str) -> list[dict]:
        return (await asyncio.to_thread(self.get, "query", query=query))["result"]

    def get(self, path: str, **arguments):
        url = f"http://{HERE}:{self.port}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                # It is starting.
                return {"result": []}
            raise AssertionError(f"{arguments}: {error.read().decode()}") from None
        except OSError:
            return {"result": []}

    def alerts(self, name: str) -> list[dict]:
        """Returns the alerts of this name that are pending or firing."""
        return [one for one in self.get("alerts")["alerts"] if one["labels"]["alertname"] == name]
