"""The style sheet and the script of the pages. The pages work without the script: it only fetches a page again while it is looked at,
and keeps the focus, what is opened, and where one has scrolled to."""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2024;--dim:#5a6370;--line:#d6dae0;--soft:#f4f6f8;--link:#0b57b0;
--hit:#e3f4e6;--hit-line:#2c7a3b;--miss:#fdf0d9;--miss-line:#9a6200;--failed:#fde4e2;--failed-line:#b3261e}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e4e7ea;--dim:#9aa4b0;--line:#353b43;--soft:#1d2126;--link:#7db7ff;
--hit:#173020;--hit-line:#6cc483;--miss:#35290f;--miss-line:#e0aa4a;--failed:#3c1a18;--failed-line:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
header{border-bottom:1px solid var(--line);background:var(--soft);padding:.6rem 1rem;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;align-items:baseline}
header strong{font-size:1.1rem}
main{padding:1rem;max-width:76rem;margin:0 auto}
h1{font-size:1.4rem;margin:.2rem 0 .6rem}h2{font-size:1.1rem;margin:1.6rem 0 .5rem}h3{font-size:1rem;margin:1rem 0 .3rem}
a{color:var(--link)}a:focus-visible,[tabindex]:focus-visible,summary:focus-visible{outline:3px solid var(--link);outline-offset:2px}
a[aria-current]{color:var(--fg);font-weight:600;text-decoration:none}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
.scroll{overflow-x:auto;max-width:100%;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.4rem .7rem;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}th{background:var(--soft);font-weight:600;white-space:nowrap}tr:target{background:var(--soft)}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.wrap{min-width:14rem;overflow-wrap:anywhere}td.nowrap,td.nowrap code{white-space:nowrap}
code{font:13px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}.dim{color:var(--dim)}
.tag{border-radius:4px;padding:0 .45rem;border:1px solid var(--line);white-space:nowrap}
.tag.hit{background:var(--hit);border-color:var(--hit-line)}.tag.miss{background:var(--miss);border-color:var(--miss-line)}
.tag.running{background:var(--miss);border:1px dashed var(--miss-line)}
.tag.failed{background:var(--failed);border-color:var(--failed-line)}
dl.facts{display:flex;flex-wrap:wrap;gap:.6rem 2rem;margin:.6rem 0}dl.facts dt{color:var(--dim);font-size:13px}dl.facts dd{margin:0;font-size:1.1rem}
svg{display:block}svg text{fill:var(--fg);font:12.5px ui-monospace,monospace}svg text.small{fill:var(--dim);font-size:11.5px}
svg text.head{font-weight:600}.edge{fill:none;stroke:var(--dim);stroke-width:1.5}
.node rect,.bar{fill:var(--soft);stroke:var(--dim)}.hit rect,.bar.hit{fill:var(--hit);stroke:var(--hit-line)}
.miss rect,.bar.miss{fill:var(--miss);stroke:var(--miss-line)}.running rect,.bar.running{fill:var(--miss);stroke:var(--miss-line);stroke-dasharray:5 3}
.failed rect,.bar.failed{fill:var(--failed);stroke:var(--failed-line)}
pre.log{font:13px/1.45 ui-monospace,monospace;background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem;margin:.4rem 0;
overflow:auto;max-height:36rem;white-space:pre-wrap;overflow-wrap:anywhere}
@media (max-width:40rem){main{padding:.7rem}th,td{padding:.35rem .5rem}td.wrap{min-width:9rem}}
"""

SCRIPT = """
"use strict";
const main = document.querySelector("main[data-again]");
if (main) for (const log of main.querySelectorAll("pre.log")) log.scrollTop = log.scrollHeight;
const again = main && setInterval(async () => {
  const chosen = getSelection();
  if (document.hidden || (!chosen.isCollapsed && main.contains(chosen.anchorNode))) return;
  try {
    const reply = await fetch(location.href, {credentials: "same-origin"});
    if (reply.redirected) { location.replace(reply.url); return; }
    if (!reply.ok && reply.status !== 404) return;
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const fresh = page.querySelector("main");
    if (!fresh || fresh.innerHTML === main.innerHTML) return;
    const ends = [...main.querySelectorAll("pre.log")].map(log => log.scrollTop + log.clientHeight > log.scrollHeight - 8 ? -1 : log.scrollTop);
    const name = one => one.id || one.getAttribute("href") || one.getAttribute("aria-label") || one.textContent;
    const opened = [...main.querySelectorAll("details")].map(one => one.open);
    const focused = main.contains(document.activeElement) ? name(document.activeElement) : null;
    const places = new Map([...main.querySelectorAll(".scroll")].map(one => [name(one), one.scrollLeft]));
    main.replaceChildren(...fresh.childNodes);
    main.querySelectorAll("details").forEach((one, n) => { one.open = opened[n] || false; });
    main.querySelectorAll(".scroll").forEach(one => { one.scrollLeft = places.get(name(one)) || 0; });
    if (focused !== null) {
      const again = [...main.querySelectorAll("a,summary,[tabindex]")].find(one => name(one) === focused);
      if (again) again.focus({preventScroll: true});
    }
    main.querySelectorAll("pre.log").forEach((log, n) => { log.scrollTop = ends[n] === undefined || ends[n] < 0 ? log.scrollHeight : ends[n]; });
    if (!page.querySelector("main[data-again]")) clearInterval(again);
  } catch { /* the engine is away: the page stays as it is */ }
}, 1000 * Number(main.dataset.again || 3));
"""
