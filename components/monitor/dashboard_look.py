"""What dxflow adds to Evidently's pages while serving them: tabs, colours that tell fifty lines apart, and no buttons that cannot work here.

Evidently's browser code has six colours for lines and no setting for them, and calls a count of 0 "no value", so one constant and two expressions of
it are replaced on the way out; its installed files stay as they are. Where another version has other code, it is served untouched, with both faults
(`tests/monitor/test_dashboard_server.py` tells).
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# Neighbours differ in hue and lightness, on light and on dark ground; the first ten serve most diseases.
PALETTE = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#d62728", "#5254a3"),
    *("#637939", "#e7969c", "#8c6d31", "#6baed6", "#843c39", "#7b4173", "#31a354", "#fd8d3c", "#636363", "#3182bd"),
    *("#8ca252", "#ce6dbd", "#393b79", "#e7ba52"),
)
RED, AMBER, GREY, GREEN = "#b3261e", "#e0a100", "#9aa0a8", "#5a9e6f"
MEANINGS = {"drift": RED, "watch": AMBER, "cannot judge": GREY, "no drift found": GREEN, "unseen": RED, "silent": AMBER, "alarms": RED}
THEIR_COLOURS = ('["#02B2AF","#2E96FF","#B800D8","#60009B","#2731C8","#03008D"]', '["#02B2AF","#72CCFF","#DA00FF","#9001CB","#2E96FF","#3B48E0"]')
THEIR_SERIES = ',labelMarkType:"square"};if(e==="line")'
THEIR_COUNT = "return r?Number.parseFloat("  # a count of 0 is "no value" there
STYLE = """<style>
#dxflow-tabs{background:#1b1e23;font:15px/1.45 system-ui,sans-serif;padding:0 24px;display:flex;flex-wrap:wrap;position:sticky;top:0;z-index:2000}
#dxflow-tabs a{color:#dfe2e7;text-decoration:none;padding:10px 14px;border-bottom:3px solid transparent}
#dxflow-tabs a:hover{border-color:#8a919c}
#dxflow-tabs a.here{color:#fff;border-color:#fff}
#dxflow-tabs b{background:#b3261e;color:#fff;border-radius:9px;padding:0 7px;font-size:13px;margin-left:5px}
#dxflow-tabs span{background:#fff3cd;color:#1b1e23;margin:8px 0 8px auto;padding:1px 10px;border-radius:3px}
.MuiMarkElement-root{r:2.5px}
.MuiChartsLegend-root{font-size:12px!important}
.MuiChartsLegend-mark{flex-shrink:0!important}
/* The workspace is derived and read-only: what would change it, and stores that stay empty, are not offered. */
button[value=datasets],button[value=traces],button[value=prompts],button[value=edit-mode],button[aria-label="Create new project"],
button:has(path[d^="M6 19c0 1.1.9 2 2 2h8"]),.dxflow-hidden,a[href^="https://discord.gg"],a[href^="https://docs.evidently"]{display:none!important}
</style>"""
TABS_SCRIPT = """<script>
window.dxflowColours = %s
setInterval(() => {
  for (const a of document.querySelectorAll("#dxflow-tabs a")) a.classList.toggle("here", location.pathname.startsWith(a.pathname))
  for (const b of document.querySelectorAll("button[role=tab]"))
    if (["Datasets", "Traces", "Prompts"].includes(b.innerText)) b.classList.add("dxflow-hidden")
}, 300)
</script>"""


def colours(names: Iterable[Sequence[str]]) -> dict[str, str]:
    """Legend -> colour: meanings, and for the devices of each disease the palette in their order: one colour for a device in every chart."""
    return {device: PALETTE[n % len(PALETTE)] for devices in names for n, device in enumerate(devices)} | MEANINGS


def tabs(entries: Sequence[tuple[str, str, int]], *, here: str, synthetic: bool, legend: Mapping[str, str]) -> str:
    """The strip above every page.

    Args:
        entries: (address, name, open alarms) of each tab.
        here: Path of the page that is asked for; Evidently changes it later without asking the server, which a line of script follows.
        synthetic: Whether anything that is shown comes from synthetic data.
        legend: As `colours` gives it.
    """
    links = []
    for address, name, count in entries:
        badge = f"<b>{count}</b>" if count else ""
        links.append(f'<a href="{html.escape(address)}"{" class=here" if here.startswith(address) else ""}>{html.escape(name)}{badge}</a>')
    mark = "<span>SYNTHETIC DATA</span>" if synthetic else ""
    return f"{STYLE}<nav id=dxflow-tabs>{''.join(links)}{mark}</nav>{TABS_SCRIPT % _in_script(legend)}"


def _in_script(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


def scripts(assets: Path) -> Mapping[str, str]:
    """Evidently's scripts that are served changed: path below `assets` -> text."""
    ours = json.dumps(PALETTE)
    known = "(window.dxflowColours||{})[A]"
    series = THEIR_SERIES.replace("};", f",...({known}?{{color:{known}}}:{{}})}};")
    found = {}
    for path in sorted((assets / "static" / "js").glob("*.js")):
        text = path.read_text(encoding="utf-8")
        changed = text.replace(THEIR_SERIES, series).replace(THEIR_COUNT, THEIR_COUNT.replace("r?", "r!=null?"))
        for theirs in THEIR_COLOURS:
            changed = changed.replace(theirs, ours)
        if changed != text:
            found[f"/static/js/{path.name}"] = changed
    return found
