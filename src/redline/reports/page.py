"""The shell of a report: one page with its style and script inside, that loads nothing from anywhere."""

from __future__ import annotations

from html import escape

# Nothing but what the page carries may load, whatever a run's names and values contain.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f4; --card: #ffffff; --ink: #1b1c1e; --soft: #6a6d73; --rule: #e4e4e0; --grid: #ecece8;
  --accent: #d5281f; --accent-soft: #fdf0ef;
  --c1: #d5281f; --c2: #2767c9; --c3: #c98a00; --c4: #188a5a; --c5: #7a4fc4; --c6: #b0407f; --c0: #9a9da3;
}
@media (prefers-color-scheme: dark) { :root {
  --page: #131416; --card: #1c1e21; --ink: #ececea; --soft: #9b9ea5; --rule: #2e3136; --grid: #292c30;
  --accent: #ff6a5f; --accent-soft: #2c1d1d;
  --c1: #ff6a5f; --c2: #6da3f5; --c3: #e6b04a; --c4: #4fc393; --c5: #ab8bee; --c6: #e585bb; --c0: #7c8087;
} }
.c0 { --c: var(--c0) } .c1 { --c: var(--c1) } .c2 { --c: var(--c2) } .c3 { --c: var(--c3) }
.c4 { --c: var(--c4) } .c5 { --c: var(--c5) } .c6 { --c: var(--c6) }
* { box-sizing: border-box; margin: 0 }
body {
  background: var(--page); color: var(--ink); padding: clamp(16px, 4vw, 48px) clamp(12px, 3vw, 32px) 64px;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, Inter, "Helvetica Neue", "Noto Sans", sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 1120px; margin: 0 auto; display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr) }
header { padding: 0 2px 4px }
.brand { color: var(--accent); font-size: 12px; font-weight: 700; letter-spacing: .14em; text-transform: uppercase }
h1 { font-size: clamp(24px, 4.2vw, 36px); line-height: 1.2; letter-spacing: -.02em; overflow-wrap: anywhere }
.meta { color: var(--soft); margin-top: 4px } .meta b { color: var(--ink); font-weight: 600 }
h2 { font-size: 17px; letter-spacing: -.01em; margin: 20px 2px -4px }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 18px 20px; min-width: 0 }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; padding: 0; background: var(--rule); overflow: hidden }
.tiles div { background: var(--card); padding: 16px; flex: 1 1 140px }
.tiles span { display: block; color: var(--soft); font-size: 13px }
.tiles b { display: block; font-size: 24px; line-height: 1.3; font-weight: 650; letter-spacing: -.02em;
  white-space: nowrap; font-variant-numeric: tabular-nums }
.tiles small { color: var(--soft); font-size: 12.5px }
.tiles .main b { color: var(--accent) }
.say { background: var(--accent-soft); border-color: transparent }
.say p { font-weight: 550 } .say .bar { margin-top: 12px }
.bar { display: flex; height: 30px; border-radius: 7px; overflow: hidden; gap: 2px }
.bar span { background: var(--c); color: #fff; font-size: 12.5px; font-weight: 600; line-height: 30px; padding: 0 8px;
  overflow: hidden; white-space: nowrap } .bar em { font-style: normal }
@media (prefers-color-scheme: dark) { .bar span { color: #16171a } }
.hero { display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr) }
.two { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)) }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)) }
@media (min-width: 860px) { .hero.filmed { grid-template-columns: minmax(0, 2fr) minmax(240px, 1fr) } }
figure.card { display: flex; flex-direction: column }
figcaption { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 14px; margin-bottom: 12px }
figcaption b { font-size: 15px; font-weight: 650 } figcaption small { color: var(--soft); font-size: 13px }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin-left: auto; font-size: 13px; color: var(--soft) }
.legend i { display: inline-block; width: 14px; height: 4px; border-radius: 2px; background: var(--c);
  vertical-align: middle; margin-right: 6px }
.plot { position: relative; flex: 1 0 auto; height: 300px; margin: 6px 6px 26px 46px; touch-action: pan-y }
.small .plot { height: 150px }
.hero .plot { height: 340px }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: hidden }
.plot path { fill: none; vector-effect: non-scaling-stroke }
.plot .grid { stroke: var(--grid); stroke-width: 1 }
.plot .line { stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.plot .line.faint { stroke-width: 1; opacity: .4 }
.plot .band { fill: var(--c); opacity: .15 } .plot .area { fill: var(--c); opacity: .8 }
.plot .mark { stroke: var(--c); stroke-width: 1; stroke-dasharray: 4 4 }
.mk { position: absolute; padding: 1px 6px; font-size: 12px; line-height: 16px; color: var(--c); white-space: nowrap;
  pointer-events: none }
.mk.before { transform: translateX(-100%) }
.rows { display: grid; grid-template-columns: fit-content(45%) minmax(60px, 1fr) max-content; gap: 8px 12px;
  align-items: center; font-size: 14px; font-variant-numeric: tabular-nums }
.rows small { color: var(--soft); font-size: 12.5px }
.track { position: relative; height: 16px; background: var(--grid); border-radius: 4px }
.track i { position: absolute; top: 0; bottom: 0; left: 0; background: var(--c); border-radius: 4px }
.track b { position: absolute; top: 7px; height: 2px; background: var(--ink); opacity: .7 }
.dot { position: absolute; width: 7px; height: 7px; margin: -3.5px; border-radius: 50%; background: var(--card);
  border: 2px solid var(--c) }
.yt, .xt { position: absolute; font-size: 12px; line-height: 1; color: var(--soft); white-space: nowrap;
  font-variant-numeric: tabular-nums }
.yt { right: calc(100% + 8px); transform: translateY(-50%) }
.xt { top: calc(100% + 9px); transform: translateX(-50%) }
.xt.first { transform: none } .xt.last { transform: translateX(-100%) }
.xname { color: var(--soft); font-size: 12px; text-align: right; margin: 0 6px -6px; line-height: 1.2 }
.small .xname { display: none } .small .plot { margin-bottom: 16px }
.cursor { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--soft); opacity: 0; pointer-events: none }
.tip { position: absolute; top: 6px; z-index: 2; pointer-events: none; opacity: 0; background: var(--ink);
  color: var(--page); border-radius: 8px; padding: 7px 10px; font-size: 12.5px; line-height: 1.5; white-space: nowrap;
  font-variant-numeric: tabular-nums }
.tip i { display: inline-block; width: 8px; height: 8px; border-radius: 50%; background: var(--c); margin-right: 6px }
.tip em { font-style: normal; opacity: .7 }
.plot.on .cursor { opacity: .6 } .plot.on .tip { opacity: 1 }
.empty { color: var(--soft); padding: 24px 0; text-align: center }
video, .film img { width: 100%; max-height: 420px; object-fit: contain; border-radius: 8px; background: #000;
  display: block; image-rendering: pixelated }
ul { padding-left: 20px } li { margin: 4px 0 } li::marker { color: var(--accent) }
table { border-collapse: collapse; width: 100%; font-size: 14px }
th, td { text-align: left; padding: 6px 16px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top }
tr:last-child > * { border-bottom: 0 }
th { font-weight: 500; color: var(--soft) } thead th { font-size: 13px; white-space: nowrap }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
.facts { columns: 330px 3; column-gap: 16px; margin-bottom: -16px }
.facts .card { break-inside: avoid; margin-bottom: 16px }
.facts th { width: 50%; font-size: 13px; overflow-wrap: anywhere }
code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
.wide { overflow-x: auto } .wide td, .wide th { white-space: nowrap }
@media (max-width: 560px) {
  .card { padding: 14px } .tiles { padding: 0 } .tiles div { padding: 12px 14px }
  .tiles b { font-size: 22px } .plot { height: 220px; margin-left: 40px } .hero .plot { height: 240px }
  .small .plot { height: 130px }
  .legend { margin-left: 0 } .bar .narrow { display: none }
}
@media (max-width: 380px) { .xt:nth-child(even of .xt):not(.last) { display: none } }
@media print { body { background: none; padding: 0 } .card { break-inside: avoid } }
"""

SCRIPT = """
for (const plot of document.querySelectorAll('.plot')) {
  const rows = JSON.parse(plot.dataset.chart || '[]');
  const cursor = plot.querySelector('.cursor'), tip = plot.querySelector('.tip');
  if (!rows.length) continue;
  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (low < high) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle + 1; else high = middle }
    return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
  };
  const show = event => {
    const box = plot.getBoundingClientRect();
    const x = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const main = nearest(rows[0].x, x), at = rows[0].x[main];
    cursor.style.left = at * 100 + '%';
    tip.replaceChildren();
    const head = document.createElement('em');
    head.textContent = rows[0].t[main] + ' ' + plot.dataset.x;
    tip.append(head);
    for (const row of rows) {
      const line = document.createElement('div'), mark = document.createElement('i');
      mark.className = row.c;
      line.append(mark, row.n + '  ' + row.v[nearest(row.x, at)]);
      tip.append(line);
    }
    const left = at * box.width, wide = tip.offsetWidth;
    tip.style.left = (left + wide + 16 > box.width ? Math.max(0, left - wide - 12) : left + 12) + 'px';
    plot.classList.add('on');
  };
  plot.addEventListener('pointermove', show);
  plot.addEventListener('pointerdown', show);
  plot.addEventListener('pointerleave', () => plot.classList.remove('on'));
}
"""


def page(title: str, body: str) -> str:
    """A whole HTML document around ``body`` (already HTML)."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main><script>{SCRIPT}</script></body></html>\n"
    )
