// A chart of one or two lines over the last minutes, as SVG, with a readout for mouse, finger and
// keyboard, and the same figures as a table.

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 84;
const EDGE = { left: 46, right: 6, top: 8, bottom: 16 };

/** Makes an element. Text is always set as text, never as markup. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const shape = (name, attributes, text) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};

/** Draws a share, from 0 to 1, as a bar. */
export function share(part) {
  const bar = shape('svg', { class: 'bar', 'aria-hidden': 'true' });
  bar.append(shape('rect', { width: `${(part * 100).toFixed(1)}%`, height: '4', rx: '2' }));
  return bar;
}

/** Writes a number with at most three significant digits: 1240 becomes 1.24 k. */
export function short(value, isBytes = false) {
  if (value === null || value === undefined) return '–';
  const base = isBytes ? 1024 : 1000;
  const units = isBytes ? ['B', 'KiB', 'MiB', 'GiB', 'TiB'] : ['', 'k', 'M', 'G', 'T'];
  let size = value;
  let unit = 0;
  while (Math.abs(size) >= base && unit < units.length - 1) {
    size /= base;
    unit += 1;
  }
  const digits = Number.isInteger(size) || size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return `${Number(size.toFixed(digits))}${units[unit] && ` ${units[unit]}`}`;
}

/** Returns a round number for the top of the axis, at most half as large again as the values. */
function ceiling(most, isBytes, isWhole) {
  if (!(most > 0)) return isBytes ? 1024 : 1;
  const base = isBytes ? 2 : 10;
  const power = base ** Math.floor(Math.log(most) / Math.log(base));
  const steps = isBytes ? [1, 1.5, 2] : [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];
  // Rounding may have made the power too small.
  const top = (steps.find((step) => step * power >= most) ?? base * base) * power;
  return isWhole ? Math.ceil(top) : top;
}

const clock = (at) => new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

export class Chart {
  /** `lines`: one or two of `{ key, name }`; `unit`: of the values, such as `per second`. */
  constructor({ title, lines, unit = '', isBytes = false }) {
    Object.assign(this, { title, lines, unit, isBytes });
    this.at = [];
    this.values = lines.map(() => []);
    this.place = null;
    this.value = element('p', { class: 'value' });
    this.svg = shape('svg', { role: 'img', tabindex: '0' });
    this.read = element('p', { class: 'read', 'aria-live': 'polite' });
    this.rows = element('tbody');
    const names = lines.length > 1 ? lines.map(({ name }, index) => element('span', { class: index ? 'key second' : 'key' }, name)) : [];
    const keys = element('p', { class: 'keys' }, ...names);
    const head = element('tr', {}, element('th', { scope: 'col' }, 'Minute'), ...lines.map(({ name }) => element('th', { scope: 'col', class: 'number' }, name)));
    this.details = element('details', {}, element('summary', {}, 'Table'), element('table', {}, element('thead', {}, head), this.rows));
    this.details.addEventListener('toggle', () => this.fillTable());
    this.figure = element('figure', { class: 'card chart' }, element('figcaption', {}, title, element('small', {}, unit && ` ${unit}`)), this.value, keys, this.svg, this.read, this.details);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.figure);
  }

  listen() {
    const point = (event) => {
      const { left, width } = this.svg.getBoundingClientRect();
      const share = (event.clientX - left - EDGE.left) / (width - EDGE.left - EDGE.right);
      this.move(Math.round(share * (this.most - 1)) - (this.most - this.at.length));
    };
    this.svg.addEventListener('pointermove', point);
    this.svg.addEventListener('pointerdown', point);
    this.svg.addEventListener('pointerleave', () => this.move(null));
    this.svg.addEventListener('blur', () => this.move(null));
    this.svg.addEventListener('keydown', (event) => {
      const { key } = event;
      const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -12, PageDown: 12 };
      const last = this.at.length - 1;
      if (key in steps) this.move((this.place ?? last) + steps[key]);
      else if (key === 'Home') this.move(0);
      else if (key === 'End') this.move(last);
      else if (key === 'Escape') this.move(null);
      else return;
      event.preventDefault();
    });
  }

  /** Takes new figures: `history` is the answer of `/history`. */
  show({ at, series, points, interval_seconds: interval }) {
    Object.assign(this, { at, most: points, interval });
    this.values = this.lines.map(({ key }) => series[key] ?? []);
    this.draw();
    if (this.details.open) this.fillTable();
  }

  /** Removes all figures. */
  clear() {
    Object.assign(this, { at: [], most: 0, place: null, values: this.lines.map(() => []) });
    for (const part of [this.value, this.svg, this.read, this.rows]) part.replaceChildren();
    this.svg.removeAttribute('aria-label');
  }

  text = (value) => short(value, this.isBytes);

  draw() {
    const width = Math.round(this.svg.getBoundingClientRect().width);
    if (!width || !this.most) return;
    const [innerWidth, innerHeight] = [width - EDGE.left - EDGE.right, HEIGHT - EDGE.top - EDGE.bottom];
    const present = this.values.flat().filter((value) => value !== null);
    const top = ceiling(Math.max(0, ...present), this.isBytes, this.unit === '');
    const x = (index) => EDGE.left + ((index + this.most - this.at.length) / (this.most - 1)) * innerWidth;
    const y = (value) => EDGE.top + innerHeight * (1 - value / top);
    const base = EDGE.top + innerHeight;
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    const parts = [EDGE.top, base].map((at) => shape('line', { class: 'axis', x1: EDGE.left, x2: width - EDGE.right, y1: at, y2: at }));
    parts.push(
      shape('text', { x: EDGE.left - 5, y: EDGE.top + 4, 'text-anchor': 'end' }, this.text(top)),
      shape('text', { x: EDGE.left - 5, y: base, 'text-anchor': 'end' }, '0'),
      shape('text', { x: EDGE.left, y: HEIGHT - 3 }, `${Math.round((this.most * this.interval) / 60)} min ago`),
      shape('text', { x: width - EDGE.right, y: HEIGHT - 3, 'text-anchor': 'end' }, 'now'),
    );
    this.values.forEach((values, line) => {
      const runs = [];
      values.forEach((value, index) => {
        if (value === null) return;
        const isFirst = !index || values[index - 1] === null;
        if (isFirst) runs.push([]);
        runs.at(-1).push([x(index).toFixed(1), y(value).toFixed(1)]);
      });
      for (const run of runs) {
        const path = run.map(([px, py], index) => `${index ? 'L' : 'M'}${px} ${py}`).join('') + (run.length === 1 ? 'h1' : '');
        if (line === 0) parts.push(shape('path', { class: 'area', d: `${path}L${run.at(-1)[0]} ${base}L${run[0][0]} ${base}Z` }));
        parts.push(shape('path', { class: line ? 'line second' : 'line', d: path }));
      }
    });
    if (this.place !== null && this.at.length) parts.push(shape('line', { class: 'cursor', x1: x(this.place), x2: x(this.place), y1: EDGE.top, y2: base }));
    this.svg.replaceChildren(...parts);
    this.describe(present);
  }

  describe(present) {
    const now = this.values.map((values) => this.text(values.at(-1)));
    const unit = this.unit && ` ${this.unit}`;
    this.value.textContent = now.join(' / ');
    const range = present.length ? `lowest ${this.text(Math.min(...present))}, highest ${this.text(Math.max(...present))}` : 'no figures yet';
    const names = this.lines.map(({ name }, index) => `${name} ${now[index]}`).join(', ');
    this.svg.setAttribute('aria-label', `${this.title}${unit}: now ${names}; ${range}. Arrow keys read single points.`);
    if (!this.at.length) this.read.textContent = 'The first figures come after ten seconds.';
    else this.readPoint();
  }

  move(place) {
    const last = this.at.length - 1;
    this.place = place === null || last < 0 ? null : Math.min(Math.max(place, 0), last);
    this.draw();
  }

  readPoint() {
    if (this.place === null) {
      this.read.textContent = '';
      return;
    }
    const values = this.lines.map(({ name }, line) => `${this.lines.length > 1 ? `${name} ` : ''}${this.text(this.values[line][this.place])}`);
    this.read.textContent = `${clock(this.at[this.place])}: ${values.join(', ')}${this.unit && ` ${this.unit}`}`;
  }

  /** Fills the table with the mean of each minute, the newest first. */
  fillTable() {
    const perMinute = Math.round(60 / (this.interval || 5));
    const rows = [];
    for (let end = this.at.length; end > 0; end -= perMinute) {
      const start = Math.max(0, end - perMinute);
      const means = this.values.map((values) => {
        const some = values.slice(start, end).filter((value) => value !== null);
        return some.length ? some.reduce((sum, value) => sum + value, 0) / some.length : null;
      });
      rows.push(element('tr', {}, element('td', {}, clock(this.at[end - 1])), ...means.map((mean) => element('td', { class: 'number' }, this.text(mean)))));
    }
    this.rows.replaceChildren(...rows);
  }
}
