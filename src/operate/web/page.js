"use strict";
// Whatever a component or node calls itself becomes text, never markup.
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let former = null;

function make(kind, attributes, text, space) {
  const element = space ? document.createElementNS(space, kind) : document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function table(id, head, rows) {
  const line = (kind, cells) => {
    const row = make("tr", {});
    row.append(...cells.map((cell) => make(kind, {}, cell)));
    return row;
  };
  byId(id).replaceChildren(line("th", head), ...rows.map((cells) => line("td", cells)));
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) { bytes /= 1024; at += 1; }
  return (at ? bytes.toFixed(1) : bytes) + " " + units[at];
}

// Rates are those since the former picture of the same process.
function rate(now, of) {
  if (!former || former.pid !== now.pid || now.uptime_us <= former.uptime_us) return null;
  return Math.max(0, of(now) - of(former)) / (now.uptime_us - former.uptime_us) * 1e6;
}
const figure = (value) => value === null ? "-" : Math.round(value).toString();
const counter = (name) => (status) => status.counters.filter((c) => c.name === name).reduce((sum, c) => sum + c.value, 0);

function member(status, name) {
  return (status.mesh ? status.mesh.members : []).find((m) => m.name === name) || {};
}
const messages = (name, way) => (status) => (member(status, name).link || {})[way] || 0;

function drawMesh(status) {
  byId("mesh").hidden = !status.mesh;
  if (!status.mesh) return;
  const others = status.mesh.members, shapes = [], centre = [360, 200];
  others.forEach((other, index) => {
    const angle = 2 * Math.PI * index / others.length - Math.PI / 2;
    const [x, y] = [centre[0] + 290 * Math.cos(angle), centre[1] + 165 * Math.sin(angle)];
    const kind = other.state === "ready" ? "ready" : "gone";
    shapes.unshift(make("line", { x1: centre[0], y1: centre[1], x2: x, y2: y, class: kind }, undefined, SVG));
    shapes.push(make("circle", { cx: x, cy: y, r: 7, class: kind }, undefined, SVG));
    shapes.push(make("text", { x, y: y + 22 }, other.name + (other.state === "ready" ? "" : ", " + other.state), SVG));
    const [sent, got] = ["messages_sent", "messages_received"].map((way) => figure(rate(status, messages(other.name, way))));
    shapes.push(make("text", { x: (x + centre[0]) / 2, y: (y + centre[1]) / 2 }, sent + "/s out, " + got + "/s in", SVG));
  });
  shapes.push(make("circle", { cx: centre[0], cy: centre[1], r: 10 }, undefined, SVG));
  shapes.push(make("text", { x: centre[0], y: centre[1] + 26 }, status.node, SVG));
  byId("map").replaceChildren(...shapes);
  const queue = (link, at) => link && link.lanes[at] ? size(link.lanes[at].queue_bytes) + (link.lanes[at].served ? "" : ", down") +
    (link.lanes[at].relay ? ", through " + link.lanes[at].relay : "") : "-";
  table("members", ["node", "state", "round trip", "users", "components", "control lane", "data lane"], others.map((m) =>
    [m.name, m.state, m.link && m.link.round_trip_us ? (m.link.round_trip_us / 1000).toFixed(2) + " ms" : "-", m.rows, m.seats,
      queue(m.link, 0), queue(m.link, 1)]));
}

function drawStatus(status) {
  byId("node").textContent = document.title = status.node + " · jidmesh " + status.version;
  byId("health").textContent = status.health;
  byId("health").className = status.health === "ok" ? "" : "bad";
  const missing = status.not_ready.concat((status.mesh ? status.mesh.unreached : []).map((peer) => peer.address + ": " + peer.why));
  byId("missing").replaceChildren(...missing.map((text) => make("li", {}, text)));
  const [coming, going] = ["jidmesh_frames_received_total", "jidmesh_frames_sent_total"].map((name) => figure(rate(status, counter(name))));
  byId("sums").textContent = coming + " frames/s in, " + going + "/s out; " + status.users + " users with " + status.sessions + " sessions; " +
    size(status.queue_bytes) + " wait for components, " + size(status.held_bytes) + " held";
  drawMesh(status);
  const frames = (seat, way) => figure(rate(status, (s) => (s.seats.find((other) => other.id === seat.id) || {})[way] || 0));
  table("links", ["link", "kind", "state", "shard", "frames/s in", "out", "queue", "sessions", "remote"], status.seats.map((seat) =>
    [seat.id, seat.kind, seat.state, seat.shard, frames(seat, "frames_in"), frames(seat, "frames_out"), size(seat.queue_bytes), seat.sessions, seat.remote]));
  const losses = status.counters.filter((c) => c.value && /^jidmesh_(dropped|bounced|auth_failed|bad_input|conflicts|links_lost|in_doubt)/.test(c.name));
  const now = (loss) => figure(rate(status, (s) => (s.counters.find((c) => c.name === loss.name && c.labels === loss.labels) || { value: 0 }).value));
  table("losses", ["what", "per second", "in all"], losses.map((loss) => [loss.name + " " + loss.labels, now(loss), loss.value]));
  former = status;
}

function chart(title, points, show) {
  const most = Math.max(1, ...points.map((point) => point[1]));
  const line = points.map(([ago, value]) => (340 - ago / 3600 * 340).toFixed(1) + "," + (78 - value / most * 74).toFixed(1)).join(" ");
  const drawing = make("svg", { viewBox: "0 0 340 80", width: 340, height: 80, role: "img", "aria-label": title }, undefined, SVG);
  drawing.append(make("polyline", { points: line }, undefined, SVG));
  const box = make("figure", {});
  const last = points.length ? points[points.length - 1][1] : 0;
  box.append(drawing, make("figcaption", {}, title + ": " + show(last) + " now, " + show(points.length ? most : 0) + " at most"));
  return box;
}

function drawHistory(samples) {
  const end = samples.length ? samples[samples.length - 1].at_s : 0;
  const level = (name) => samples.map((sample) => [end - sample.at_s, sample[name]]);
  const slope = (name) => samples.slice(1).map((sample, index) => {
    const before = samples[index];
    return [end - sample.at_s, Math.max(0, sample[name] - before[name]) / Math.max(1, sample.at_s - before.at_s)];
  });
  const whole = (value) => Math.round(value).toString();
  byId("history").replaceChildren(chart("frames/s in", slope("frames_in"), whole), chart("frames/s out", slope("frames_out"), whole),
    chart("sessions", level("sessions"), whole), chart("bytes that wait", level("queue_bytes"), (value) => size(Math.round(value))),
    chart("dropped or sent back/s", slope("losses"), whole));
}

async function ask(path, then) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(answer.status);
  then(await answer.json());
}

async function renew() {
  if (document.hidden) return;
  try {
    await ask("/page/status", drawStatus);
    await ask("/page/history", drawHistory);
  } catch (error) {
    byId("health").textContent = "the node does not answer (" + error.message + ")";
    byId("health").className = "bad";
  }
}

renew();
setInterval(renew, 2000);
document.addEventListener("visibilitychange", renew);
