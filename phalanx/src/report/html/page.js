// Draws the report that stands in the page. It asks nothing of any network, and all words of
// packets go through textContent.
"use strict";
(() => {
const parse = (id) => JSON.parse(document.getElementById(id).textContent);
const report = parse("report");
const plots = parse("plots");
const ladders = parse("ladders");
const conversations = report.conversations;
const BUCKETS = ["handshake", "client_idle", "server_think", "receiver_window", "zero_window",
  "fast_recovery", "timeout_recovery", "sender_limited", "path", "close", "unknown"];
const SIDES = ["client", "server"];
// Columns of a segment in the data of a plot, see `html/plot.rs`.
const [FRAME, TIME, SIDE, CLASS, FLAGS, SEQ, LEN, ACK, WINDOW, ACKED, RTT, FLIGHT, REPEATS,
  MARKS, WHY] = Array(15).keys();
const FIN = 1, SYN = 2, RST = 4;
const ROW_HEIGHT = 30;

// ---- words -----------------------------------------------------------------------------------

const clean = (text) => String(text)
  .replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, "\ufffd");
const spaced = (name) => name.replaceAll("_", " ");
const digits = (value) => {
  const size = Math.abs(value);
  return value.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
};
function duration(ms) {
  if (ms === undefined) return "–";
  const size = Math.abs(ms);
  if (size === 0) return "0 s";
  if (size < 1e-3) return `${(ms * 1e6).toFixed(0)} ns`;
  if (size < 1) return `${digits(ms * 1e3)} µs`;
  if (size < 1e3) return `${digits(ms)} ms`;
  if (size < 120e3) return `${digits(ms / 1e3)} s`;
  if (size < 3600e3) return `${Math.floor(ms / 60e3)} min ${Math.floor(ms / 1e3) % 60} s`;
  const hours = Math.floor(ms / 3600e3);
  if (hours < 48) return `${hours} h ${Math.floor(ms / 60e3) % 60} min`;
  return `${number(Math.floor(hours / 24))} d ${hours % 24} h`;
}
function size(bytes) {
  if (bytes === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit + 1 < units.length) {
    bytes /= 1024;
    unit += 1;
  }
  return unit ? `${bytes.toFixed(1)} ${units[unit]}` : `${bytes} B`;
}
function percent(share) {
  if (share === undefined) return "–";
  const value = share * 100;
  if (value === 0) return "0 %";
  return value < 0.1 ? "<0.1 %" : `${value.toFixed(value < 9.95 ? 1 : 0)} %`;
}
const number = (value) => value.toLocaleString("en");
const some = (count, words, one) => (count
  ? `${number(count)} ${count === 1 && one ? one : words}` : undefined);
function end(it) {
  if (!it.port) return it.address;
  return it.address.includes(":") ? `[${it.address}]:${it.port}` : `${it.address}:${it.port}`;
}
const counted = (counts, all) => Object.entries(counts)
  .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
  .map(([name, count]) => (count === all ? spaced(name) : `${number(count)} ${spaced(name)}`))
  .join(", ");

// ---- elements --------------------------------------------------------------------------------

function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child === undefined || child === null) continue;
    element.append(child instanceof Node ? child : clean(child));
  }
  return element;
}

/** Rows of a heading and a value; what was not measured makes no row. */
function facts(rows) {
  const known = rows.filter(([, value]) => value !== undefined && value !== "");
  return el("table", { class: "facts" }, el("tbody", null, known.map(([name, value]) =>
    el("tr", null, el("th", { scope: "row" }, name), el("td", null, value)))));
}

function budgetBar(budget) {
  const total = BUCKETS.reduce((sum, name) => sum + budget[name], 0);
  const spent = BUCKETS.map((name, index) => [name, index, budget[name]])
    .filter(([, , ms]) => ms > 0);
  const label = spent.map(([name, , ms]) => `${spaced(name)} ${percent(ms / total)}`).join(", ");
  const bar = el("div", { class: "budget", role: "img", "aria-label": `Time: ${label}` });
  for (const [name, index, ms] of spent) {
    const title = `${spaced(name)}: ${duration(ms)}, ${percent(ms / total)}`;
    const part = el("span", { class: `b${index}`, title });
    // Growths that sum to less than 1 would not fill the bar.
    part.style.flexGrow = (ms / total) * 1e3;
    bar.append(part);
  }
  return bar;
}

function budgetLegend(budget) {
  const total = BUCKETS.reduce((sum, name) => sum + budget[name], 0);
  const rows = BUCKETS.map((name, index) => [name, index, budget[name]])
    .filter(([, , ms]) => ms > 0).sort((a, b) => b[2] - a[2]);
  return el("table", { class: "legend" }, el("tbody", null, rows.map(([name, index, ms]) =>
    el("tr", null,
      el("td", null, el("span", { class: `swatch b${index}` }), spaced(name)),
      el("td", { class: "n" }, duration(ms)),
      el("td", { class: "n" }, percent(ms / total))))));
}

// ---- what was read ---------------------------------------------------------------------------

function showHops() {
  const place = document.getElementById("hops");
  for (const hop of report.hops) {
    const words = [`hop ${hop.id}`, `${number(hop.packets)} packets`];
    if (hop.first) words.push(`${hop.first} to ${hop.last}`);
    const types = counted(hop.link_types, hop.packets);
    if (types) words.push(types);
    const box = el("div", { class: "hop" }, el("strong", null, hop.source), " ",
      words.join(" · "));
    for (const { from, until } of hop.gaps ?? []) {
      box.append(el("p", { class: "bad" }, `Nothing was recorded from ${from} to ${until}`));
    }
    if (hop.damage) {
      const { offset, frame, reason } = hop.damage;
      box.append(el("p", { class: "bad" },
        `Damaged at byte ${number(offset)}, after frame ${number(frame)}: ${reason}`));
    }
    const unparsed = counted(hop.unparsed);
    if (unparsed) box.append(el("p", { class: "faint" }, `Not in any conversation: ${unparsed}`));
    const notes = counted(hop.notes);
    if (notes) box.append(el("p", { class: "faint" }, `Of the capture: ${notes}`));
    if (report.hops.length > 1) {
      box.append(el("p", { class: "faint" }, `Clock: ${clockWords(hop)}`));
    }
    place.append(box);
  }
  const { totals } = report;
  const evicted = totals.evicted_flows
    ? `, ${number(totals.evicted_flows)} flows ended early to make room` : "";
  const omitted = totals.omitted ? `, ${number(totals.omitted)} of them not in this page` : "";
  const found = some(totals.conversations, "conversations", "conversation") || "no conversations";
  place.append(el("p", null, `${number(totals.packets)} packets, ${size(totals.bytes)}, `
    + `${duration(totals.duration_s * 1e3)}: ${found}${omitted}${evicted}`));
}

// ---- the list --------------------------------------------------------------------------------

function roundTrip({ features }) {
  const parts = [features.rtt_client_min_ms, features.rtt_server_min_ms];
  const known = parts.filter((part) => part !== undefined);
  return known.length ? known.reduce((sum, part) => sum + part, 0) : undefined;
}
function sentAgain({ features, protocol }, side) {
  if (protocol !== "tcp") return undefined;
  const of = (name) => features[`${side}_${name}`] || 0;
  const again = of("retransmitted_packets") + of("holes_filled");
  const sent = Math.max(again, of("data_packets") + of("syns") + of("fins"));
  return sent ? again / sent : undefined;
}
function sentAgainMost(it) {
  const shares = SIDES.map((side) => sentAgain(it, side)).filter((share) => share !== undefined);
  return shares.length ? Math.max(...shares) : undefined;
}
const COLUMNS = [
  ["ID", (it) => conversations.indexOf(it), null],
  ["Protocol", (it) => it.protocol, (it) => it.protocol],
  ["Client", (it) => end(it.client), (it) => end(it.client)],
  ["Server", (it) => end(it.server), (it) => end(it.server)],
  ["State", (it) => it.state, (it) => (it.state === "none" ? "–" : spaced(it.state))],
  ["Time", (it) => it.duration_s, (it) => duration(it.duration_s * 1e3), "n"],
  ["Sent", (it) => it.features.client_bytes, (it) => size(it.features.client_bytes), "n"],
  ["Received", (it) => it.features.server_bytes, (it) => size(it.features.server_bytes), "n"],
  ["RTT", roundTrip, (it) => duration(roundTrip(it)), "n"],
  ["Sent again", sentAgainMost, (it) => percent(sentAgainMost(it)), "n"],
  ["Time went to", null, (it) => it.time_budget_ms && budgetBar(it.time_budget_ms)],
  ["What is wrong", (it) => -it.score, (it) => it.worst_because, "words"],
];
let sorting = { column: COLUMNS.length - 1, sign: 1 };
let chosen = 0;
const rows = conversations.map((it, index) => {
  const row = el("tr", { onclick: () => choose(index), "aria-selected": "false" });
  for (const [name, , show, kind] of COLUMNS) {
    const inner = name === "ID" ? el("button", { type: "button" }, it.id) : show(it);
    row.append(el("td", { class: kind }, inner));
  }
  if (it.score > 0) row.lastChild.classList.add("bad");
  const words = clean([it.id, it.protocol, end(it.client), end(it.server), spaced(it.state),
    it.worst_because, ...it.path].join(" ")).toLowerCase();
  return { it, index, row, words };
});

function showList() {
  const wanted = document.getElementById("filter").value.toLowerCase().split(/\s+/);
  const value = COLUMNS[sorting.column][1];
  const shown = rows.filter(({ words }) => wanted.every((word) => words.includes(word)));
  shown.sort((a, b) => {
    const [left, right] = [value(a.it), value(b.it)];
    // What was not measured stands last either way.
    if (left === undefined || right === undefined) {
      return (left === undefined) - (right === undefined) || a.index - b.index;
    }
    return sorting.sign * ((left > right) - (left < right)) || a.index - b.index;
  });
  document.querySelector("#list tbody").replaceChildren(...shown.map(({ row }) => row));
  document.getElementById("shown").textContent = `${number(shown.length)} of ${rows.length}`;
  document.querySelectorAll("#list th").forEach((heading, column) => {
    const order = sorting.sign > 0 ? "ascending" : "descending";
    heading.setAttribute("aria-sort", column === sorting.column ? order : "none");
    const button = heading.firstChild;
    const arrow = column !== sorting.column ? "" : sorting.sign > 0 ? " ▴" : " ▾";
    button.textContent = COLUMNS[column][0] + arrow;
  });
}

function setUpList() {
  const heading = ([name, value, , kind], column) => el("th", { scope: "col", class: kind },
    el("button", { type: "button", disabled: value ? undefined : "", onclick: () => {
      sorting = { column, sign: sorting.column === column ? -sorting.sign : 1 };
      showList();
    } }, name));
  document.querySelector("#list thead").append(el("tr", null, COLUMNS.map(heading)));
  document.getElementById("filter").addEventListener("input", showList);
  showList();
}

function choose(index) {
  rows[chosen].row.setAttribute("aria-selected", "false");
  chosen = index;
  rows[chosen].row.setAttribute("aria-selected", "true");
  if (location.hash !== `#${index}`) history.replaceState(null, "", `#${index}`);
  showDetail(conversations[index], plots.of[index], ladders[index]);
}

// ---- one conversation ------------------------------------------------------------------------

function times(spread) {
  if (!spread) return undefined;
  if (spread.min === spread.max) return duration(spread.min);
  return `${duration(spread.min)} to ${duration(spread.max)}, median ${duration(spread.p50)}, `
    + `95 % within ${duration(spread.p95)} (${number(spread.count)} measured)`;
}

function ofFeature(features, name) {
  if (!features[`${name}_count`]) return undefined;
  return times(Object.fromEntries(["count", "min", "p50", "p95", "max"].map((part) =>
    [part, features[part === "count" ? `${name}_count` : `${name}_${part}_ms`]])));
}

function summary(it) {
  const { features, turns, capture } = it;
  const capturing = [
    it.starts_mid_stream && "begins in the middle",
    capture.one_way && "has one direction only",
    capture.duplicates && `${number(capture.duplicates)} packets captured twice`,
    capture.unseen_bytes && `lacks ${size(capture.unseen_bytes)} that arrived`,
    capture.cut_packets && `cuts ${number(capture.cut_packets)} packets`,
    ["port", "first_payload", "order"].includes(it.role_basis) && "who is the client is a guess",
  ].filter(Boolean).join(", ");
  const options = (side) => {
    const them = it.options && it.options[side];
    if (!them) return undefined;
    const scale = them.window_scale;
    return [them.mss_bytes ? `MSS ${them.mss_bytes}` : "no MSS",
      scale === undefined ? "no window scale" : `window scale ${scale}`,
      them.sack_permitted ? "SACK" : "no SACK",
      them.timestamps ? "timestamps" : "no timestamps"].join(", ");
  };
  return facts([
    ["State", it.state === "none" ? undefined : spaced(it.state)],
    ["Began", it.start], ["Took", duration(it.duration_s * 1e3)],
    ["Frames", `${it.frames.first} to ${it.frames.last}, at ${it.path[0] || it.return_path[0]}`],
    ["Handshake", features.handshake_rtt_ms === undefined ? undefined
      : `${duration(features.handshake_server_ms)} to the server and back, `
      + `${duration(features.handshake_client_ms)} to the client and back`],
    ["Round trip to the server", ofFeature(features, "rtt_server")],
    ["Round trip to the client", ofFeature(features, "rtt_client")],
    ["Requests", turns.count || turns.is_last_unanswered ? `${number(turns.count)} answered`
      + (turns.is_last_unanswered ? ", the last one not" : "") : undefined],
    ["The server thinks", times(turns.think_ms)], ["Answers take", times(turns.transfer_ms)],
    ["The client idles", times(turns.idle_ms)],
    ["Between datagrams", times(it.datagram_gaps_ms)],
    ["Client's options", options("client")], ["Server's options", options("server")],
    ["Network identifier", it.network_identifier], ["The capture", capturing],
  ]);
}

function sidesTable(it) {
  const { features } = it;
  const value = (side, name) => features[`${side}_${name}`];
  const show = (given, by) => (given === undefined ? "–" : by(given));
  const count = (name, words) => [words, (side) => show(value(side, name), number), name];
  const lines = [
    count("packets", "Packets"), ["Bytes", (side) => show(value(side, "bytes"), size)],
    ["Payload, once", (side) => show(value(side, "unique_bytes"), size)],
    ["Sent again", (side) => percent(sentAgain(it, side))],
    count("fast_retransmissions", "… after duplicate ACKs"),
    count("timeout_retransmissions", "… after a timeout"),
    count("tail_loss_probes", "… as tail-loss probes"),
    count("spurious_retransmissions", "… needlessly"),
    count("holes_filled", "… for a loss before this hop"),
    count("reordered_packets", "Overtaken"), count("network_duplicates", "Copied on the way"),
    count("duplicate_acks", "Duplicate ACKs"), count("zero_windows", "Window closed"),
    count("window_full", "Peer's window filled"), count("resets", "RST"),
    count("icmp_errors", "ICMP errors"),
    ["Window", (side) => show(value(side, "window_max_bytes"), (most) =>
      `${size(value(side, "window_min_bytes"))} to ${size(most)}`)],
    ["Most under way", (side) => show(value(side, "flight_max_bytes"), size)],
    ["Congestion window (estimate)", (side) =>
      show(value(side, "congestion_window_bytes"), size)],
  ];
  const isTold = ([, , name]) => !name || SIDES.some((side) => value(side, name));
  const isKnown = ([, show]) => SIDES.some((side) => show(side) !== "–");
  return el("table", { class: "legend" },
    el("thead", null, el("tr", null, el("th", null, "Sent by"),
      SIDES.map((side) => el("th", { scope: "col", class: "n" }, `the ${side}`)))),
    el("tbody", null, lines.filter(isTold).filter(isKnown).map(([words, show]) =>
      el("tr", null, el("th", { scope: "row" }, words),
        SIDES.map((side) => el("td", { class: "n" }, show(side)))))));
}

const DELAYS = (them, what) => them && (them.count === 1 ? `${what} after ${duration(them.mean)}`
  : `${what} after ${duration(them.min)} to ${duration(them.max)}, `
    + `${duration(them.mean)} on average`);
const list = (parts) => parts.filter(Boolean).join(", ");

function exchanges(name, them, heading, show) {
  const all = [...them.first];
  // The worst stand among the first where there are few.
  for (const one of them.worst) {
    if (!all.some((it) => JSON.stringify(it) === JSON.stringify(one))) all.push(one);
  }
  if (!all.length) return undefined;
  return el("table", { class: "legend", "aria-label": name },
    el("thead", null, el("tr", null, heading.map((words) => el("th", { scope: "col" }, words)))),
    el("tbody", null, all.map((one) => {
      const [isBad, ...cells] = show(one);
      return el("tr", { class: isBad ? "bad" : undefined }, cells.map((cell, index) =>
        el("td", { class: index ? undefined : "words asked" }, cell === undefined ? "–" : cell)));
    })));
}

function httpParts(http) {
  const status = [2, 3, 4, 5].map((digit) => some(http[`status_${digit}xx`], `${digit}xx`));
  return [
    facts([["HTTP", list([some(http.requests, "requests", "request"),
      some(http.unanswered, "without an answer"), ...status])],
    ["Status lines", DELAYS(http.delay_ms, "come")]]),
    exchanges("HTTP exchanges", http, ["Request", "Status", "After", "Frame"], (one) => [
      !one.status || one.status >= 400,
      one.method ? `${one.method} ${one.host && one.method !== "CONNECT" ? one.host : ""}`
        + `${one.path || ""}` : "(not captured)",
      one.status, duration(one.delay_ms), one.request_frame || one.response_frame]),
  ];
}

/** What the application did, as far as it was in clear. */
function application({ dns, tls, http, inner_http: inner, quic }) {
  const parts = [];
  if (dns) {
    parts.push(facts([["DNS", list([some(dns.queries, "queries", "query"),
      some(dns.unanswered, "without an answer"), some(dns.retries, "asked again"),
      some(dns.truncated, "truncated"), some(dns.malformed, "malformed")])],
    ["Answers", list(Object.entries(dns.rcodes).map(([code, count]) => some(count, code)))],
    ["They come", DELAYS(dns.delay_ms, "")]]),
    exchanges("DNS exchanges", dns, ["Query", "Answer", "After", "Frame"], (one) => [
      !one.answer_frame || !["NOERROR", undefined].includes(one.rcode),
      `${one.type} ${one.name}`, one.rcode || (one.answer_frame ? "" : "no answer"),
      duration(one.delay_ms), one.query_frame]));
  }
  if (tls) {
    parts.push(facts([["TLS", tls.version_chosen || tls.version_offered],
      ["Server's name", tls.server_name],
      ["Protocol", tls.alpn_chosen || (tls.alpn_offered && `${tls.alpn_offered} (offered)`)],
      ["Cipher suite", tls.cipher_suite],
      ["Hello answered after", tls.hello_delay_ms && duration(tls.hello_delay_ms)],
      ["Client's data after", tls.client_data_delay_ms && duration(tls.client_data_delay_ms)],
      ["Server's data after", tls.server_data_delay_ms && duration(tls.server_data_delay_ms)],
      ["Also", list([tls.resumed && "resumed", tls.early_data && "early data",
        tls.hello_retry_frame && "the client had to ask again",
        tls.cut && "the capture lacks a part"])],
      ...tls.alerts.map((alert) => [`Alert of the ${alert.side}`,
        `${spaced(alert.description)}${alert.level === 2 ? ", fatal" : ""}, `
        + `frame ${alert.frame}`])]));
  }
  for (const one of [http, inner]) if (one) parts.push(...httpParts(one));
  if (quic) {
    const { spin } = quic;
    parts.push(facts([["QUIC", quic.version],
      ["Hello answered after", quic.hello_delay_ms && duration(quic.hello_delay_ms)],
      ["Client ready after", quic.client_handshake_ms && duration(quic.client_handshake_ms)],
      ["Server ready after", quic.server_handshake_ms && duration(quic.server_handshake_ms)],
      ["Also", list([quic.retry_frame && "the server wanted the address confirmed",
        quic.version_negotiation_frame && "the server does not speak the client's version",
        quic.early_data && "early data"])],
      ["Spin bit", spin.usage], ["It turns", DELAYS(spin.client_round_trip_ms, "")]]));
  }
  return parts.filter(Boolean);
}

function allFeatures(it) {
  return el("details", null, el("summary", null, "Everything that was measured"),
    el("div", { class: "columns" }, facts(Object.entries(it.features)
      .map(([name, value]) => [name, String(value)]))));
}

function showDetail(it, plot, hops) {
  const place = document.getElementById("detail");
  const hasPlot = plot && plot.segments.length > 0;
  place.replaceChildren(...[
    el("h2", null, `${it.id}: ${end(it.client)} → ${end(it.server)} ${it.protocol}`),
    el("p", { class: it.score > 0 ? "bad" : "faint" }, it.worst_because),
    ...acrossParts(it),
    it.time_budget_ms && el("h3", null, "Where the time went"),
    it.time_budget_ms && budgetBar(it.time_budget_ms),
    el("div", { class: "columns" }, it.time_budget_ms && budgetLegend(it.time_budget_ms),
      el("div", { class: "wide" }, summary(it)), sidesTable(it)),
    it.application && el("h3", null, `Application: ${it.application.protocol || "unknown"}`),
    it.application && el("div", { class: "columns" }, application(it.application)),
    !hasPlot && !hops && el("p", { class: "faint" }, plot
      ? `The ${number(plot.left_out)} packets are not drawn: the page has too many.`
      : "The packets of this conversation are not in the page."),
  ].filter(Boolean));
  if (hasPlot || hops) {
    if (plot && plot.left_out && hasPlot) {
      place.append(el("p", { class: "faint" }, `Drawn are the first `
        + `${number(plot.segments.length)} packets; ${number(plot.left_out)} are left out.`));
    }
    const ladder = hops ? makeHopLadder(hops) : makeLadder(it, plot);
    const charts = it.protocol === "tcp" && hasPlot ? makePlots(plot, ladder.show) : undefined;
    if (charts) place.append(...charts.elements);
    place.append(...ladder.elements);
    if (charts) charts.draw();
    ladder.draw();
  }
  place.append(allFeatures(it));
}
//{{plot}}
//{{across}}
//{{ladder}}
setUpList();
showHops();
if (rows.length) {
  const asked = Number(location.hash.slice(1));
  choose(Number.isInteger(asked) && asked >= 0 && asked < rows.length ? asked : 0);
}
window.addEventListener("hashchange", () => {
  const asked = Number(location.hash.slice(1));
  if (location.hash && asked !== chosen && rows[asked]) choose(asked);
});
})();
