/* plot.js - elements, numbers for people, and pictures with axes: curves over steps that can be read by touch, mouse and keys, and
 * means with error bars. Nothing here knows what a run is. */
'use strict';

const SVG = 'http://www.w3.org/2000/svg';
const COLOURS = 10;
const $ = id => document.getElementById(id);

function tell(error) {
    const box = $('errors');
    box.hidden = false;
    box.textContent += 'This page could not be drawn completely: ' + (error && error.message || error) + '\n';
}
window.addEventListener('error', event => tell(event.error || event.message));

/* A new element; attributes starting with "on" are listeners, texts become text nodes. */
function make(space, tag, attributes, parts) {
    const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
        if (key.startsWith('on'))
            node.addEventListener(key.slice(2), value);
        else if (value !== null && value !== undefined && value !== false)
            node.setAttribute(key, value);
    }
    node.append(...parts.flat(9).filter(part => part !== null && part !== undefined));
    return node;
}
const el = (tag, attributes, ...parts) => make(null, tag, attributes, parts);
const swatch = colour => el('i', {class: 'swatch', style: '--own:' + colour});
const draw = (tag, attributes, ...parts) => make(SVG, tag, attributes, parts);

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

const isNumber = value => typeof value === 'number' && Number.isFinite(value);
const DASH = '\u2013', MINUS = '\u2212', TIMES = '\u00d7', PLUS_MINUS = '\u00b1', DOT = ' \u00b7 ';
const sign = text => text.replace(/^-/, MINUS);
const fixed = (value, digits) => isNumber(value) ? sign(value.toFixed(digits)) : DASH;
const whole = value => isNumber(value) ? Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, '\u202f') : DASH;

/* Three digits. */
function short(value) {
    if (!isNumber(value))
        return DASH;
    const size = Math.abs(value);
    if (size === 0)
        return '0';
    if (size < 1e-3 || size >= 1e6) {
        const [digits, power] = value.toExponential(2).split('e');
        return sign(String(Number(digits))) + 'e' + sign(String(Number(power)));
    }
    return sign(String(Number(value.toPrecision(3))));
}

function scaled(value, units, gap) {
    if (!isNumber(value))
        return DASH;
    let unit = 0;
    for (; unit < units.length - 1 && Math.abs(value) >= 999.5; unit++)
        value /= 1000;
    return sign(unit === 0 ? String(Math.round(value)) : String(Number(value.toPrecision(3)))) + gap + units[unit];
}
const bytes = value => scaled(value, ['B', 'kB', 'MB', 'GB', 'TB'], '\u00a0');
const count = value => scaled(value, ['', 'k', 'M', 'G', 'T'], '');
const percent = value => isNumber(value) ? short(100 * value) + '\u00a0%' : DASH;

function duration(seconds) {
    if (!isNumber(seconds))
        return DASH;
    if (seconds < 60)
        return fixed(seconds, seconds < 10 ? 1 : 0) + ' s';
    const s = Math.round(seconds), two = n => String(n).padStart(2, '0');
    return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)} min` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)} h`;
}

const plural = (n, one, many) => n + ' ' + (n === 1 ? one : many || one + 's');
const mean = values => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;

/* ---- scales ----------------------------------------------------------------------------------------------------- */

/* About n round numbers between low and high. */
function linearTicks(low, high, n) {
    const rough = (high - low) / Math.max(1, n), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= rough * 0.999) || 10 * power;
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
        ticks.push(Number((i * step).toPrecision(12)));
    return ticks;
}

function logTicks(low, high) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), ticks = [];
    const factors = last - first <= 2 ? [1, 2, 5] : [1];
    const every = Math.max(1, Math.ceil((last - first) / 6));
    for (let power = first; power <= last; power += every)
        for (const f of factors)
            if (f * 10 ** power >= low * 0.999 && f * 10 ** power <= high * 1.001)
                ticks.push(Number((f * 10 ** power).toPrecision(3)));
    return ticks.length >= 2 ? ticks : [low, high];
}

/* Steps start at 0, so their logarithm is that of step + 1. */
const stepScale = log => log ? value => Math.log10(value + 1) : value => value;

function stepTicks(low, high, log, n) {
    if (!log)
        return linearTicks(low, high, n);
    const ticks = low <= 0 ? [0] : [];
    for (let power = 0; 10 ** power <= high; power++)
        if (10 ** power >= low)
            ticks.push(10 ** power);
    return ticks;
}

/* ---- line pictures ---------------------------------------------------------------------------------------------- */

const pictures = [];

/* Index of the value nearest to x in a rising list. */
function nearest(xs, x) {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (xs[middle] <= x)
            low = middle;
        else
            high = middle;
    }
    return high >= 0 && Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
}

function extent(curves, key, keep) {
    let low = Infinity, high = -Infinity;
    for (const curve of curves) {
        curve[key].forEach((value, i) => {
            if (isNumber(value) && keep(value, curve, i)) {
                low = Math.min(low, value);
                high = Math.max(high, value);
            }
        });
    }
    return low <= high ? [low, high] : null;
}

function pathOf(curve, x, y) {
    let path = '', pen = false;
    curve.ys.forEach((value, i) => {
        const at = isNumber(value) && isNumber(curve.xs[i]) ? y(value) : NaN;
        if (Number.isFinite(at))
            path += (pen ? 'L' : 'M') + x(curve.xs[i]).toFixed(1) + ' ' + at.toFixed(1);
        pen = Number.isFinite(at);
    });
    return path;
}

/* Where everything of a picture goes: scales x(step) and y(value), ticks, the inner rectangle; null without a point. */
function layout(curves, options, width, height) {
    const log = options.logX ? options.logX() : false, step = stepScale(log);
    const spanX = extent(curves, 'xs', () => true);
    let spanY = options.domain && options.domain(curves) || extent(curves, 'ys', value => !options.logY || value > 0);
    if (!spanX || !spanY)
        return null;
    const logY = options.logY && spanY[0] > 0 && spanY[1] / spanY[0] > 20;
    if (!logY && options.zero)
        spanY = [Math.min(0, spanY[0]), spanY[1]];
    if (spanY[0] === spanY[1])
        spanY = logY ? [spanY[0] / 2, spanY[1] * 2] : [Math.min(spanY[0], 0), spanY[1] || 1];
    const value = logY ? Math.log10 : v => v;
    const pad = (value(spanY[1]) - value(spanY[0])) * 0.05, high = value(spanY[1]) + pad;
    const low = options.zero && !logY && spanY[0] === 0 ? 0 : value(spanY[0]) - pad;
    const ticksY = logY ? logTicks(...spanY) : linearTicks(low, high, height / 42), labels = ticksY.map(options.format);
    const left = 10 + 7 * Math.max(...labels.map(text => text.length)), right = width - 10, top = 10, bottom = height - 26;
    const from = step(spanX[0]), over = Math.max(step(spanX[1]) - from, 1e-9);
    return {
        curves, log, from, over, left, right, top, bottom, ticksY, labels,
        ticksX: stepTicks(...spanX, log, (right - left) / 66),
        x: v => left + (step(v) - from) / over * (right - left),
        y: v => top + (high - value(v)) / (high - low) * (bottom - top),
    };
}

function drawGrid(scene) {
    const {x, y, left, right, bottom} = scene;
    const name = tick => tick >= 1e5 ? count(tick) : whole(tick);
    return [scene.ticksY.map((tick, i) => [draw('line', {class: 'grid', x1: left, x2: right, y1: y(tick), y2: y(tick)}),
        draw('text', {x: left - 7, y: y(tick) + 4, 'text-anchor': 'end'}, scene.labels[i])]),
        draw('line', {class: 'axis', x1: left, x2: right, y1: bottom, y2: bottom}),
        scene.ticksX.filter((tick, i, all) => i === 0 || x(tick) - x(all[i - 1]) >= 22).map(tick => {
            const end = x(tick) > right - 24;
            return draw('text', {x: end ? right : x(tick), y: bottom + 18, 'text-anchor': end ? 'end' : 'middle'}, name(tick));
        })];
}

function drawReferences({y, left, right, top, bottom}, lines) {
    return lines.filter(line => y(line.y) >= top && y(line.y) <= bottom).map(line => [
        draw('line', {class: 'reference', x1: left, x2: right, y1: y(line.y), y2: y(line.y)}),
        draw('text', {x: right, y: y(line.y) - 5, 'text-anchor': 'end'}, line.name)]);
}

function drawCurves({curves, x, y, left, right, top, bottom}, clip) {
    return [draw('clipPath', {id: clip}, draw('rect', {x: left - 4, y: top - 4, width: right - left + 8, height: bottom - top + 8})),
        draw('g', {'clip-path': `url(#${clip})`}, curves.map(curve => [
            draw('path', {class: 'curve', d: pathOf(curve, x, y), 'stroke-dasharray': curve.dash,
                style: `stroke:${curve.colour};stroke-width:${curve.width || 2};opacity:${curve.opacity || 1}`}),
            curve.dots && curve.xs.length <= 60 ? curve.xs.map((at, i) => isNumber(curve.ys[i]) ? draw('circle',
                {cx: x(at).toFixed(1), cy: y(curve.ys[i]).toFixed(1), r: 2.6, style: 'fill:' + curve.colour}) : null) : null]))];
}

/* A picture of curves over steps inside host. options: name, label, height, format, curves() giving [{name, colour, xs, ys, width,
 * dash, opacity, dots, silent}], and if wanted logX(), logY, zero (the axis starts at 0), domain(curves) giving [low, high],
 * references() giving [{name, y}], marks() giving [steps], pick (read one curve besides those with `always`). Redraws itself when
 * the width changes; the function returned redraws it. */
function picture(host, options) {
    const plot = el('div', {class: 'plot', tabindex: 0, role: 'img', 'aria-label': options.label, 'data-picture': options.name});
    const box = el('div', {class: 'readout', hidden: ''});
    const height = options.height || 190;
    let scene = null, width = 0, cursor = null;

    function redraw() {
        width = Math.max(200, plot.clientWidth || 320);
        const curves = options.curves();
        scene = layout(curves, options, width, height);
        plot.replaceChildren();
        box.hidden = true;
        if (!scene) {
            plot.append(el('p', {class: 'note'}, 'Nothing to show.'));
            return;
        }
        scene.pointer = draw('g');
        scene.steps = [...new Set(curves.flatMap(curve => curve.silent ? [] : curve.xs))].filter(isNumber).sort((a, b) => a - b);
        plot.append(draw('svg', {viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true'},
            drawGrid(scene), drawReferences(scene, options.references ? options.references() : []),
            drawCurves(scene, 'clip-' + options.name), (options.marks ? options.marks() : []).map(at =>
                draw('path', {class: 'mark-warning', d: `M${scene.x(at)} ${scene.bottom - 1}l-4.5 -8h9z`})), scene.pointer), box);
    }

    /* Curves to be read at a step with the index of the point, highest first; of many the one nearest to the pointer. */
    function readable(at, pointerY) {
        const level = entry => entry.curve.ys[entry.i];
        let list = scene.curves.filter(c => !c.silent && c.xs.length && at >= c.xs[0] && at <= c.xs[c.xs.length - 1])
            .map(curve => ({curve, i: nearest(curve.xs, at)})).filter(entry => isNumber(entry.curve.ys[entry.i]));
        if (options.pick) {
            const distance = entry => Math.abs(scene.y(level(entry)) - pointerY);
            const others = list.filter(entry => !entry.curve.always).sort((a, b) => distance(a) - distance(b));
            list = list.filter(entry => entry.curve.always).concat(others.slice(0, 1));
        }
        return list.sort((a, b) => level(b) - level(a));
    }

    function read(at, pointerY) {
        const list = readable(at, pointerY);
        scene.pointer.replaceChildren();
        box.hidden = list.length === 0;
        if (!list.length)
            return;
        const px = scene.x(at);
        scene.pointer.append(draw('line', {class: 'rule', x1: px, x2: px, y1: scene.top, y2: scene.bottom}),
            ...list.map(({curve, i}) => draw('circle', {cx: scene.x(curve.xs[i]), cy: scene.y(curve.ys[i]), r: 3.6,
                style: `fill:${curve.colour};stroke:var(--card);stroke-width:1.5`})));
        const shown = list.slice(0, 12);
        box.replaceChildren(el('b', {}, 'step ' + whole(at)), ...shown.map(({curve, i}) => el('div', {}, swatch(curve.colour),
            el('span', {class: 'name'}, curve.name), el('span', {class: 'number'}, (options.exact || options.format)(curve.ys[i])))));
        if (list.length > shown.length)
            box.append(el('div', {}, `and ${list.length - shown.length} more`));
        box.style.left = px < width / 2 ? 'auto' : scene.left + 4 + 'px';
        box.style.right = px < width / 2 ? '6px' : 'auto';
    }

    function follow(event) {
        if (!scene || !scene.steps.length)
            return;
        const area = plot.getBoundingClientRect(), share = (event.clientX - area.left - scene.left) / (scene.right - scene.left);
        const raw = scene.from + Math.min(1, Math.max(0, share)) * scene.over;
        cursor = nearest(scene.steps, scene.log ? 10 ** raw - 1 : raw);
        read(scene.steps[cursor], event.clientY - area.top);
    }

    function leave() {
        box.hidden = true;
        if (scene)
            scene.pointer.replaceChildren();
    }

    function walk(event) {
        const move = {ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9}[event.key];
        if (!move || !scene || !scene.steps.length)
            return;
        event.preventDefault();
        cursor = Math.min(scene.steps.length - 1, Math.max(0, (cursor === null ? -1 : cursor) + move));
        read(scene.steps[cursor], 0);
    }

    plot.addEventListener('pointermove', follow);
    plot.addEventListener('pointerdown', follow);
    plot.addEventListener('pointerleave', event => event.pointerType === 'mouse' && leave());
    plot.addEventListener('keydown', walk);
    plot.addEventListener('blur', leave);
    host.append(plot);
    pictures.push({redraw, stale: () => plot.isConnected && plot.clientWidth && Math.max(200, plot.clientWidth) !== width});
    redraw();
    return redraw;
}

/* ---- error bars -------------------------------------------------------------------------------------------------- */

/* Means with error bars, one row per arm, the seeds as dots. rows: [{name, colour, mean, stderr, seeds}]. */
function forest(host, name, label, rows, zero, format) {
    const plot = el('div', {class: 'plot', role: 'img', 'aria-label': label, 'data-picture': name});
    host.append(plot);
    let width = 0;
    function redraw() {
        width = Math.max(200, plot.clientWidth || 320);
        const values = rows.flatMap(row => row.seeds.concat(isNumber(row.mean)
            ? [row.mean - (row.stderr || 0), row.mean + (row.stderr || 0)] : [])).filter(isNumber);
        plot.replaceChildren();
        if (!values.length) {
            plot.append(el('p', {class: 'note'}, 'Nothing to show.'));
            return;
        }
        let low = Math.min(...values, ...zero), high = Math.max(...values, ...zero);
        const pad = (high - low || Math.abs(high) || 1) * 0.06, line = 42, height = rows.length * line + 30;
        low -= pad;
        high += pad;
        const x = v => 8 + (v - low) / (high - low) * (width - 16);
        const svg = draw('svg', {viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true'});
        for (const tick of linearTicks(low, high, width / 90))
            svg.append(draw('line', {class: 'grid', x1: x(tick), x2: x(tick), y1: 4, y2: height - 24}),
                draw('text', {x: Math.min(width - 14, Math.max(14, x(tick))), y: height - 8, 'text-anchor': 'middle'}, format(tick)));
        for (const at of zero)
            svg.append(draw('line', {class: 'reference', x1: x(at), x2: x(at), y1: 4, y2: height - 24}));
        rows.forEach((row, i) => {
            const y = i * line + 30;
            svg.append(draw('text', {class: 'strong', x: 0, y: y - 11}, row.name));
            for (const seed of row.seeds.filter(isNumber))
                svg.append(draw('circle', {cx: x(seed), cy: y, r: 3, style: `fill:${row.colour};opacity:.4`}));
            if (!isNumber(row.mean))
                return;
            if (isNumber(row.stderr))
                svg.append(draw('path', {d: `M${x(row.mean - row.stderr)} ${y - 5}v10m0 -5H${x(row.mean + row.stderr)}m0 -5v10`,
                    style: `stroke:${row.colour};stroke-width:2;fill:none`}));
            svg.append(draw('circle', {cx: x(row.mean), cy: y, r: 5.5, style: `fill:${row.colour};stroke:var(--card);stroke-width:2`}));
        });
        plot.append(svg);
    }
    pictures.push({redraw, stale: () => plot.clientWidth && Math.max(200, plot.clientWidth) !== width});
    redraw();
}
