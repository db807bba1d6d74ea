// The ladder over hops: every packet at every hop; a part of `page.js`.

// Columns of a rung and of a crossing in the data, see `html/ladder.rs`.
const [R_SIDE, R_FLAGS, R_SEQ, R_LEN, R_ACK, R_CLASS, R_END, R_AFTER, R_REPEATS, R_COPY,
  R_OVERTAKEN, R_CROSSINGS] = Array(12).keys();
const CROSSING_LENGTH = 5;
const [LOST, UNCAPTURED, UNKNOWN] = [1, 2, 3];
const RUNG_HEIGHT = 20, SILENCE_HEIGHT = 52, UNCUT_HEIGHT_MAX = 100, TRANSIT_HEIGHT = 40,
  HEAD_HEIGHT = 28, FALL = 7;
// Least height of a band that is seen.
const SLACK_MIN = 1.5;
// Left of the lifelines stand number and time; curves need room on both sides.
const LINES_LEFT = 188, LINK_WIDTH = 48;

/** Unpacked: the crossings as objects, with the kind that a rung is set off by. */
function unpack(row) {
  const flat = row[R_CROSSINGS];
  const crossings = [];
  for (let at = 0; at < flat.length; at += CROSSING_LENGTH) {
    const [column, frame, time, error, own] = flat.slice(at, at + CROSSING_LENGTH);
    crossings.push({ column, frame, time, own, error: error < 0 ? undefined : error });
  }
  const name = plots.classes[row[R_CLASS]];
  const isRepeat = row[R_REPEATS] >= 0
    || (name !== undefined && /retransmission|tail_loss_probe/.test(name));
  const isTcp = row[R_SEQ] >= 0;
  const kind = row[R_END] === LOST ? "lost" : row[R_COPY] >= 0 ? "copy" : isRepeat ? "again"
    : row[R_OVERTAKEN] >= 0 ? "late" : row[R_LEN] || !isTcp ? "data" : "bare";
  return { row, crossings, kind, isTcp, name, side: row[R_SIDE] };
}

function rungNumbers({ row, isTcp }) {
  if (!isTcp) return `${number(row[R_LEN])} bytes`;
  const parts = [flagNames(row[R_FLAGS]), `seq ${row[R_SEQ]}`];
  if (row[R_LEN]) parts.push(`len ${row[R_LEN]}`);
  if (row[R_ACK] >= 0) parts.push(`ack ${row[R_ACK]}`);
  return parts.filter(Boolean).join(" ");
}

function rungNotes({ row, name }, names) {
  const after = names[row[R_AFTER]];
  return [
    row[R_END] === LOST && `lost after ${after}`,
    row[R_END] === UNCAPTURED && `arrived, not captured after ${after}`,
    row[R_END] === UNKNOWN && `not seen after ${after}`,
    row[R_REPEATS] >= 0 && `repeats #${row[R_REPEATS] + 1}`,
    row[R_COPY] >= 0 && `copy of #${row[R_COPY] + 1}`,
    row[R_OVERTAKEN] >= 0 && `overtaken before ${names[row[R_OVERTAKEN]]}`,
    name && name !== "new" && spaced(name),
  ].filter(Boolean).join(", ");
}

/** Heights of all crossings: time grows down, silence is cut short, words have room. */
function layOut(rungs) {
  const events = [];
  const transits = [];
  rungs.forEach((rung, index) => {
    const begin = rung.crossings[0].time;
    let last = begin;
    rung.crossings.forEach((crossing, place) => {
      // Where clocks cannot be compared, it is drawn as if it took no time; where they are off,
      // it is still not drawn upwards.
      if (crossing.error !== undefined) last = Math.max(crossing.time, last);
      events.push([last, index, place]);
    });
    if (last > begin) transits.push(last - begin);
    rung.heights = [];
  });
  events.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]);
  transits.sort((a, b) => a - b);
  const scale = TRANSIT_HEIGHT / (transits[transits.length >> 1] || 1e6);
  const silences = [];
  const knots = [];
  let [height, row] = [14, 14 - RUNG_HEIGHT];
  let before = events.length ? events[0][0] : 0;
  for (const [time, index, place] of events) {
    const grown = (time - before) * scale;
    const isSilence = grown > UNCUT_HEIGHT_MAX;
    if (isSilence) silences.push([height, height + SILENCE_HEIGHT, time - before]);
    height += isSilence ? SILENCE_HEIGHT : grown;
    if (place === 0) {
      height = Math.max(height, row + RUNG_HEIGHT);
      row = height;
    }
    before = time;
    knots.push([time, height]);
    rungs[index].heights[place] = height;
  }
  return { silences, knots, height: height + 30,
    span: rungs.reduce((most, { heights }) => Math.max(most, Math.max(...heights) - heights[0]), 0) };
}

/** The first place in a sorted list whose value is not below. */
function lowerBound(count, value, of) {
  let [low, high] = [0, count];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (of(middle) < value) low = middle + 1; else high = middle;
  }
  return low;
}

/** The height of any time. */
function heightAt(knots, time) {
  const after = lowerBound(knots.length, time, (index) => knots[index][0]);
  const [a, b] = [knots[after - 1], knots[after]];
  if (!a || !b) return (a || b || [0, 0])[1];
  return a[1] + (time - a[0]) / (b[0] - a[0]) * (b[1] - a[1]);
}

class HopLadder {
  constructor(data) {
    this.names = data.hops.map((hop) => clean(report.hops[hop].id));
    this.rungs = data.rungs.map(unpack);
    this.data = data;
    Object.assign(this, layOut(this.rungs));
    const gaps = Math.max(1, this.names.length - 1);
    this.spacing = Math.min(200, Math.max(36, 560 / gaps));
    this.width = 2 * LINK_WIDTH + gaps * this.spacing;
    this.links = this.rungs.flatMap((rung, index) => [[R_REPEATS, "again"], [R_COPY, "copy"]]
      .filter(([column]) => rung.row[column] >= 0)
      .map(([column, colour]) => [index, rung.row[column], colour]));
    this.marked = -1;
    this.hovered = -1;
    /** Rows in the page, by their place. */
    this.shown = new Map();
    this.build();
  }

  x(column) { return LINK_WIDTH + column * this.spacing; }

  build() {
    const { names, rungs } = this;
    const ends = names.map((name, column) => {
      const label = el("span", { class: "hopname", title: name }, name);
      label.style.left = `${this.x(column) - this.spacing / 2}px`;
      label.style.width = `${this.spacing}px`;
      return label;
    });
    const head = el("div", { class: "row head", role: "row" },
      el("span", { class: "n", role: "columnheader" }, "#"),
      el("span", { class: "n", role: "columnheader" }, "Time"),
      el("span", { class: "lines", role: "columnheader", "aria-label": "Hops" }, ends),
      el("span", { role: "columnheader" }, "Packet"),
      el("span", { role: "columnheader" }, "What became of it"));
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.list = el("div", { class: "list", role: "presentation" });
    this.body = el("div", { class: "rows", role: "rowgroup" }, this.canvas, this.list);
    this.body.style.height = `${this.height}px`;
    this.box = el("div", { class: "ladder hops", tabindex: "0", role: "grid",
      "aria-label": "Ladder: every packet at every hop",
      "aria-rowcount": String(rungs.length + 1) }, head, this.body);
    this.box.style.setProperty("--lines", `${this.width}px`);
    this.readout = el("div", { class: "readout rung", role: "status" },
      el("p", { class: "faint" }, "Point at a packet, or choose one with a click or the arrow "
        + "keys, to see its frames."));
    let isAsked = false;
    const soon = () => {
      if (isAsked) return;
      isAsked = true;
      requestAnimationFrame(() => {
        isAsked = false;
        this.draw();
      });
    };
    this.box.addEventListener("scroll", soon, { passive: true });
    this.box.addEventListener("pointermove", (event) => this.point(this.find(event)));
    this.box.addEventListener("pointerleave", () => this.point(-1));
    this.box.addEventListener("click", (event) => this.choose(this.find(event)));
    this.box.addEventListener("keydown", (event) => {
      const last = rungs.length - 1;
      const to = { ArrowDown: Math.min(last, this.marked + 1),
        ArrowUp: Math.max(0, this.marked - 1), Home: 0, End: last }[event.key];
      if (to === undefined || last < 0) return;
      event.preventDefault();
      this.choose(to, true);
    });
  }

  /** The rung at a place of the pointer: the nearest arrow, or else the row. */
  find(event) {
    const box = this.body.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - LINES_LEFT, event.clientY - box.top];
    const [first, last] = this.within(y - 10, y + 10);
    let [best, found] = [7, -1];
    for (let index = first; index < last && x > 0 && x < this.width; index += 1) {
      const points = this.points(this.rungs[index]);
      for (let at = 1; at < points.length; at += 1) {
        const [[x0, y0], [x1, y1]] = [points[at - 1], points[at]];
        const length = (x1 - x0) ** 2 + (y1 - y0) ** 2 || 1;
        const share = Math.min(1, Math.max(0,
          ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length));
        const away = Math.hypot(x - x0 - share * (x1 - x0), y - y0 - share * (y1 - y0));
        if (away < best) [best, found] = [away, index];
      }
    }
    if (found >= 0) return found;
    const row = event.target.closest(".row[data-index]");
    return row ? Number(row.dataset.index) : -1;
  }

  /** Rungs of which something may stand between two heights. */
  within(top, bottom) {
    const of = (index) => this.rungs[index].heights[0];
    return [lowerBound(this.rungs.length, top - this.span - FALL - 8, of),
      lowerBound(this.rungs.length, bottom, of)];
  }

  points({ crossings, heights }) {
    return crossings.map(({ column }, index) => [this.x(column), heights[index], column]);
  }

  point(index) {
    if (index === this.hovered) return;
    this.hovered = index;
    this.tell(index >= 0 ? index : this.marked);
    this.draw();
  }

  choose(index, isFar) {
    if (index < 0) return;
    this.marked = index;
    this.tell(index);
    if (isFar) this.reveal();
    this.draw();
  }

  /** Scrolls to what is chosen, unless it is in sight. */
  reveal() {
    const [height, { scrollTop, clientHeight }] = [this.rungs[this.marked].heights[0], this.box];
    const top = scrollTop + RUNG_HEIGHT;
    const bottom = scrollTop + clientHeight - HEAD_HEIGHT - 2 * RUNG_HEIGHT;
    if (height < top || height > bottom) {
      this.box.scrollTop = height - (clientHeight - HEAD_HEIGHT) / 2;
    }
  }

  /** The packet of a frame at the hop of the plot. */
  show(frame) {
    const index = this.rungs.findIndex(({ crossings }) => crossings.some((it) =>
      it.column === this.data.plot && it.frame === frame));
    if (index < 0) return;
    this.choose(index, true);
  }

  /** Says at which hops a packet was seen, and when. */
  tell(index) {
    if (index < 0) return;
    const rung = this.rungs[index];
    const notes = rungNotes(rung, this.names);
    const seconds = (ns) => `${(ns / 1e9).toFixed(6)} s`;
    this.readout.replaceChildren(
      el("p", null, el("strong", null, `#${index + 1}`), ` to the ${SIDES[1 - rung.side]}: `
        + `${rungNumbers(rung)}${notes ? `; ${notes}` : ""}`),
      el("table", { class: "legend", "aria-label": "Frames" },
        el("thead", null, el("tr", null, ["Hop", "Frame", "Time", "May be off by",
          "Into its capture"].map((name, column) =>
          el("th", { scope: "col", class: column ? "n" : undefined }, name)))),
        el("tbody", null, rung.crossings.map(({ column, frame, time, error, own }) =>
          el("tr", null, el("th", { scope: "row" }, this.names[column]),
            el("td", { class: "n" }, number(frame)),
            el("td", { class: "n" }, error === undefined ? "–" : seconds(time)),
            el("td", { class: "n" }, error === undefined ? "not known" : duration(error / 1e6)),
            el("td", { class: "n" }, seconds(own)))))));
  }

  draw() {
    const { box, rungs } = this;
    const top = box.scrollTop;
    const height = Math.max(100, box.clientHeight - HEAD_HEIGHT);
    const [first, last] = this.within(top - 2 * RUNG_HEIGHT, top + height + RUNG_HEIGHT);
    const begin = lowerBound(rungs.length, top - 4 * RUNG_HEIGHT,
      (index) => rungs[index].heights[0]);
    this.updateRows(begin, last);
    const id = `rung-${this.marked}`;
    if (this.marked >= begin && this.marked < last) box.setAttribute("aria-activedescendant", id);
    else box.removeAttribute("aria-activedescendant");
    this.paint(top, height, first, last);
  }

  /** Only the rows in sight are in the page; those that stay are kept. */
  updateRows(begin, last) {
    for (const [index, element] of this.shown) {
      if (index >= begin && index < last) continue;
      element.remove();
      this.shown.delete(index);
    }
    const missing = [];
    for (let index = begin; index < last; index += 1) {
      if (!this.shown.has(index)) {
        this.shown.set(index, this.makeRow(this.rungs[index], index));
        missing.push(index);
      }
      const element = this.shown.get(index);
      element.classList.toggle("chosen", index === this.marked);
      element.classList.toggle("hovered", index === this.hovered);
      element.setAttribute("aria-selected", String(index === this.marked));
    }
    // Those above go to the front, in the order of the table, which screen readers follow.
    for (const index of missing.reverse()) {
      this.list.insertBefore(this.shown.get(index), this.shown.get(index + 1) || null);
    }
  }

  makeRow(rung, index) {
    const notes = rungNotes(rung, this.names);
    const numbers = rungNumbers(rung);
    const way = rung.crossings.map(({ column }) => this.names[column]).join(", ");
    const element = el("div", { class: `row is-${rung.kind}`, role: "row",
      id: `rung-${index}`, "aria-rowindex": String(index + 2), "data-index": String(index) },
    el("span", { class: "n", role: "gridcell" }, number(index + 1)),
    el("span", { class: "n", role: "gridcell" }, (rung.crossings[0].time / 1e9).toFixed(6)),
    el("span", { role: "gridcell", class: "lines",
      "aria-label": clean(`to the ${SIDES[1 - rung.side]}, seen at ${way}`) }),
    el("span", { role: "gridcell", title: numbers }, numbers),
    el("span", { role: "gridcell", class: "notes", title: clean(notes) }, notes));
    element.style.top = `${rung.heights[0] - RUNG_HEIGHT / 2}px`;
    return element;
  }

  // ---- on the canvas ---------------------------------------------------------------------------

  paint(top, height, first, last) {
    const { canvas, width } = this;
    const scale = window.devicePixelRatio || 1;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const style = getComputedStyle(document.documentElement);
    const colours = Object.fromEntries(["window", "data", "ack", "again", "late", "probe",
      "faint", "grid"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    Object.assign(colours, { bare: colours.ack, lost: colours.again, copy: colours.probe });
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, -top * scale);
    Object.assign(this, { pen, colours });
    this.paintLifelines(top, height);
    this.paintSlack(first, last);
    for (let index = first; index < last; index += 1) this.paintRung(index);
    for (const [index, of, colour] of this.links) {
      const [from, to] = [this.rungs[index].heights[0], this.rungs[of].heights[0]];
      if (from < top || to > top + height) continue;
      this.paintLink(index, of, colour);
    }
  }

  stroke(points, colour, width, dash) {
    const { pen } = this;
    if (points.length < 2) return;
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.setLineDash(dash || []);
    pen.beginPath();
    points.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.stroke();
    pen.setLineDash([]);
  }

  paintLifelines(top, height) {
    const { pen, colours } = this;
    this.names.forEach((_, column) => {
      const x = this.x(column);
      this.stroke([[x, top], [x, Math.min(top + height, this.height - 10)]], colours.window, 1.5);
    });
    pen.fillStyle = colours.faint;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    for (const [from, to, ns] of this.silences) {
      if (to < top || from > top + height) continue;
      const y = (from + to) / 2;
      this.names.forEach((_, column) => {
        const x = this.x(column);
        this.stroke([[x - 6, y + 3], [x - 2, y - 3], [x + 2, y + 3], [x + 6, y - 3]],
          colours.faint, 1.2);
      });
      pen.textAlign = "center";
      pen.fillText(`${duration(ns / 1e6)} later`, (this.x(0) + this.x(1)) / 2, y);
    }
  }

  /** The bands in which ways lie, as far as clocks are known: as one, so that none is darker. */
  paintSlack(first, last) {
    const { pen, colours, knots } = this;
    const whiskers = new Path2D();
    const bands = new Path2D();
    for (let index = first; index < last; index += 1) {
      const { crossings, heights } = this.rungs[index];
      let stretch = [];
      crossings.forEach(({ column, time, error }, place) => {
        if (error === undefined) {
          this.addBand(bands, stretch);
          stretch = [];
          return;
        }
        const low = Math.min(heights[place], heightAt(knots, time - error));
        const high = Math.max(heights[place], heightAt(knots, time + error));
        const x = this.x(column);
        stretch.push([x, low, high]);
        if (place === 0 || high - low < SLACK_MIN) return;
        for (const [x0, y0, x1, y1] of [[x - 3, low, x + 3, low], [x, low, x, high],
          [x - 3, high, x + 3, high]]) {
          whiskers.moveTo(x0, y0);
          whiskers.lineTo(x1, y1);
        }
      });
      this.addBand(bands, stretch);
    }
    pen.globalAlpha = 0.13;
    pen.fillStyle = colours.ack;
    pen.fill(bands);
    pen.globalAlpha = 0.6;
    pen.strokeStyle = colours.ack;
    pen.lineWidth = 1;
    pen.stroke(whiskers);
    pen.globalAlpha = 1;
  }

  /** Along the earliest that it may have been, and back along the latest. */
  addBand(bands, stretch) {
    if (stretch.length < 2 || !stretch.some(([, low, high]) => high - low >= SLACK_MIN)) return;
    // All the same way round, or bands over each other would leave holes.
    const edges = stretch[0][0] < stretch[1][0] ? stretch : [...stretch].reverse();
    edges.forEach(([x, low], at) => (at ? bands.lineTo(x, low) : bands.moveTo(x, low)));
    for (const [x, , high] of [...edges].reverse()) bands.lineTo(x, high);
    bands.closePath();
  }

  paintRung(index) {
    const { pen, spacing } = this;
    const rung = this.rungs[index];
    const { row, kind, side } = rung;
    const colour = this.colours[kind];
    const width = index === this.marked || index === this.hovered ? 3
      : kind === "again" ? 2 : 1.4;
    const sign = side === 0 ? 1 : -1;
    const points = this.points(rung);
    const [[x0, y0]] = points;
    if (kind === "copy") {
      this.stroke([[x0 - sign * spacing / 2, y0 - FALL], [x0, y0]], colour, width);
    }
    // In one stroke, but for stretches over hops that did not see it.
    let stretch = [points[0]];
    for (let at = 1; at < points.length; at += 1) {
      if (Math.abs(points[at][2] - points[at - 1][2]) !== 1) {
        this.stroke(stretch, colour, width);
        this.stroke([points[at - 1], points[at]], colour, width, [5, 4]);
        stretch = [];
      }
      stretch.push(points[at]);
    }
    this.stroke(stretch, colour, width);
    const [x, y] = points[points.length - 1];
    pen.fillStyle = colour;
    pen.beginPath();
    if (points.length === 1 && kind !== "copy") {
      pen.arc(x, y, 3, 0, 2 * Math.PI);
    } else {
      pen.moveTo(x, y);
      pen.lineTo(x - 9 * sign, y - 4);
      pen.lineTo(x - 9 * sign, y + 4);
    }
    pen.fill();
    const overtaken = points.find(([, , column]) => column === row[R_OVERTAKEN]);
    if (overtaken) {
      pen.fillStyle = this.colours.late;
      pen.beginPath();
      for (const [dx, dy] of [[-5, 0], [0, -5], [5, 0], [0, 5]]) {
        pen.lineTo(overtaken[0] + dx, overtaken[1] + dy);
      }
      pen.fill();
    }
    this.paintEnd(row[R_END], [x, y], sign, [colour, width]);
  }

  /** What lies behind the last hop that saw a packet. */
  paintEnd(kind, [x, y], sign, [colour, width]) {
    const half = [x + sign * this.spacing / 2, y + FALL];
    if (kind === LOST) {
      this.stroke([[x, y], half], colour, width);
      const [cx, cy] = half;
      this.stroke([[cx - 5, cy - 5], [cx + 5, cy + 5]], colour, 2.2);
      this.stroke([[cx - 5, cy + 5], [cx + 5, cy - 5]], colour, 2.2);
    } else if (kind === UNKNOWN) {
      this.stroke([[x, y], half], colour, width, [1.5, 4]);
      this.pen.fillStyle = this.colours.faint;
      this.pen.fillText("?", half[0] + sign * 6, half[1]);
    } else if (kind === UNCAPTURED) {
      const last = sign > 0 ? this.names.length - 1 : 0;
      this.stroke([[x, y], [this.x(last), y + FALL]], colour, width, [5, 4]);
    }
  }

  /** A thin curve to the packet that was sent first, or that was copied. */
  paintLink(index, of, colour) {
    const { pen } = this;
    const points = this.points(this.rungs[index]);
    const others = this.points(this.rungs[of]);
    const [x0, y0, column] = points[0];
    // Where both were seen, or else where the other one began.
    const [x1, y1] = others.find((it) => it[2] === column) || others[0];
    const sign = this.rungs[index].side === 0 ? -1 : 1;
    const bulge = sign * Math.min(LINK_WIDTH - 6, 12 + Math.abs(y0 - y1) / 16);
    pen.globalAlpha = 0.75;
    pen.strokeStyle = this.colours[colour];
    pen.lineWidth = index === this.marked || of === this.marked ? 2 : 0.9;
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.bezierCurveTo(x0 + bulge, y0, x1 + bulge, y1, x1, y1);
    pen.stroke();
    pen.globalAlpha = 1;
  }
}

function hopLadderKey() {
  const words = [["data", "data"], ["ack", "acknowledgement alone"], ["again", "sent again"],
    ["again", "× lost"], ["late", "◆ overtaken"], ["probe", "copied"],
    ["window", "dashed: not captured"], ["window", "dotted: unknown"]];
  return el("div", { class: "key" }, words.map(([name, text]) => {
    const line = el("i");
    line.style.background = `var(--${name})`;
    return el("span", null, line, text);
  }), el("span", null, el("i", { class: "slack" }), "what the time may be off by"));
}

/** The ladder with all that stands around it. */
function makeHopLadder(data) {
  if (!data.rungs.length) {
    return { elements: [el("h3", null, "Ladder"),
      el("p", { class: "faint" }, data.left_out
        ? `The ${number(data.left_out)} packets are not drawn: the page has too many.`
        : "No packets.")], draw: () => {}, show: () => {} };
  }
  const ladder = new HopLadder(data);
  const more = data.left_out ? `The first ${number(data.rungs.length)} packets; `
    + `${number(data.left_out)} are left out. ` : "";
  watchLadder(ladder.box, () => ladder.draw());
  return {
    elements: [el("h3", null, "Ladder"),
      el("p", { class: "faint" }, `${more}Times are seconds by the clock of `
        + `${clean(referenceName())}. Silence is cut short.`),
      hopLadderKey(), ladder.box, ladder.readout],
    draw: () => ladder.draw(),
    show: (row) => ladder.show(row[FRAME]),
  };
}

function referenceName() {
  const { clock } = report.hops.find((hop) => hop.clock) || {};
  return clock ? clock.reference : "the first hop";
}

let watchedLadder = [];
function watchLadder(element, draw) {
  watchedLadder.forEach((stop) => stop());
  const observer = new ResizeObserver(draw);
  observer.observe(element);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", draw);
  watchedLadder = [() => observer.disconnect(), () => dark.removeEventListener("change", draw)];
}
