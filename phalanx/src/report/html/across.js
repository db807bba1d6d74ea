// What several hops saw of one conversation: path, legs and clocks; a part of `page.js`.

// ---- words -----------------------------------------------------------------------------------

const pathWords = (hops) => hops.join(" → ");
const isBack = (it) => it.path.length && it.path.length === it.return_path.length
  && it.path.every((hop, index) => hop === it.return_path[it.path.length - 1 - index]);
const wayWords = { client_to_server: "to the server", server_to_client: "to the client" };

/** The way there and back, and others that packets took. */
function pathLines(it) {
  const lines = isBack(it) ? [`${pathWords(it.path)}, and back`] : [
    it.path.length && `to the server: ${pathWords(it.path)}`,
    it.return_path.length && `to the client: ${pathWords(it.return_path)}`].filter(Boolean);
  for (const direction of Object.keys(wayWords)) {
    const ways = (it.paths || []).filter((way) => way.direction === direction);
    const total = ways.reduce((sum, way) => sum + way.packets, 0);
    if (ways.length < 2) continue;
    for (const way of ways) {
      lines.push(`${percent(way.packets / total)} ${wayWords[direction]} `
        + `(${some(way.packets, "packets", "packet")}) over ${pathWords(way.hops)}`);
    }
  }
  const { packets, aligned } = it.alignment;
  if (aligned < packets) {
    lines.push(`The way of ${number(packets - aligned)} of ${number(packets)} packets is not `
      + "wholly known.");
  }
  return lines;
}

/** What middleboxes rewrote. */
function rewriteLines(it) {
  const at = (hop, side) => {
    const flow = it.flows.find((one) => one.hop === hop);
    return flow ? end(flow[side]) : "?";
  };
  return (it.rewrites || []).map(({ from, to, fields, host }) => {
    const parts = SIDES.filter((side) => fields.some((name) => name.startsWith(`${side}_`)))
      .map((side) => `the ${side} ${at(from, side)} becomes ${at(to, side)}`);
    if (host) parts.push(`connection tracking of ${host} confirms that`);
    const others = fields.filter((name) => !/^(client|server)_/.test(name)).map(spaced);
    if (others.length) parts.push(`${others.join(", ")} rewritten`);
    return `Between ${from} and ${to}: ${parts.join("; ")}`;
  });
}

/** Where the same exchange goes on beyond a proxy. */
function proxyLines({ proxies }) {
  const chunks = (count) => some(count, "chunks", "chunk") || "no chunks";
  const way = { toward_client: "towards the client", toward_server: "towards the server" };
  return (proxies || []).map((it) => (it.hypothesis
    ? `${it.conversation} may be the same beyond a proxy, ${way[it.side]}: a hypothesis by times `
      + `alone (${some(it.exchanges, "exchanges", "exchange")} within each other, confidence `
      + `${it.confidence.toFixed(2)}).`
    : `${it.conversation} carries the same content beyond a proxy, ${way[it.side]}: `
      + `${chunks(it.client_chunks)} from the client, `
      + `${chunks(it.server_chunks)} from the server.`));
}

function legsTable(it) {
  const columns = [["Lost", (way) => `${number(way.lost)} of ${number(way.packets)}`
      + (way.lost_here_or_beside
        ? `, ${number(way.lost_here_or_beside)} here or beside` : "")],
    ["Overtaken", (way) => number(way.reordered)], ["Copied", (way) => number(way.duplicated)],
    ["Not captured", (way) => number(way.not_captured)],
    ["Unknown", (way) => number(way.unresolved + (way.unresolved_here_or_beside || 0))]];
  const oneWay = ({ delay_ms: delay, delay_error_ms: error }) => {
    if (!delay) return "–";
    return duration(delay.p50) + (error === undefined ? "" : ` ± ${duration(error)}`);
  };
  const rowsOf = (leg) => {
    const ways = [["→", leg.forward], ["←", leg.reverse]].filter(([, way]) => way);
    const { rtt_ms: rtt } = leg;
    return ways.map(([arrow, way], index) => el("tr", null,
      index ? null : el("th", { scope: "row", rowspan: String(ways.length) },
        `${leg.from} – ${leg.to}`),
      index ? null : el("td", { class: "n", rowspan: String(ways.length) },
        rtt ? `${duration(rtt.p50)}, 95 % within ${duration(rtt.p95)}` : "–"),
      el("td", { title: arrow === "→" ? "to the server" : "to the client" }, arrow),
      el("td", { class: "n" }, oneWay(way)),
      columns.map(([, show]) => el("td", { class: "n" }, show(way)))));
  };
  return el("table", { class: "legend legs", "aria-label": "Legs" },
    el("thead", null, el("tr", null, el("th", { scope: "col" }, "Leg"),
      el("th", { scope: "col", class: "n" }, "Round trip"), el("th", { scope: "col" }, "Way"),
      el("th", { scope: "col", class: "n" }, "One way, ± what clocks leave open"),
      columns.map(([name]) => el("th", { scope: "col", class: "n" }, name)))),
    el("tbody", null, it.legs.flatMap(rowsOf)));
}

/** How the clock of a hop reads against that of the reference. */
function clockWords({ id, clock }) {
  if (!clock) return "cannot be compared with the others";
  if (clock.reference === id) return "the reference";
  if (clock.shared) return `the same as that of ${clock.reference}`;
  const apart = ({ offset_ns: ns }) => (ns === 0 ? "equal to"
    : `${duration(Math.abs(ns) / 1e6)} ${ns > 0 ? "ahead of" : "behind"}`);
  const doubt = ({ skew_ppm: skew, error_ns: error }) => (Math.abs(skew) < 0.05 ? ""
    : `, ${skew > 0 ? "gaining" : "losing"} ${Math.abs(skew).toFixed(1)} ppm`)
    + `, within ${duration(error / 1e6)}`;
  return `${apart(clock)} that of ${clock.reference}${doubt(clock)}`
    + (clock.steps || []).map((step) =>
      `; set at ${step.at}: then ${apart(step)} it${doubt(step)}`).join("");
}

function acrossParts(it) {
  if (!it.flows) return [];
  if (it.flows.length < 2) return proxyLines(it).map((line) => el("p", null, line));
  return [el("h3", null, "Path"),
    el("div", { class: "path" }, pathLines(it).map((line, index) =>
      el("p", { class: index ? "faint" : undefined }, line)),
    [...rewriteLines(it), ...proxyLines(it)].map((line) => el("p", null, line))),
    it.legs.length ? el("div", { class: "columns" }, legsTable(it)) : undefined].filter(Boolean);
}
