// Plots and ladder of one conversation; a part of `page.js`.

// ---- the words of a packet -------------------------------------------------------------------

function flagNames(flags) {
  const names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
  return names.filter((_, bit) => flags & (1 << bit)).join(" ");
}
const isAgain = (row) => plots.classes[row[CLASS]] !== undefined
  && /retransmission|tail_loss_probe/.test(plots.classes[row[CLASS]]);
// The engine does not place copies in their stream.
const isCopy = (row) => /_duplicate$/.test(plots.classes[row[CLASS]]);
function colourOf(row) {
  const name = plots.classes[row[CLASS]];
  if (isAgain(row)) return "again";
  if (name === "fills_hole") return "hole";
  if (name === "reordered") return "late";
  return /probe|keep_alive/.test(name) ? "probe" : "data";
}
function numbersOf(row, isTcp) {
  if (!isTcp) return `${number(row[LEN])} bytes`;
  if (isCopy(row)) return `${flagNames(row[FLAGS])} len ${row[LEN]}`;
  const parts = [flagNames(row[FLAGS])];
  if (row[SEQ] >= 0) parts.push(`seq ${row[SEQ]}`);
  if (row[LEN]) parts.push(`len ${row[LEN]}`);
  if (row[ACK] >= 0) parts.push(`ack ${row[ACK]}`);
  if (row[ACK] >= 0 && row[WINDOW] >= 0) parts.push(`win ${row[WINDOW]}`);
  return parts.join(" ");
}
function notesOf(row, plot) {
  const parts = [];
  const name = plots.classes[row[CLASS]];
  if (name && name !== "new") parts.push(spaced(name) + (plot.why[row[WHY]]
    ? ` (${plot.why[row[WHY]]})` : ""));
  plots.marks.forEach((mark, bit) => {
    if (row[MARKS] & (1 << bit)) parts.push(spaced(mark));
  });
  if (row[REPEATS]) parts.push(`repeats frame ${row[REPEATS]}`);
  if (row[ACKED]) parts.push(`acknowledges frame ${row[ACKED]}`);
  if (row[RTT] >= 0) parts.push(`RTT ${duration(row[RTT] / 1e6)}`);
  return parts.join(", ");
}

// ---- axes ------------------------------------------------------------------------------------

const MARGIN = { left: 76, right: 14, top: 22, bottom: 26 };

/** Round steps between two values. */
function ticks(low, high, count, base) {
  const rough = (high - low) / count;
  if (!(rough > 0)) return [];
  const power = base ** Math.floor(Math.log(rough) / Math.log(base));
  const steps = base === 2 ? [1, 2] : [1, 2, 5, 10];
  const step = power * steps.find((it) => it * power >= rough * 0.999);
  const list = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
    if (value >= 0) list.push(value);
  }
  return list;
}

/** A canvas with two axes: values to places, a grid, a title. */
class Chart {
  constructor(title, height, unit, base) {
    Object.assign(this, { title, height, unit, base });
    this.canvas = el("canvas", { tabindex: "0", role: "img" });
    this.canvas.style.height = `${height}px`;
  }

  /** Sets the ranges and clears. */
  begin(x0, x1, y0, y1) {
    const { canvas, height } = this;
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth || 900;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const style = getComputedStyle(document.documentElement);
    this.colour = (name) => style.getPropertyValue(`--${name}`).trim();
    this.pen = canvas.getContext("2d");
    this.pen.setTransform(scale, 0, 0, scale, 0, 0);
    Object.assign(this, { x0, x1, y0, y1 });
    this.right = width - MARGIN.right;
    this.bottom = height - MARGIN.bottom;
    this.axes();
    this.pen.save();
    this.pen.beginPath();
    this.pen.rect(MARGIN.left, MARGIN.top, this.right - MARGIN.left, this.bottom - MARGIN.top);
    this.pen.clip();
  }

  end() { this.pen.restore(); }
  x(value) { return MARGIN.left + (value - this.x0) / (this.x1 - this.x0)
    * (this.right - MARGIN.left); }
  y(value) { return this.bottom - (value - this.y0) / (this.y1 - this.y0)
    * (this.bottom - MARGIN.top); }
  valueX(place) { return this.x0 + (place - MARGIN.left) / (this.right - MARGIN.left)
    * (this.x1 - this.x0); }
  valueY(place) { return this.y0 + (this.bottom - place) / (this.bottom - MARGIN.top)
    * (this.y1 - this.y0); }

  axes() {
    const { pen } = this;
    pen.font = "12px system-ui, sans-serif";
    pen.lineWidth = 1;
    pen.strokeStyle = this.colour("grid");
    pen.fillStyle = this.colour("faint");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const value of ticks(this.y0, this.y1, this.height / 42, this.base)) {
      this.line(MARGIN.left, this.y(value), this.right, this.y(value));
      pen.fillText(this.unit(value), MARGIN.left - 7, this.y(value));
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    const span = this.x1 - this.x0;
    const [unit, name] = span < 1e6 ? [1e3, "µs"] : span < 1e9 ? [1e6, "ms"] : [1e9, "s"];
    const places = Math.max(0, 2 - Math.floor(Math.log10(span / unit)));
    for (const value of ticks(this.x0, this.x1, (this.right - MARGIN.left) / 110, 10)) {
      this.line(this.x(value), MARGIN.top, this.x(value), this.bottom);
      pen.fillText(`${(value / unit).toFixed(places)} ${name}`, this.x(value), this.bottom + 6);
    }
    pen.textAlign = "left";
    pen.fillStyle = this.colour("ink");
    pen.fillText(this.title, MARGIN.left, 5);
  }

  line(x0, y0, x1, y1) {
    this.pen.beginPath();
    this.pen.moveTo(x0, y0);
    this.pen.lineTo(x1, y1);
    this.pen.stroke();
  }

  /** A line that keeps its value until the next point. */
  steps(points, colour, dash) {
    const { pen } = this;
    pen.strokeStyle = this.colour(colour);
    pen.lineWidth = 1.3;
    pen.setLineDash(dash || []);
    pen.beginPath();
    let last;
    for (const [time, value] of points) {
      if (last === undefined) pen.moveTo(this.x(time), this.y(value));
      else {
        pen.lineTo(this.x(time), this.y(last));
        pen.lineTo(this.x(time), this.y(value));
      }
      last = value;
    }
    pen.stroke();
    pen.setLineDash([]);
  }

  cross(time, value, colour) {
    const [x, y] = [this.x(time), this.y(value)];
    this.pen.strokeStyle = this.colour(colour);
    this.pen.lineWidth = 2;
    this.line(x - 5, y - 5, x + 5, y + 5);
    this.line(x - 5, y + 5, x + 5, y - 5);
  }
}

// ---- what one direction shows ----------------------------------------------------------------

/** Lines and strokes of the data that one side sent. */
function trace(plot, side) {
  const it = { data: [], acks: [], windows: [], duplicates: [], closed: [], rtt: [], flight: [],
    room: [], resets: [], sacks: plot.sacks.filter((block) => block[2] !== side) };
  let [sent, acked] = [0, 0];
  for (const row of plot.segments) {
    if (isCopy(row)) continue;
    if (row[FLAGS] & RST) it.resets.push(row[TIME]);
    if (row[SIDE] === side) {
      if (row[SEQ] < 0) continue;
      if (row[CLASS] >= 0) it.data.push(row);
      sent = Math.max(sent, row[SEQ] + row[LEN]);
      if (row[LEN] && row[FLIGHT] >= 0) it.flight.push([row[TIME], row[FLIGHT]]);
      continue;
    }
    if (row[RTT] >= 0) it.rtt.push(row);
    if (row[ACK] < 0 || row[FLAGS] & RST) continue;
    acked = Math.max(acked, row[ACK]);
    it.acks.push([row[TIME], acked]);
    if (!(row[FLAGS] & SYN) && row[WINDOW] >= 0) {
      it.windows.push([row[TIME], row[ACK] + row[WINDOW]]);
      it.room.push([row[TIME], row[WINDOW]]);
    }
    if (row[MARKS] & (1 << plots.marks.indexOf("duplicate_ack"))) it.duplicates.push(row);
    if (row[MARKS] & (1 << plots.marks.indexOf("zero_window"))) it.closed.push(row);
    if (it.flight.length) it.flight.push([row[TIME], Math.max(0, sent - acked)]);
  }
  return it;
}

function drawSequence(chart, it) {
  const { pen } = chart;
  chart.steps(it.windows, "window", [5, 3]);
  chart.steps(it.acks, "ack");
  pen.strokeStyle = chart.colour("sack");
  pen.lineWidth = 2;
  for (const [, time, , left, right] of it.sacks) {
    chart.line(chart.x(time), chart.y(left), chart.x(time), chart.y(right));
  }
  pen.lineWidth = 1;
  pen.strokeStyle = chart.colour("ack");
  for (const row of it.duplicates) {
    const [x, y] = [chart.x(row[TIME]), chart.y(row[ACK])];
    chart.line(x, y, x, y + 5);
  }
  // What was sent again is drawn last, so that nothing hides it.
  for (const pass of [false, true]) {
    for (const row of it.data) {
      if ((colourOf(row) !== "data") === pass) drawSegment(chart, row);
    }
  }
  for (const row of it.closed) chart.cross(row[TIME], row[ACK], "again");
  pen.strokeStyle = chart.colour("again");
  pen.lineWidth = 1;
  pen.setLineDash([2, 3]);
  for (const time of it.resets) chart.line(chart.x(time), 0, chart.x(time), chart.bottom);
  pen.setLineDash([]);
}

function drawSegment(chart, row) {
  const { pen } = chart;
  const x = chart.x(row[TIME]);
  if (x < MARGIN.left - 8 || x > chart.right + 8) return;
  const colour = colourOf(row);
  const [bottom, top] = [chart.y(row[SEQ]), chart.y(row[SEQ] + row[LEN])];
  pen.strokeStyle = chart.colour(colour);
  pen.fillStyle = pen.strokeStyle;
  pen.lineWidth = colour === "data" ? 1.4 : 2.4;
  if (row[FLAGS] & (SYN | FIN)) {
    pen.textAlign = "center";
    pen.textBaseline = "bottom";
    pen.font = "bold 12px system-ui, sans-serif";
    pen.fillText(row[FLAGS] & SYN ? "S" : "F", x, bottom - 3);
    pen.beginPath();
    pen.arc(x, bottom, 2.5, 0, 7);
    pen.fill();
  }
  // What is not plain is to be seen, however small.
  const more = colour === "data" ? 0 : Math.max(0, 9 - (bottom - top)) / 2;
  chart.line(x, bottom + more, x, Math.min(top - more, bottom - 1.5));
  if (bottom - top > 7) {
    chart.line(x - 3, bottom, x + 3, bottom);
    chart.line(x - 3, top, x + 3, top);
  }
}

function drawDots(chart, points) {
  if (!points.length) {
    chart.pen.fillText("none measured", chart.right / 2, (MARGIN.top + chart.bottom) / 2);
  }
  chart.pen.fillStyle = chart.colour("dot");
  for (const row of points) {
    chart.pen.fillRect(chart.x(row[TIME]) - 1.5, chart.y(row[RTT] / 1e6) - 1.5, 3, 3);
  }
}

/** The smallest and largest of values within a range of time, with room around them. */
function extent(points, [low, high], floor) {
  let [least, most] = [Infinity, -Infinity];
  for (const [time, ...values] of points) {
    if (time < low || time > high) continue;
    for (const value of values) {
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
  }
  if (least > most) [least, most] = [0, 1];
  if (floor !== undefined) least = floor;
  const room = (most - least || 1) * 0.06;
  return [floor === undefined ? least - room : floor, most + room];
}

/** Room for a window above values, unless it would press them flat. */
function room([low, high], [, window]) {
  return [low, Math.min(Math.max(high, window), low + 2 * (high - low))];
}

// ---- the three plots of a direction ----------------------------------------------------------

function makePlots(plot, showFrame) {
  const sequence = new Chart("Sequence numbers", 400, size, 2);
  const rtt = new Chart("Round trips", 150, duration, 10);
  const flight = new Chart("Bytes under way, and the window", 150, size, 2);
  const charts = [sequence, rtt, flight];
  const last = plot.segments[plot.segments.length - 1][TIME];
  const whole = [-last * 0.01, last * 1.01 || 1];
  const payload = (side) => plot.segments.reduce((sum, row) =>
    sum + (row[SIDE] === side ? row[LEN] : 0), 0);
  let side = payload(1) >= payload(0) ? 1 : 0;
  let view = { time: whole, bytes: undefined };
  let lines = trace(plot, side);

  const draw = (mark) => {
    const data = lines.data.map((row) => [row[TIME], row[SEQ], row[SEQ] + row[LEN]]);
    const bytes = view.bytes || room(extent([...data, ...lines.acks], view.time),
      extent(lines.windows, view.time));
    sequence.begin(...view.time, ...bytes);
    drawSequence(sequence, lines);
    if (mark) drawMark(sequence, mark);
    sequence.end();
    rtt.begin(...view.time, ...extent(lines.rtt.map((row) => [row[TIME], row[RTT] / 1e6]),
      view.time, 0));
    drawDots(rtt, lines.rtt);
    rtt.end();
    flight.begin(...view.time, ...room(extent(lines.flight, view.time, 0),
      extent(lines.room, view.time, 0)));
    flight.steps(lines.room, "window", [5, 3]);
    flight.steps(lines.flight, "data");
    flight.end();
    const names = `data of the ${SIDES[side]}, ${duration((view.time[1] - view.time[0]) / 1e6)}`;
    for (const chart of charts) {
      chart.canvas.setAttribute("aria-label", `${chart.title}, ${names}. `
        + "Keys: plus and minus zoom, left and right move, 0 shows all. "
        + "The ladder below lists the packets as a table.");
    }
  };
  const readout = el("p", { class: "readout", role: "status" },
    "Drag to zoom. A click finds the packet in the ladder.");
  const reset = () => {
    view = { time: whole, bytes: undefined };
    draw();
  };
  const zoom = (time, bytes) => {
    if (!(time[1] - time[0] > 1000)) return;
    view = { time, bytes };
    draw();
  };
  for (const chart of charts) {
    listen(chart, { zoom, reset, draw, whole, view: () => view, isFirst: chart === sequence,
      find: (x, y, isChosen) => {
        const row = nearest(sequence, lines, x, y);
        if (!row || chart !== sequence) return;
        readout.textContent = clean(`Frame ${row[FRAME]}, ${(row[TIME] / 1e9).toFixed(6)} s: `
          + [numbersOf(row, true), notesOf(row, plot)].filter(Boolean).join("; "));
        if (isChosen) showFrame(row);
      } });
  }
  const choice = (value) => {
    const input = el("input", { type: "radio", name: "side", onchange: () => {
      side = value;
      lines = trace(plot, side);
      reset();
    } });
    input.checked = value === side;
    return el("label", null, input, ` ${SIDES[value]} to ${SIDES[1 - value]}`);
  };
  watchSize(sequence.canvas, () => draw());
  const elements = [
    el("h3", null, "Time and sequence"),
    el("div", { class: "bar" }, el("fieldset", null, el("legend", null, "Data from"),
      choice(0), choice(1)),
      el("button", { type: "button", onclick: reset }, "Reset")),
    key(), sequence.canvas, readout, rtt.canvas, flight.canvas,
  ];
  return { elements, draw };
}

function key() {
  const words = [["data", "segment"], ["again", "sent again"], ["hole", "fills a hole"],
    ["late", "overtaken"], ["probe", "probe, keep-alive"], ["ack", "acknowledged"],
    ["window", "end of the window"], ["sack", "SACK"], ["again", "× window closed"]];
  return el("div", { class: "key" }, words.map(([name, text]) => {
    const line = el("i");
    line.style.background = `var(--${name})`;
    return el("span", null, line, text);
  }));
}

function nearest(chart, lines, x, y) {
  let [best, row] = [24, undefined];
  for (const it of lines.data) {
    const [top, bottom] = [chart.y(it[SEQ] + it[LEN]), chart.y(it[SEQ])];
    const away = y < top ? top - y : Math.max(0, y - bottom);
    const distance = Math.hypot(chart.x(it[TIME]) - x, away);
    if (distance < best) [best, row] = [distance, it];
  }
  return row;
}

function drawMark(chart, { x0, y0, x1, y1 }) {
  chart.pen.strokeStyle = chart.colour("accent");
  chart.pen.lineWidth = 1;
  chart.pen.globalAlpha = 0.15;
  chart.pen.fillStyle = chart.colour("accent");
  chart.pen.fillRect(x0, y0, x1 - x0, y1 - y0);
  chart.pen.globalAlpha = 1;
  chart.pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
}

/** Drag, double click and keys of one canvas. */
function listen(chart, { zoom, reset, draw, whole, view, find, isFirst }) {
  const { canvas } = chart;
  let from;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    from = place(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (!from) find(x, y, false);
    else if (isFirst) draw({ x0: from[0], y0: from[1], x1: x, y1: y });
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [x, y] = place(event);
    const [left, right] = [Math.min(from[0], x), Math.max(from[0], x)];
    const [top, bottom] = [Math.min(from[1], y), Math.max(from[1], y)];
    from = undefined;
    if (right - left < 5) {
      find(x, y, true);
      draw();
      return;
    }
    // A flat drag chooses time alone.
    const bytes = isFirst && bottom - top > 12
      ? [chart.valueY(bottom), chart.valueY(top)] : undefined;
    zoom([chart.valueX(left), chart.valueX(right)], bytes);
  });
  canvas.addEventListener("pointercancel", () => { from = undefined; });
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("keydown", (event) => {
    const [low, high] = view().time;
    const span = high - low;
    const moves = { "+": [span / 4, -span / 4], "=": [span / 4, -span / 4],
      "-": [-span / 2, span / 2], ArrowLeft: [-span / 5, -span / 5],
      ArrowRight: [span / 5, span / 5] };
    if (event.key === "0" || event.key === "Home") reset();
    else if (moves[event.key]) {
      const [first, second] = moves[event.key];
      zoom([Math.max(whole[0], low + first), Math.min(whole[1], high + second)], undefined);
    } else return;
    event.preventDefault();
  });
}

let watched = [];
function watchSize(element, draw) {
  watched.forEach((stop) => stop());
  const observer = new ResizeObserver(draw);
  observer.observe(element);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", draw);
  watched = [() => observer.disconnect(), () => dark.removeEventListener("change", draw)];
}

// ---- the ladder ------------------------------------------------------------------------------

function makeLadder(it, plot) {
  const count = plot.segments.length;
  const isTcp = it.protocol === "tcp";
  const head = el("div", { class: "row head", role: "row" },
    el("span", { class: "n", role: "columnheader" }, "Frame"),
    el("span", { class: "n", role: "columnheader" }, "Time"),
    el("span", { class: "ends", role: "columnheader" }, el("span", null, end(it.client)),
      el("span", null, end(it.server))),
    el("span", { role: "columnheader" }, "What it is"));
  const body = el("div", { class: "rows", role: "rowgroup" });
  body.style.height = `${(count + 1) * ROW_HEIGHT}px`;
  const box = el("div", { class: "ladder", tabindex: "0", role: "table",
    "aria-label": "Ladder: every packet", "aria-rowcount": String(count + 1) }, head, body);
  let marked = -1;
  // Only the rows in sight are in the page.
  const draw = () => {
    const first = Math.max(0, Math.floor(box.scrollTop / ROW_HEIGHT) - 5);
    const last = Math.min(count, first + Math.ceil(box.clientHeight / ROW_HEIGHT) + 12);
    body.replaceChildren(...plot.segments.slice(first, last).map((row, offset) =>
      makeRow(row, first + offset)));
  };
  const makeRow = (row, index) => {
    const kinds = ["arrow", row[SIDE] === 0 ? "right" : "left"];
    if (row[LEN] || !isTcp) kinds.push("data");
    if (isAgain(row)) kinds.push("again");
    const notes = notesOf(row, plot);
    const element = el("div", { class: index === marked ? "row chosen" : "row", role: "row",
      "aria-rowindex": String(index + 2) },
      el("span", { class: "n", role: "cell" }, number(row[FRAME])),
      el("span", { class: "n", role: "cell" }, (row[TIME] / 1e9).toFixed(6)),
      el("span", { class: kinds.join(" "), role: "cell" }, numbersOf(row, isTcp)),
      el("span", { role: "cell", title: clean(notes) }, notes));
    element.style.top = `${index * ROW_HEIGHT}px`;
    return element;
  };
  box.addEventListener("scroll", draw, { passive: true });
  const show = (row) => {
    marked = plot.segments.indexOf(row);
    box.scrollTop = marked * ROW_HEIGHT - box.clientHeight / 2;
    draw();
  };
  return { elements: [el("h3", null, "Ladder"), box], draw, show };
}
