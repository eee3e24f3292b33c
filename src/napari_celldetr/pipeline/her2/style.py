"""How a report looks: on a screen, and on paper."""

from __future__ import annotations

from napari_celldetr.pipeline.her2.palette import SCORE_COLORS, css

_CLASSES = {"0": "s0", "1+": "s1", "2+": "s2", "3+": "s3"}

STYLE = (
    ":root{"
    + "".join(f"--{_CLASSES[s]}:{css(c)};" for s, c in SCORE_COLORS.items())
    + """--ink:#1d1f24;--soft:#5c6270;--line:#dfe2e8;--wash:#f5f6f8}
*{box-sizing:border-box}
body{font:15px/1.5 "Segoe UI",system-ui,-apple-system,"Helvetica Neue",Arial,sans-serif;
color:var(--ink);background:#fff;max-width:1040px;margin:0 auto;padding:28px 28px 48px}
h1,h2,h3,p,dl,dd,ol,figure{margin:0;padding:0}
h1{font-size:21px;font-weight:650;overflow-wrap:anywhere}
h2{font-size:17px;font-weight:650;margin:40px 0 4px;padding-top:16px;
border-top:1px solid var(--line)}
h2+p{color:var(--soft);margin-bottom:12px;max-width:74ch}
.over{font-size:13px;color:var(--soft);margin-bottom:2px}
.verdict{display:grid;grid-template-columns:minmax(180px,auto) 1fr;gap:28px;margin-top:20px;
padding:22px 24px;background:var(--wash);border-radius:10px;align-items:center}
.mark{font-size:60px;line-height:1;font-weight:700;letter-spacing:-.02em;white-space:nowrap;
padding:6px 0 14px;border-bottom:8px solid var(--c,#9aa0ab)}
.mark small{display:block;font-size:14px;font-weight:500;letter-spacing:0;color:var(--soft);
margin-bottom:8px}
.mark.none{font-size:34px}
.verdict .why{font-size:17px;font-weight:550}
.verdict ul{margin:8px 0 0;padding-left:18px}.verdict p+p{margin-top:8px}
.facts{display:grid;grid-template-columns:repeat(3,1fr);gap:0;margin-top:18px}
.facts div{padding:0 18px;border-left:1px solid var(--line)}
.facts div:first-child{padding-left:0;border:0}
.facts dt{font-size:13px;color:var(--soft)}.facts dd{font-size:22px;font-weight:650}
.facts dd small{display:block;font-size:13px;font-weight:400;color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-size:13px;font-weight:500;color:var(--soft);text-align:left;padding:4px 12px 4px 0;
vertical-align:bottom}
td{padding:7px 12px 7px 0;border-top:1px solid var(--line);vertical-align:middle}
td.n,th.n{text-align:right;white-space:nowrap}
td small{color:var(--soft);white-space:nowrap}
td svg{display:block;width:100%;height:30px}
.dot{display:inline-block;width:14px;height:14px;border-radius:3px;margin-right:8px;
vertical-align:-2px;border:1px solid rgba(0,0,0,.25)}
.name{font-weight:600;white-space:nowrap}
ol.tree{list-style:none;counter-reset:q;margin-top:8px}
ol.tree li{display:grid;grid-template-columns:30px 1fr 250px 96px;gap:14px;align-items:center;
padding:11px 12px;border-top:1px solid var(--line);counter-increment:q}
ol.tree li::before{content:counter(q);color:var(--soft);font-size:13px}
ol.tree li.decides{background:#fff;border:2px solid var(--ink);border-radius:8px;margin:4px 0}
ol.tree li.decides+li{border-top:0}
ol.tree li.decides .q{font-weight:650}
ol.tree li.unasked{color:#8b909b}ol.tree li.unasked svg{opacity:.45}
.q small{display:block;color:var(--soft);font-weight:400}.unasked .q small{color:inherit}
.a{font-weight:650;text-align:right}.a small{display:block;font-weight:400;color:var(--soft)}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
figure img{width:100%;height:auto;display:block;border-radius:6px;border:1px solid var(--line)}
figcaption{font-size:13px;color:var(--soft);margin-top:6px}
.overview{display:grid;grid-template-columns:repeat(auto-fit,minmax(360px,1fr));gap:14px}
.near{display:grid;grid-template-columns:repeat(4,1fr);gap:14px;margin-top:18px}
.near h3{font-size:14px;font-weight:600;margin-bottom:6px}
.near figure+figure{margin-top:8px}
.key{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:13px;margin:10px 0}
.two{display:grid;grid-template-columns:1fr 1fr;gap:8px 36px}
dl.rows{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;font-size:14px;
align-content:start}
dl.rows dt{color:var(--soft)}dl.rows dd{overflow-wrap:anywhere}
.two h3{font-size:14px;font-weight:650;margin:10px 0 4px}
.mono{font-family:ui-monospace,"SF Mono",Consolas,"DejaVu Sans Mono",monospace;font-size:12px}
ul.plain{margin:4px 0 0;padding-left:18px;max-width:80ch}ul.plain li{margin:2px 0}
footer{margin-top:40px;padding-top:14px;border-top:2px solid var(--ink);font-size:13px;
color:var(--soft)}footer b{color:var(--ink)}
@media (max-width:760px){.verdict,.two{grid-template-columns:1fr}.facts,.near{
grid-template-columns:1fr 1fr;row-gap:14px}ol.tree li{grid-template-columns:24px 1fr 80px}
ol.tree li svg{display:none}}
@media print{@page{margin:14mm}body{max-width:none;padding:0;font-size:10.5pt}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
h2{break-after:avoid;margin-top:22px}li,tr,figure,.verdict,.near,.two>div{break-inside:avoid}
.overview{grid-template-columns:1fr 1fr}}
"""
)


def class_of(score: str) -> str:
    """The name of a score's colour in the style sheet."""
    return _CLASSES[score]
