// The service, as functions. A token is asked for once and kept for this tab.

const KEY = "melody-token";

export class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function call(method, path, body, type = "application/json") {
  const headers = { ...authorization() };
  if (body !== undefined) headers["Content-Type"] = type;
  const content = body === undefined || body instanceof Blob ? body : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: content });
  } catch {
    throw new Problem("The server cannot be reached.", 0);
  }
  if (answer.status === 401) {
    await askForToken();
    return call(method, path, body, type);
  }
  if (!answer.ok) throw new Problem(await reason(answer), answer.status);
  return answer;
}

export const json = async (...request) => (await call(...request)).json();

/** Calls `told(job)` with every change of a job; resolves with its last state. Goes on where the connection breaks. */
export async function follow(id, told) {
  let job, broken = 0;
  for (;;) {
    try {
      const answer = await call("GET", `/v1/jobs/${id}/events`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (text + value).split("\n\n");
        text = parts.pop();
        for (const part of parts) {
          const data = part.split("\n").find((line) => line.startsWith("data: "));
          if (data) told((job = JSON.parse(data.slice(6))));
        }
      }
      broken = 0;
    } catch (problem) {
      if (problem.status === 404 || ++broken > 5) throw problem;
    }
    if (job && ["done", "failed", "cancelled"].includes(job.state)) return job;
    await new Promise((resume) => setTimeout(resume, 500 + 1000 * broken));
  }
}

export async function save(path) {
  const answer = await call("GET", path);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name ? name[1] : "music";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function authorization() {
  const token = sessionStorage.getItem(KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

let asking = null;

function askForToken() {
  asking ??= new Promise((given) => {
    const dialog = document.getElementById("ask");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, document.getElementById("token").value.trim());
      asking = null;
      given();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The server answers ${answer.status}.`;
  }
}
