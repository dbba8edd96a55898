"""Where a result comes from: what was inspected, with what, when, and how it was brought into the part frame."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rad3d.result import Inspection
from rad3d.viewers.measures import number, percent

UNKNOWN = "not known"


def provenance(inspection: Inspection) -> list[tuple[str, str]]:
    """By name, for people; what the result does not tell is not known."""
    return [
        ("Source", f"{inspection.source or '–'} (unit: {inspection.unit})"),
        ("Inspected", inspected(inspection) or UNKNOWN),
        ("Versions", ", ".join(f"{name} {v}" for name, v in (inspection.versions or {}).items()) or UNKNOWN),
        ("Memory", _memory(inspection.memory)),
        ("Encoder and features", inspection.fingerprint),
        *_registrations(inspection),
        ("Region threshold", f"{number(inspection.point_threshold)} (surface above it belongs to a defect)"),
        ("False rejects", false_reject(inspection)),
        ("Time", ", ".join(f"{stage} {number(s)} s" for stage, s in inspection.timings_s.items()) or "–"),
        *_flat(inspection.settings),
    ]


def false_reject(inspection: Inspection) -> str:
    """The rate of false rejects, asked and guaranteed."""
    rate = inspection.false_reject
    guaranteed = rate.get("guaranteed")
    sure = "no rate guaranteed" if guaranteed is None else f"at most {percent(guaranteed)} guaranteed"
    return f"asked {percent(rate.get('asked'))}, {sure}, from {rate.get('n_good')} good specimens"


def inspected(inspection: Inspection) -> str | None:
    """When, for people; None where an older result does not tell."""
    return None if inspection.date is None else date_text(datetime.fromisoformat(inspection.date))


def date_text(date: datetime) -> str:
    """To the minute, with its zone."""
    return date.strftime("%Y-%m-%d %H:%M %Z")


def _memory(memory: Mapping[str, Any] | None) -> str:
    if memory is None:
        return UNKNOWN
    judged = ", ".join(str(number_) for number_ in memory["judgements"])
    feedback = f", with the judgements {judged}" if judged else ""
    return f"{memory['folder'] or 'not saved'} (identity {memory['identity']}){feedback}"


def _registrations(inspection: Inspection) -> list[tuple[str, str]]:
    """One row of the scan, or one of each captured view."""
    if not inspection.registration:
        return [("Registration", UNKNOWN)]
    return [
        ("Registration" if one["view"] is None else f"Registration of {one['view']}", _registration(one))
        for one in inspection.registration
    ]


def _registration(one: Mapping[str, Any]) -> str:
    said = f"fitness {number(one['fitness'])}, RMSE {number(one['rmse_mm'])} mm"
    if one["free_directions"]:
        said += f", free: {', '.join(one['free_directions'])}"
    return said if one["trusted"] else f"{said}; not used: {one['reason']}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return rows
