"""Many clients of a running `melody serve`: pieces, edits of uploads, cancels, listeners that leave, garbage.

    melody serve --port 8000 &
    python -m tests.benchmarks.serve_load --url http://127.0.0.1:8000 --clients 50 --minutes 5

Prints a table of latencies and what became of all accepted requests, and the server's memory over time. Ends with exit
code 1 where an accepted request was lost, or the server answered with an error of its own. Every client has an address of
its own (X-Forwarded-For, which the server believes from this machine).
"""

import argparse
import asyncio
import collections
import io
import random
import re
import sys
import time

import httpx2 as httpx
import numpy as np
import soundfile

FINAL = ("done", "failed", "cancelled")
GARBAGE = [b"", b"{", b"\x00" * 999, b'{"prompt": 3}', b'{"prompt": "a", "settings": {"steps": "many"}}', b"[" * 9999]
ODD_SOUNDS = [b"", b"RIFF" * 99, b"OggS" + b"\x00" * 999, b"\xff\xfb" * 5000, b"ID3" * 999]


class Load:
    """All clients together, and what they saw."""

    def __init__(self, url: str, seconds: float, steps: int, length: float):
        self.url, self.begun = url, time.monotonic()
        self.until = self.begun + seconds
        self.settings = {"seconds": length, "steps": steps}
        self.latencies: dict[str, list[float]] = collections.defaultdict(list)
        self.answers: collections.Counter[int] = collections.Counter()
        self.accepted: dict[str, str] = {}  # job -> its last known state
        self.faults: list[str] = []
        self.memory: list[dict[str, float]] = []

    async def client(self, number: int) -> None:
        """One client: one thing after the other, at random."""
        luck = random.Random(number)
        kinds = [(self.piece, 50), (self.edit, 15), (self.change_of_mind, 12), (self.garbage, 15), (self.leave, 6)]
        kinds.append((self.listen, 2))
        headers = {"X-Forwarded-For": f"10.0.{number // 250}.{number % 250}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=180) as http:
            while time.monotonic() < self.until:
                (kind,) = luck.choices([k for k, _ in kinds], [w for _, w in kinds])
                try:
                    await kind(http, luck)
                except httpx.HTTPError as error:
                    self.faults.append(f"{kind.__name__}: {error!r}")
                await asyncio.sleep(luck.uniform(0, 1))

    async def ask(self, name: str, http: httpx.AsyncClient, method: str, path: str, **options) -> httpx.Response:
        begun = time.monotonic()
        answer = await http.request(method, path, **options)
        self.latencies[name].append(time.monotonic() - begun)
        self.answers[answer.status_code] += 1
        if answer.status_code >= 500 and answer.status_code != 503:
            self.faults.append(f"{name}: {answer.status_code} {answer.text[:100]}")
        if answer.status_code == 202:
            self.accepted[answer.json()["id"]] = answer.json()["state"]
        if answer.status_code in (429, 503):
            await asyncio.sleep(min(5, float(answer.headers.get("retry-after", 1))))
        return answer

    async def ended(self, http: httpx.AsyncClient, id: str) -> dict:
        while True:
            answer = await http.get(f"/v1/jobs/{id}", params={"wait": 20})
            if answer.status_code != 200:
                self.accepted[id] = "lost"
                self.faults.append(
                    f"lost after {time.monotonic() - self.begun:.0f} s: {answer.status_code} {answer.text}"
                )
                return {"state": "lost", "takes": []}
            self.accepted[id] = answer.json()["state"]
            if self.accepted[id] in FINAL:
                return answer.json()

    async def piece(self, http: httpx.AsyncClient, luck: random.Random) -> None:
        begun = time.monotonic()
        body = {"prompt": f"a {luck.choice(['slow', 'fast'])} waltz for solo violin", "settings": self.settings}
        answer = await self.ask("asking", http, "POST", "/v1/generate", json=body)
        if answer.status_code == 202:
            await self.fetched(
                http, await self.ended(http, answer.json()["id"]), "piece, from asking to its end", begun
            )

    async def fetched(self, http: httpx.AsyncClient, job: dict, name: str, begun: float) -> None:
        if job["state"] == "done":
            self.latencies[name].append(time.monotonic() - begun)
            sound = await self.ask("fetching the sound", http, "GET", f"/v1/takes/{job['takes'][0]}/audio")
            if sound.status_code != 200 or len(sound.content) < 1000:
                self.faults.append(f"no sound of a finished piece: {sound.status_code}")
        elif job["state"] == "failed":
            self.faults.append(f"{name}: failed: {job['error']}")

    async def edit(self, http: httpx.AsyncClient, luck: random.Random) -> None:
        rate, kind = luck.choice([(24_000, "WAV"), (44_100, "FLAC"), (48_000, "OGG")])
        buffer = io.BytesIO()
        time_ = np.arange(round(rate * self.settings["seconds"])) / rate
        soundfile.write(buffer, 0.3 * np.sin(2 * np.pi * luck.choice([220, 330, 440]) * time_), rate, format=kind)
        sent = await self.ask("uploading", http, "POST", "/v1/takes", content=buffer.getvalue(), headers=AUDIO)
        if sent.status_code != 201:
            return (
                self.faults.append(f"upload: {sent.status_code} {sent.text[:100]}") if sent.status_code != 503 else None
            )
        begun, verb = time.monotonic(), luck.choice(["vary", "inpaint"])
        body = {"take": sent.json()["id"], "settings": {"steps": self.settings["steps"]}}
        body |= {"strength": 0.5} if verb == "vary" else {"spans": [[0.5, 1.5]]}
        answer = await self.ask("asking", http, "POST", f"/v1/{verb}", json=body)
        if answer.status_code == 202:
            await self.fetched(http, await self.ended(http, answer.json()["id"]), "edit, from asking to its end", begun)

    async def change_of_mind(self, http: httpx.AsyncClient, luck: random.Random) -> None:
        answer = await self.ask("asking", http, "POST", "/v1/generate", json={"prompt": "a", "settings": self.settings})
        if answer.status_code == 202:
            await asyncio.sleep(luck.uniform(0, 3))
            await self.ask("cancelling", http, "DELETE", f"/v1/jobs/{answer.json()['id']}")
            await self.ended(http, answer.json()["id"])

    async def garbage(self, http: httpx.AsyncClient, luck: random.Random) -> None:
        path = luck.choice(["generate", "continue", "inpaint", "vary", "streams"])
        await self.ask("refusing garbage", http, "POST", f"/v1/{path}", content=luck.choice(GARBAGE), headers=JSON)
        await self.ask("refusing odd sounds", http, "POST", "/v1/takes", content=luck.choice(ODD_SOUNDS), headers=AUDIO)
        await self.ask("refusing garbage", http, "GET", f"/v1/takes/{luck.random()}/audio?format=exe")
        reader, writer = await asyncio.open_connection(*re.findall(r"//([^:/]+):(\d+)", self.url)[0])
        cut = b"POST /v1/takes HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: 99999\r\n\r\nRIFF"
        writer.write(luck.choice([cut, luck.randbytes(200), b"GET / HTTP/9\r\n\r\n", b"\r\n\r\n"]))
        await writer.drain()
        writer.close()

    async def leave(self, http: httpx.AsyncClient, luck: random.Random) -> None:
        """Listens to a job's events, and goes in the middle."""
        answer = await self.ask("asking", http, "POST", "/v1/generate", json={"prompt": "a", "settings": self.settings})
        if answer.status_code == 202:
            async with http.stream("GET", f"/v1/jobs/{answer.json()['id']}/events") as events:
                async for _ in events.aiter_bytes():
                    break

    async def listen(self, http: httpx.AsyncClient, luck: random.Random) -> None:
        """The first chunk of a stream."""
        begun = time.monotonic()
        body = {"prompt": "slow strings", "settings": {"steps": self.settings["steps"]}, "format": "mp3"}
        async with http.stream("POST", "/v1/streams", json=body) as sound:
            self.answers[sound.status_code] += 1
            async for _ in sound.aiter_bytes():
                self.latencies["first chunk of a stream"].append(time.monotonic() - begun)
                break

    async def watch(self) -> None:
        """The server's memory and what it holds, every five seconds."""
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as http:
            while True:
                text = (await http.get("/metrics")).text
                self.memory.append({name: float(re.findall(rf"^{name} (\S+)", text, re.M)[0]) for name in HELD})
                await asyncio.sleep(5)

    async def run(self, clients: int) -> None:
        watcher = asyncio.create_task(self.watch())
        await asyncio.gather(*(self.client(number) for number in range(clients)))
        async with httpx.AsyncClient(base_url=self.url, timeout=180) as http:
            for id in [id for id, state in self.accepted.items() if state not in FINAL]:
                await self.ended(http, id)
        await asyncio.sleep(6)
        watcher.cancel()


HELD = ("process_resident_memory_bytes", "melody_takes_bytes", "melody_programs")
AUDIO, JSON = {"Content-Type": "audio/wav"}, {"Content-Type": "application/json"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of every piece")
    args = parser.parse_args()
    load = Load(args.url, 60 * args.minutes, args.steps, args.seconds)
    asyncio.run(load.run(args.clients))
    print(f"{args.clients} clients, {args.minutes:g} minutes, pieces of {args.seconds:g} s in {args.steps} steps\n")
    print("| what | times | median (s) | 95 % (s) | longest (s) |\n|---|---|---|---|---|")
    for name, values in sorted(load.latencies.items()):
        middle, most = np.quantile(values, [0.5, 0.95])
        print(f"| {name} | {len(values)} | {middle:.3f} | {most:.3f} | {max(values):.3f} |")
    states = collections.Counter(load.accepted.values())
    print(f"\naccepted {len(load.accepted)}: {dict(states)}; answers: {dict(sorted(load.answers.items()))}")
    every = load.memory[::6]
    for name, unit in zip(HELD, (2**20, 2**20, 1), strict=True):
        print(f"{name}{' (MiB)' * (unit > 1)}, every 30 s:", *(f"{found[name] / unit:.0f}" for found in every))
    lost = len(load.accepted) - sum(states[state] for state in FINAL)
    print(f"lost: {lost}; faults: {len(load.faults)}", *load.faults[:10], sep="\n")
    return int(bool(lost or load.faults))


if __name__ == "__main__":
    sys.exit(main())
