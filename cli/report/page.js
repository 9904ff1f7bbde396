/* page.js - draws a report from the JSON object in #data (cli/report_data.h describes it), one section after the other. Data reach
 * the page as text and attributes only, never as markup. An error of a section is told in #errors and leaves the others alone. */
'use strict';

/* ---- the data --------------------------------------------------------------------------------------------------- */

const data = JSON.parse($('data').textContent);
const runs = data.runs, comparisons = data.comparisons;

function finalLoss(run) {
    if (run.result && isNumber(run.result.val_loss))
        return run.result.val_loss;
    return run.val.loss.filter(isNumber).pop();
}
const result = key => run => run.result ? run.result[key] : null;
/* What a run has lost on the text of --also. */
const alsoChange = run => isNumber(result('also_loss')(run)) && isNumber(result('also_loss_start')(run))
    ? run.result.also_loss - run.result.also_loss_start : null;
const signed = (value, digits) => isNumber(value) ? (value > 0 ? '+' : '') + fixed(value, digits) : DASH;
const runName = run => run.arm === null || run.arm === undefined ? run.label
    : run.arm + (isNumber(run.seed) ? ', seed ' + run.seed : '');

/* What gets one colour: an arm of a comparison with its seeds, or a run of its own. */
function makeGroups() {
    const found = new Map();
    runs.forEach((run, index) => {
        const inArm = run.arm !== null && run.arm !== undefined;
        const key = inArm ? run.comparison + '\n' + run.arm : 'run ' + index;
        const place = comparisons.length > 1 && inArm ? comparisons[run.comparison].label + ': ' : '';
        if (!found.has(key))
            found.set(key, {name: inArm ? place + run.arm : run.label, runs: [], comparison: inArm ? run.comparison : null, arm: run.arm});
        found.get(key).runs.push(run);
    });
    return [...found.values()].map((group, i) => Object.assign(group, {
        index: i, hidden: false, colour: `var(--c${i % COLOURS})`, dash: i >= COLOURS ? '7 4' : null,
    }));
}
const groups = makeGroups();
const groupOf = run => groups.find(group => group.runs.includes(run));

/* The value all runs have, undefined where they differ. */
function common(get) {
    const first = runs.length ? get(runs[0]) : undefined;
    return runs.every(run => get(run) === first) ? first : undefined;
}

/* ---- controls --------------------------------------------------------------------------------------------------- */

function chip(name, mark, pressed, toggle) {
    const button = el('button', {class: 'chip', type: 'button', 'aria-pressed': String(pressed), onclick: () => {
        pressed = !pressed;
        button.setAttribute('aria-pressed', String(pressed));
        toggle(pressed);
    }}, mark, name);
    return button;
}

function choice(label, names, chosen, choose) {
    const buttons = names.map((name, i) => el('button', {type: 'button', 'aria-pressed': String(i === chosen), onclick: () => {
        buttons.forEach((button, j) => button.setAttribute('aria-pressed', String(j === i)));
        choose(i);
    }}, name));
    return el('div', {class: 'switch', role: 'group', 'aria-label': label}, buttons);
}

/* A chooser of one run of `list`; null for a single one. */
function runChooser(list, choose) {
    if (list.length < 2)
        return null;
    return el('select', {'aria-label': 'Run', onchange: event => choose(list[event.target.selectedIndex])},
        list.map(run => el('option', {}, groupName(run))));
}
const groupName = run => comparisons.length > 1 && isNumber(run.comparison)
    ? comparisons[run.comparison].label + ': ' + runName(run) : runName(run);

/* ---- headline and cards ----------------------------------------------------------------------------------------- */

function headline() {
    const arms = comparisons.reduce((n, c) => n + c.arms.length, 0);
    let title = runs.length === 1 ? runs[0].label : plural(runs.length, 'run') + ' side by side';
    if (comparisons.length === 1 && runs.every(run => run.comparison === 0))
        title = `${comparisons[0].label}: ${plural(arms, 'arm')} compared`;
    else if (comparisons.length > 0)
        title = `${plural(runs.length, 'run')} of ${plural(comparisons.length, 'comparison')}`;
    $('title').textContent = title;
    document.title = title + ' ' + DASH + ' qsbits report';
    const parts = [], add = (value, text) => value !== undefined && value !== null && parts.push(text(value));
    const optimizer = common(run => run.training.optimizer), state = common(run => run.training.fsm_state);
    add(optimizer, value => value === 'fsm' ? 'state machine ' + (state || '') : value);
    add(common(run => run.model.layers), value => plural(value, 'layer'));
    add(common(run => run.model.dim), value => value + ' wide');
    add(common(result('packed_weights')), value => count(value) + ' weights');
    add(common(run => run.training.steps), value => plural(value, 'step'));
    if (isNumber(common(run => run.training.batch)) && isNumber(common(run => run.model.ctx)))
        parts[parts.length - 1] += ` of ${runs[0].training.batch} ${TIMES} ${runs[0].model.ctx} tokens`;
    add(common(run => run.text.tokens), value => bytes(value) + ' of text');
    $('subtitle').textContent = parts.join(DOT);
}

/* The least or greatest mean over a group's runs. */
function bestGroup(get, better) {
    let best = null;
    for (const group of groups) {
        const value = mean(group.runs.map(get).filter(isNumber));
        if (isNumber(value) && (best === null || better(value, best.value)))
            best = {value, group};
    }
    return best;
}

function card(title, best, show, unit, more) {
    return el('div', {class: 'card'}, el('p', {}, title),
        el('p', {class: 'value'}, best ? show(best.value) : DASH, best && unit ? el('small', {}, unit) : null),
        el('p', {}, [best && groups.length > 1 ? best.group.name : '', best && more ? more(best) : ''].filter(Boolean).join(DOT)));
}

function cards() {
    const less = (a, b) => a < b, more = (a, b) => a > b, several = groups.length > 1;
    const packed = best => {
        const value = mean(best.group.runs.map(result('packed_bits_per_weight')).filter(isNumber));
        return isNumber(value) ? fixed(value, 2) + ' in an inference file' : '';
    };
    const tested = group => {
        const value = mean(group.runs.map(result('test_loss')).filter(isNumber));
        return isNumber(value) ? 'test ' + fixed(value, 4) : '';
    };
    $('cards').append(
        card(several ? 'Best validation loss' : 'Validation loss', bestGroup(finalLoss, less), v => fixed(v, 4), null,
            best => [fixed(best.value / Math.LN2, 3) + ' bits per byte', tested(best.group)].filter(Boolean).join(DOT)),
        card(several ? 'Most tokens per second' : 'Tokens per second', bestGroup(result('tokens_per_second'), more), count, null,
            best => {
                const seconds = mean(best.group.runs.map(result('step_seconds')).filter(isNumber));
                return isNumber(seconds) ? duration(seconds) + ' in steps' : '';
            }),
        card((several ? 'Fewest bits' : 'Bits') + ' per weight in training', bestGroup(result('training_bits_per_weight'), less),
            v => fixed(v, 2), null, packed),
        card(several ? 'Least peak memory' : 'Peak memory', bestGroup(run => run.peak, less), bytes, null, () => 'booked by the library'));
}

function contents() {
    const warned = runs.reduce((n, run) => n + run.warning_count, 0);
    if (!warned)
        $('warnings').hidden = true;
    for (const section of document.querySelectorAll('main section:not([hidden])')) {
        const title = section.querySelector('h2').textContent;
        $('contents').append(el('a', {href: '#' + section.id, class: section.id === 'warnings' ? 'alert' : null},
            section.id === 'warnings' ? plural(warned, 'warning') : title));
    }
}

/* ---- comparisons ------------------------------------------------------------------------------------------------ */

const estimate = (value, digits, show) => value && isNumber(value.mean)
    ? [show(value.mean, digits),
        isNumber(value.stderr) ? el('span', {class: 'error'}, ` ${PLUS_MINUS} ${fixed(value.stderr, digits)}`) : null]
    : DASH;

/* What a comparison compares: the test part where there is one. */
const lossName = comparison => comparison.tested ? 'Test loss' : 'Validation loss';
const seedLoss = (comparison, run) => comparison.tested ? run.test_loss : run.val_loss;

function armTable(comparison, colour) {
    const to = comparison.reference || 'the first arm';
    const best = Math.min(...comparison.arms.map(arm => arm.loss ? arm.loss.mean : NaN).filter(isNumber));
    const columns = [
        [lossName(comparison), arm => estimate(arm.loss, 4, fixed)], ['Difference to ' + to, arm => estimate(arm.difference, 4, signed)],
        ['Closure', arm => estimate(arm.closure && {mean: 100 * arm.closure.mean,
            stderr: isNumber(arm.closure.stderr) ? 100 * arm.closure.stderr : null}, 1, (v, d) => fixed(v, d) + '\u00a0%')],
        ...(comparison.tested ? [['Validation loss', arm => estimate(arm.validation, 4, fixed)]] : []),
        ...(comparison.also ? [['Change on the second text', arm => estimate(arm.also, 4, signed)]] : []),
        ['Bits per weight', arm => fixed(arm.bits_per_weight, 2)], ['Tokens per second', arm => count(arm.tokens_per_second)],
        ['Flips per weight', arm => short(arm.flips_per_weight)], ['Rate', arm => short(arm.lr)],
        ['Seeds', arm => String(arm.runs.length)]];
    return el('div', {class: 'scroll'}, el('table', {},
        el('thead', {}, el('tr', {}, el('th', {}, 'Arm'), columns.map(([title]) => el('th', {}, title)))),
        el('tbody', {}, comparison.arms.map(arm => el('tr', {}, el('th', {}, swatch(colour(arm)), '\u00a0' + arm.arm),
            columns.map(([, show], i) => el('td', {class: i === 0 && arm.loss && arm.loss.mean === best ? 'best' : null}, show(arm))))))));
}

/* Differences of each seed to the same seed of the reference. */
function pairedSeeds(comparison, arm) {
    const other = comparison.arms.find(a => a.arm === comparison.reference);
    return !other || other === arm ? [] : arm.runs.map(run => {
        const pair = other.runs.find(r => r.seed === run.seed);
        const [ours, theirs] = [seedLoss(comparison, run), pair && seedLoss(comparison, pair)];
        return isNumber(ours) && isNumber(theirs) ? ours - theirs : null;
    });
}

function comparisonSection(comparison, index) {
    const colour = arm => (groups.find(g => g.comparison === index && g.arm === arm.arm) || {colour: 'var(--soft)'}).colour;
    const losses = el('div', {class: 'panel'}, el('h3', {}, lossName(comparison)),
        el('p', {}, 'nats per byte; mean with standard error, each seed a dot'));
    const differences = el('div', {class: 'panel'}, el('h3', {}, 'Difference to ' + comparison.reference),
        el('p', {}, 'paired by seed, so that luck they share cancels; left is better'));
    $('comparisons').append(el('section', {id: 'comparison-' + index},
        el('h2', {}, 'Comparison' + (comparisons.length > 1 ? ': ' + comparison.label : '')),
        el('p', {class: 'about'}, 'Closure is the share of the way from frozen random signs to ste, the 1-bit baseline with float '
            + `latents. ${PLUS_MINUS} is the standard error over the seeds.`
            + (comparison.tested ? ' Losses, differences and closure are those of the test part, which every run evaluated once, at its '
                + 'end; rates were searched on the validation part only.' : '')
            + (comparison.also ? ' Change on the second text: its loss at the end less that before the first step; above 0 is forgotten.'
                : '')),
        armTable(comparison, colour), el('div', {class: 'panels', style: 'margin-top:20px'}, losses, differences)));
    const row = (arm, value, seeds) => ({name: arm.arm, colour: colour(arm), mean: value.mean, stderr: value.stderr, seeds});
    forest(losses, `forest-loss-${index}`, lossName(comparison) + ' of every arm', comparison.arms.filter(arm => arm.loss)
        .map(arm => row(arm, arm.loss, arm.runs.map(run => seedLoss(comparison, run)))), [], v => fixed(v, 2));
    const others = comparison.arms.filter(arm => arm.difference && arm.arm !== comparison.reference);
    if (others.length)
        forest(differences, `forest-difference-${index}`, 'Paired difference of every arm', others
            .map(arm => row(arm, arm.difference, pairedSeeds(comparison, arm))), [0], v => fixed(v, 2));
    else
        differences.remove();
}

/* ---- loss curves ------------------------------------------------------------------------------------------------ */

/* Centred moving average over a twentieth of the points; at the start, where losses fall fast, over fewer. */
function smooth(ys) {
    const reach = Math.floor(ys.length / 40);
    return ys.map((value, i) => mean(ys.slice(Math.max(0, i - reach), i + Math.min(reach, i) + 1).filter(isNumber)));
}

function valueAt(xs, ys, at) {
    let i = nearest(xs, at);
    if (xs[i] > at)
        i--;
    if (i < 0 || xs[i] === at || i === xs.length - 1)
        return ys[Math.max(i, 0)];
    const share = (at - xs[i]) / (xs[i + 1] - xs[i]);
    return isNumber(ys[i]) && isNumber(ys[i + 1]) ? ys[i] + share * (ys[i + 1] - ys[i]) : null;
}

/* Mean of several curves where all of them are. */
function meanCurve(curves) {
    const full = curves.filter(curve => curve.xs.length > 0);
    if (!full.length)
        return {xs: [], ys: []};
    const from = Math.max(...full.map(c => c.xs[0])), to = Math.min(...full.map(c => c.xs[c.xs.length - 1]));
    const xs = full[0].xs.filter(x => x >= from && x <= to);
    return {xs, ys: xs.map(x => {
        const values = full.map(c => valueAt(c.xs, c.ys, x));
        return values.every(isNumber) ? mean(values) : null;
    })};
}

function lossCurves(show) {
    const list = [];
    for (const group of groups.filter(g => !g.hidden)) {
        const several = group.runs.length > 1, style = {colour: group.colour, dash: group.dash};
        if (show.train) {
            const each = group.runs.map(run => ({xs: run.train.step, ys: smooth(run.train.loss)}));
            list.push({...style, ...meanCurve(each), name: group.name + ', training', width: 1, opacity: show.val ? 0.6 : 1});
        }
        if (show.val) {
            const each = group.runs.map(run => ({xs: run.val.step, ys: run.val.loss}));
            if (several)
                each.forEach(curve => list.push({...style, ...curve, name: '', width: 1, opacity: 0.4, silent: true}));
            list.push({...style, ...meanCurve(each), name: group.name, width: 2.2, dots: !several && groups.length <= 4});
        }
    }
    return list;
}

/* Losses behind the first third of each curve, with room for the end of the fall before it; null where that is nearly all. */
function lateRange(curves) {
    const all = extent(curves, 'ys', () => true);
    const late = extent(curves, 'ys', (value, curve, i) => curve.xs[i] >= curve.xs[curve.xs.length - 1] / 3);
    if (!late)
        return null;
    const range = [late[0], late[1] + 0.5 * (late[1] - late[0])];
    return range[1] - range[0] < 0.5 * (all[1] - all[0]) ? range : null;
}

function lossSection() {
    const show = {val: true, train: true, log: false, late: lateRange(lossCurves({val: true, train: true})) !== null};
    const body = $('loss-body');
    const entropies = [['entropy0', 'letters alone'], ['entropy1', 'pairs of letters']]
        .map(([key, name]) => ({name, y: common(run => run.text[key])})).filter(line => isNumber(line.y) && line.y > 0);
    const stroke = kind => el('i', {class: 'stroke ' + kind});
    const redraw = () => update();
    body.append(el('div', {class: 'controls'},
        groups.length > 1 ? groups.map(group => chip(group.name, swatch(group.colour), true, on => {
            group.hidden = !on;
            redraw();
        })) : null), el('div', {class: 'controls'},
        chip('validation', stroke(''), true, on => { show.val = on; redraw(); }),
        chip('training, smoothed', stroke('thin'), true, on => { show.train = on; redraw(); }), el('span', {class: 'gap'}),
        choice('Step axis', ['linear', 'logarithmic'], 0, i => { show.log = i === 1; redraw(); }),
        choice('Range', ['whole fall', 'close-up'], show.late ? 1 : 0, i => { show.late = i === 1; redraw(); })));
    const update = picture(body, {name: 'loss', label: 'Validation and training loss over steps', height: 360,
        format: v => fixed(v, show.late ? 2 : 1), exact: v => fixed(v, 4), curves: () => lossCurves(show), logX: () => show.log,
        domain: curves => show.late ? lateRange(curves) : null, references: () => entropies});
    if (entropies.length)
        body.append(el('p', {class: 'note'},
            'Dotted: what knowing only how often letters, or pairs of letters, occur in this text would give.'));
    if (!runs.some(run => run.val.step.length || run.train.step.length))
        body.append(el('p', {class: 'note'}, 'No step has been logged yet.'));
}

/* ---- health ----------------------------------------------------------------------------------------------------- */

const FIGURES = [
    {key: 'pulses', title: 'Density', about: 'share of the weights pulsed per step; dashed: wanted', format: percent, zero: true},
    {key: 'flips', title: 'Flip rate', about: 'share of the weights whose sign changes per step', format: percent, logY: true},
    {key: 'dead', title: 'Dead', about: 'share of the weights not pulsed once in a window', format: percent, zero: true},
    {key: 'oscillating', title: 'Oscillating', about: 'share of the weights that flipped more than 3 times in a window',
        format: percent, zero: true},
    {key: 'deepest', title: 'Deepest state', about: 'share of the weights as far from a flip as can be', format: percent, zero: true},
    {key: 'gradient_rms', title: 'Gradient', about: 'root mean square of the loss gradient per weight', format: short, logY: true},
    {key: 'scale_drift', title: 'Scale drift', about: 'root mean square of row scale / start \u2212 1', format: percent, zero: true},
];
/* From blue by way of purple to orange: shallow to deep. */
const layerColour = (layer, layers) => `hsl(${215 + Math.round(170 * (layers > 1 ? layer / (layers - 1) : 0))} 62% var(--ramp))`;

/* Curves of one figure of a run: every layer and all together; without health, those of the steps. */
function figureCurves(run, key) {
    const health = run.health, list = [];
    const wanted = (xs, ys) => ({name: 'wanted', xs, ys, colour: 'var(--soft)', dash: '5 4', width: 1.6, always: true});
    if (!health) {
        if (key === 'pulses')
            list.push(wanted(run.train.step, run.train.density));
        if (key in run.train)
            list.push({name: 'all', xs: run.train.step, ys: run.train[key], colour: 'var(--ink)', always: true});
        return list.filter(curve => curve.ys.some(value => isNumber(value) && value !== 0));
    }
    health.layers.forEach((layer, l) => list.push({name: 'layer ' + l, xs: health.step, ys: layer[key] || [], width: 1.4,
        opacity: 0.85, colour: layerColour(l, health.layers.length), dots: health.step.length < 3}));
    list.push({name: 'all layers', xs: health.step, ys: health.all[key] || [], width: 2.4, colour: 'var(--ink)', always: true,
        dots: health.step.length < 3});
    if (key === 'pulses')
        list.push(wanted(health.step, health.all.density || []));
    return list.filter(curve => curve.ys.some(isNumber));
}

function healthFigures(run, host) {
    const layers = run.health ? run.health.layers.length : 0;
    const missing = [];
    host.replaceChildren();
    if (layers > 1)
        host.append(el('p', {class: 'ramp'}, 'layer 0', el('i', {style: `background:linear-gradient(90deg,${
            [0, 1, 2, 3, 4, 5].map(i => layerColour(i, 6)).join(',')})`}), 'layer ' + (layers - 1), el('u'), 'all'));
    const panels = el('div', {class: 'panels'});
    host.append(panels);
    for (const figure of FIGURES) {
        const curves = figureCurves(run, figure.key);
        if (!curves.some(curve => curve.name !== 'wanted')) {
            missing.push(figure.title.toLowerCase());
            continue;
        }
        const panel = el('div', {class: 'panel'}, el('h3', {}, figure.title), el('p', {}, figure.about));
        panels.append(panel);
        picture(panel, {...figure, name: 'health-' + figure.key, label: figure.title + ' over steps', curves: () => curves, pick: true,
            marks: () => run.warnings.filter(w => w.figure === figure.key).map(w => w.step)});
    }
    if (!run.health)
        host.append(el('p', {class: 'note'}, 'No health window has ended in this run, so nothing is known about its layers.'));
    else if (missing.length)
        host.append(el('p', {class: 'note'}, 'This run has no figures for: ' + missing.join(', ') + '.'));
}

function healthSection() {
    const list = runs.filter(run => run.health || FIGURES.some(figure => figureCurves(run, figure.key).length));
    if (!list.length) {
        $('health').hidden = true;
        return;
    }
    const host = el('div'), choose = run => {
        const window = run.health && run.health.window;
        $('health-about').textContent = (window ? `Measured over windows of ${plural(window, 'step')}. ` : '')
            + (run.warnings.length ? 'Triangles mark warnings. ' : '') + 'Touch a picture to read the nearest layer.';
        healthFigures(run, host);
    };
    $('health-body').append(el('div', {class: 'controls'}, runChooser(list, choose)), host);
    choose(list[0]);
}

/* ---- bit maps --------------------------------------------------------------------------------------------------- */

function decode(text) {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++)
        out[i] = raw.charCodeAt(i);
    return out;
}

function paint(canvas, rows, cols, colourOf) {
    const style = getComputedStyle(document.documentElement), brush = canvas.getContext('2d');
    const image = brush.createImageData(cols, rows), known = new Map();
    const rgb = name => {
        if (!known.has(name)) {
            const hex = style.getPropertyValue('--' + name).trim().slice(1);
            known.set(name, [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16)));
        }
        return known.get(name);
    };
    for (let r = 0, o = 0; r < rows; r++)
        for (let c = 0; c < cols; c++, o += 4)
            image.data.set([...rgb(colourOf(r, c)), 255], o);
    brush.putImageData(image, 0, 0);
}

function bitMaps(run, host) {
    const bits = run.bits, rows = bits.shown_rows, cols = bits.shown_cols;
    const before = decode(bits.before), after = decode(bits.after);
    const bit = (map, r, c) => map[r * (cols >> 3) + (c >> 3)] >> (c & 7) & 1;
    const isSet = map => (r, c) => bit(map, r, c) ? 'bit-set' : 'bit-clear';
    const change = (r, c) => bit(before, r, c) === bit(after, r, c) ? 'same' : bit(after, r, c) ? 'up' : 'down';
    const maps = [[bits.before_from === 'seed' ? 'Start' : bits.before_from,
        bits.before_from === 'seed' ? 'signs drawn from the seed' : 'oldest checkpoint', isSet(before)],
        [bits.checkpoint, 'newest checkpoint', isSet(after)], ['Flipped', percent(bits.flipped) + ' of all weights of the matrix', change]];
    const grid = el('div', {class: 'maps'});
    for (const [title, about, colourOf] of maps) {
        const canvas = el('canvas', {width: cols, height: rows, role: 'img', 'aria-label': title, tabindex: 0,
            onclick: () => grid.classList.toggle('large')});
        paint(canvas, rows, cols, colourOf);
        repaints.push(() => canvas.isConnected && paint(canvas, rows, cols, colourOf));
        grid.append(el('figure', {}, el('figcaption', {}, el('b', {}, title), about), canvas));
    }
    const key = (name, text) => el('span', {},
        el('i', {class: 'swatch', style: `--own:var(--${name});border:1px solid var(--line)`}), text);
    host.replaceChildren(grid, el('p', {class: 'legend'}, key('bit-set', '+1'), key('bit-clear', MINUS + '1'),
        key('up', `${MINUS}1 became +1`), key('down', `+1 became ${MINUS}1`), 'touch a picture to enlarge it'));
    const cut = rows < bits.rows || cols < bits.cols;
    $('bits-about').textContent = `${bits.tensor}, ${bits.rows} rows (outputs) ${TIMES} ${bits.cols} columns (inputs)`
        + (cut ? `; shown: the top left ${rows} ${TIMES} ${cols}` : '') + '.';
}

const repaints = [];

function bitSection() {
    const list = runs.filter(run => run.bits && run.bits.after);
    const host = el('div');
    const notes = runs.filter(run => run.bits && run.bits.note);
    if (list.length) {
        $('bits-body').append(el('div', {class: 'controls'}, runChooser(list, run => bitMaps(run, host))), host);
        bitMaps(list[0], host);
    }
    const texts = [...new Set(notes.map(run => run.bits.note))];
    for (const text of texts) {
        const names = new Set(notes.filter(run => run.bits.note === text).map(run => groupOf(run).name));
        $('bits-body').append(el('p', {class: 'note'}, (runs.length > 1 ? [...names].join(', ') + ': ' : '') + text + '.'));
    }
    const redraw = () => repaints.forEach(repaint => repaint());
    for (const query of ['(prefers-color-scheme: dark)', 'print'])
        matchMedia(query).addEventListener('change', redraw);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

function memorySection() {
    const list = groups.map(group => ({name: group.name, run: group.runs.find(run => run.memory)})).filter(entry => entry.run);
    if (!list.length) {
        $('memory').hidden = true;
        return;
    }
    const tags = [...new Set(list.flatMap(({run}) => Object.keys(run.memory)))].filter(tag => list.some(({run}) => run.memory[tag] > 0));
    const size = (run, tag) => isNumber(run.memory[tag]) ? Math.max(0, run.memory[tag]) : 0;
    const total = run => tags.reduce((sum, tag) => sum + size(run, tag), 0);
    const most = Math.max(...list.map(({run}) => total(run)), 1), colour = tag => `var(--c${tags.indexOf(tag) % COLOURS})`;
    $('memory-about').textContent = 'What the library booked, by what it is for; '
        + (list.every(({run}) => run.memory_peak) ? 'the most of each tag at any time.'
            : 'peaks of runs that ended, current values of others.');
    $('memory-body').append(el('div', {class: 'bars'}, list.map(({name, run}) => el('div', {},
        el('div', {class: 'bar-name'}, el('b', {}, name), el('span', {}, bytes(total(run)))),
        el('div', {class: 'bar', style: `width:${Math.max(0.5, 100 * total(run) / most)}%`},
            tags.filter(tag => size(run, tag) > 0).map(tag => el('i', {title: `${tag}: ${bytes(size(run, tag))}`,
                style: `--own:${colour(tag)};flex-grow:${100 * size(run, tag) / total(run)}`})))))),
        el('p', {class: 'legend'}, tags.map(tag => el('span', {}, swatch(colour(tag)),
            tag + (list.length === 1 ? ' ' + bytes(size(list[0].run, tag)) : '')))));
    if (list.length > 1)
        $('memory-body').append(el('details', {}, el('summary', {}, 'Numbers'), el('div', {class: 'scroll'}, el('table', {},
            el('thead', {}, el('tr', {}, el('th', {}, 'Tag'), list.map(({name}) => el('th', {}, name)))),
            el('tbody', {}, tags.map(tag => el('tr', {}, el('th', {}, tag), list.map(({run}) => el('td', {}, bytes(size(run, tag)))))))))));
}

/* ---- settings and results --------------------------------------------------------------------------------------- */

/* Title, value, how to show it, which is best; rare: left out where no run has it. */
const RESULTS = [
    ['Validation loss', finalLoss, v => fixed(v, 4), 'least'], ['Best on the way', result('best_loss'), v => fixed(v, 4)],
    ['Test loss', result('test_loss'), v => fixed(v, 4), null, 'rare'],
    ['Second text, at the start', result('also_loss_start'), v => fixed(v, 4), null, 'rare'],
    ['Second text, at the end', result('also_loss'), v => fixed(v, 4), null, 'rare'],
    ['Change on the second text', alsoChange, v => signed(v, 4), null, 'rare'],
    ['Training loss', result('train_loss'), v => fixed(v, 4)], ['Steps done', run => run.result ? run.result.step : run.last_step, whole],
    ['Tokens', result('tokens'), count], ['Tokens per second', result('tokens_per_second'), count, 'most'],
    ['Time in steps', result('step_seconds'), duration], ['Flips per weight', result('flips_per_weight'), short],
    ['Bits per weight, inference', result('packed_bits_per_weight'), v => fixed(v, 3), 'least'],
    ['Bits per weight, training', result('training_bits_per_weight'), v => fixed(v, 2), 'least'],
    ['Memory of the matrices', result('training_bytes'), bytes, 'least'], ['16-bit AdamW would take', result('adamw16_bytes'), bytes],
    ['Peak memory', run => run.peak, bytes, 'least'],
    ['Ended by', run => run.result ? run.result.stopped || DASH : 'still running, or cut off', String],
    ['Warnings', run => run.warning_count, whole],
];

const showSetting = value => value === undefined || value === null ? DASH : typeof value === 'boolean' ? (value ? 'yes' : 'no')
    : isNumber(value) ? (Number.isInteger(value) ? sign(String(value)) : sign(String(Number(value.toPrecision(6))))) : String(value);

/* Settings by name: what the run resolved, and the options that are no part of that. */
function settingsOf(run) {
    const out = new Map(), known = new Set();
    for (const part of ['model', 'training', 'text'])
        for (const [key, value] of Object.entries(run[part])) {
            out.set((part === 'text' ? 'text ' : '') + key.replace(/_/g, ' '), value);
            known.add(key.replace(/_/g, '-'));
        }
    for (const [key, value] of Object.entries(run.options))
        if (!known.has(key))
            out.set('--' + key, value);
    return out;
}

function tableOf(groupsOfRows) {
    const head = runs.length > 1 ? el('thead', {}, el('tr', {}, el('th'),
        runs.map(run => el('th', {}, swatch(groupOf(run).colour), groupName(run))))) : null;
    return el('div', {class: 'scroll'}, el('table', {}, head, el('tbody', {}, groupsOfRows)));
}

function resultRow([title, get, show, best]) {
    const values = runs.map(get), numbers = values.filter(isNumber);
    const mark = runs.length > 1 && best && new Set(numbers).size > 1 ? (best === 'least' ? Math.min : Math.max)(...numbers) : null;
    return el('tr', {}, el('th', {}, title),
        values.map(value => el('td', {class: isNumber(value) && value === mark ? 'best' : null}, show(value))));
}

function settingRow(name, values) {
    const texts = values.map(showSetting), usual = texts.slice().sort((a, b) =>
        texts.filter(t => t === b).length - texts.filter(t => t === a).length || texts.indexOf(a) - texts.indexOf(b))[0];
    const differs = texts.some(text => text !== texts[0]);
    return {differs, row: el('tr', {class: differs ? 'differs' : null}, el('th', {}, name),
        texts.map(text => el('td', {class: 'text' + (differs && text !== usual ? ' other' : '')}, text)))};
}

function tableSection() {
    const body = $('table-body'), settings = runs.map(settingsOf);
    const names = [...new Set(settings.flatMap(map => [...map.keys()]))];
    const rows = names.map(name => settingRow(name, settings.map(map => map.get(name))));
    const differing = rows.filter(row => row.differs).map(row => row.row), equal = rows.filter(row => !row.differs).map(row => row.row);
    const heading = text => el('tr', {class: 'group'}, el('th', {colspan: runs.length + 1}, text));
    const results = RESULTS.filter(([, get, , , rare]) => !rare || runs.some(run => isNumber(get(run))));
    body.append(tableOf([results.map(resultRow), differing.length ? [heading('Settings that differ'), differing] : []]));
    if (equal.length)
        body.append(el('details', {}, el('summary', {}, runs.length > 1 ? `${plural(equal.length, 'setting')} that agree` : 'All settings'),
            tableOf(equal)));
    window.addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(d => { d.open = true; }));
}

/* ---- warnings --------------------------------------------------------------------------------------------------- */

function warningSection() {
    const list = el('ul', {class: 'warnings'});
    for (const run of runs) {
        for (const warning of run.warnings)
            list.append(el('li', {}, warning.text || warning.figure, el('small', {}, [runs.length > 1 ? groupName(run) : '',
                'step ' + whole(warning.step)].filter(Boolean).join(DOT))));
        if (run.warning_count > run.warnings.length)
            list.append(el('li', {}, `and ${run.warning_count - run.warnings.length} more`,
                el('small', {}, groupName(run))));
    }
    $('warnings-body').append(list);
}

/* ---- all of it -------------------------------------------------------------------------------------------------- */

function guard(work) {
    try {
        work();
    } catch (error) {
        tell(error);
    }
}

guard(headline);
guard(cards);
comparisons.forEach((comparison, i) => guard(() => comparisonSection(comparison, i)));
for (const section of [lossSection, healthSection, bitSection, memorySection, tableSection, warningSection, contents])
    guard(section);
$('footer').textContent = `Made by qsbits ${data.qsbits}. The same run folders give the same page.`;
const resized = () => guard(() => pictures.filter(p => p.stale()).forEach(p => p.redraw()));
window.addEventListener('resize', resized);
