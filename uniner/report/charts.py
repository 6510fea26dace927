"""The page's pictures as inline SVG: the funnel, curves of a training, scores against calibrated ones. Pure.

Colours come from the page's style sheet by class, so that the pictures follow its light and dark.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from uniner.display import visible
from uniner.report.funnel import FunnelLane

Points = Sequence[tuple[float, float]]
_MOST_POINTS, _DOTS = 400, 40
_WIDTH, _BAR, _LINE = 300, 12, 42
_BAR_ELEMENT = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="2" class="bar"/>')


@dataclass(frozen=True, kw_only=True)
class CurveLine:
    """A line of a chart. style: its class in the style sheet. right: it belongs to the right axis, 0 to 1."""

    label: str
    points: Points
    style: str
    right: bool = False


def funnel_svg(lane: FunnelLane) -> Markup:
    """Return a lane: a centred bar a step, narrowing into the next, with what was dropped between them."""
    most = max((step.count for step in lane.steps), default=0)
    widths = [_bar_width(step.count, most) for step in lane.steps]
    parts, y = list[Markup](), 4.0
    for place, step in enumerate(lane.steps):
        parts += [
            _text(0, y + 12, "label", "start", step.label),
            _text(_WIDTH, y + 12, "count", "end", f"{step.count:,}"),
            _BAR_ELEMENT.format((_WIDTH - widths[place]) / 2, y + 19, widths[place], _BAR),
        ]
        y += 19 + _BAR
        if place + 1 < len(lane.steps):
            lost = _wrap([f"{count:,} {reason}" for reason, count in step.dropped.items()])
            height = 10 + 15 * len(lost)
            if not lane.steps[place + 1].apart:
                parts.append(_narrowing(y, y + height, widths[place], widths[place + 1]))
            parts += [
                _text(_WIDTH / 2, y + 16 + 15 * number, "lost", "middle", f"{'' if number else '− '}{line}")
                for number, line in enumerate(lost)
            ]
            y += height
    return _svg(_WIDTH, y + 4, f"funnel of {lane.unit}", parts, "funnel")


def _text(x: float, y: float, style: str, anchor: str, content: str) -> Markup:
    element = Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>')
    return element.format(x, y, style, anchor, visible(content))


def _narrowing(top: float, bottom: float, above: float, below: float) -> Markup:
    """Return the surface between two centred bars of these widths."""
    middle = _WIDTH / 2
    corners = (
        f"{middle - above / 2:.1f},{top} {middle + above / 2:.1f},{top} "
        f"{middle + below / 2:.1f},{bottom} {middle - below / 2:.1f},{bottom}"
    )
    return Markup('<polygon points="{}" class="narrowing"/>').format(corners)


def _bar_width(count: int, most: int) -> float:
    return max(3.0, _WIDTH * count / most) if most else 3.0


def _wrap(reasons: Sequence[str]) -> list[str]:
    """Return reasons in lines that fit into a lane."""
    lines: list[str] = []
    for reason in (reason if len(reason) < _LINE else f"{reason[: _LINE - 1]}…" for reason in reasons):
        if lines and len(lines[-1]) + len(reason) + 2 <= _LINE:
            lines[-1] += f", {reason}"
        else:
            lines.append(reason)
    return lines


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Where a chart's axes lie, and what they reach: the left one top_y, the right one 1, both from 0."""

    most_x: float
    top_y: float
    width: int = 560
    height: int = 250
    left: int = 46
    right: int = 520
    top: int = 12
    bottom: int = 216

    def x(self, share: float) -> float:
        return self.left + (self.right - self.left) * share

    def y(self, share: float) -> float:
        return self.bottom - (self.bottom - self.top) * min(1.0, max(0.0, share))


def lines_svg(lines: Sequence[CurveLine], x_label: str, title: str) -> Markup:
    """Return a chart of lines over a common x; "" without a point. The left axis begins at 0."""
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    left_values = [y for line in lines if not line.right for _, y in line.points if math.isfinite(y)]
    frame = _Frame(
        most_x=max(x for line in lines for x, _ in line.points) or 1,
        top_y=_nice_top(max(left_values, default=1)),
    )
    parts = _axes(frame, x_label, any(line.right for line in lines))
    for line in lines:
        parts += _drawn(line, frame)
    return _svg(frame.width, frame.height, title, parts, "chart")


def _drawn(line: CurveLine, frame: _Frame) -> list[Markup]:
    """Return a line, with a dot a point where there are few."""
    scale = 1.0 if line.right else frame.top_y
    points = [(frame.x(x / frame.most_x), frame.y(y / scale)) for x, y in _thinned(line.points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    drawn = [Markup('<polyline points="{}" class="line {}"/>').format(path, line.style)]
    if len(points) <= _DOTS:
        dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.2" class="dot {}"/>')
        drawn += [dot.format(x, y, line.style) for x, y in points]
    return drawn


def _axes(frame: _Frame, x_label: str, has_right: bool) -> list[Markup]:
    parts = []
    grid = Markup('<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" class="grid"/>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = frame.y(share)
        parts += [
            grid.format(frame.left, frame.right, y, y),
            _text(frame.left - 6, y + 3.5, "tick", "end", f"{frame.top_y * share:.3g}"),
            _text(frame.x(share), frame.bottom + 15, "tick", "middle", f"{frame.most_x * share:,.0f}"),
        ]
        if has_right:
            parts.append(_text(frame.right + 6, y + 3.5, "tick", "start", f"{share:g}"))
    parts.append(_text(frame.x(0.5), frame.height - 3, "tick", "middle", x_label))
    return parts


def _nice_top(value: float) -> float:
    """Return a number not below the value whose quarters are short to write, such as 1.2 or 80."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * power >= value)


def _thinned(points: Points) -> Points:
    """Return at most some hundred points: of a longer line its first, and the means of its stretches."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if len(finite) <= _MOST_POINTS:
        return finite
    size = -(-len(finite) // _MOST_POINTS)
    stretches = (finite[start : start + size] for start in range(0, len(finite), size))
    means = [(stretch[-1][0], sum(y for _, y in stretch) / len(stretch)) for stretch in stretches]
    return [finite[0], *means]


def calibration_svg(calibrated: Callable[[float], float]) -> Markup:
    """Return how scores map to calibrated ones, beside the diagonal of scores that are right as they are."""
    points = [(number / 50, calibrated(min(0.999, max(0.001, number / 50)))) for number in range(51)]
    path = " ".join(f"{8 + 104 * x:.1f},{112 - 104 * y:.1f}" for x, y in points)
    parts = [
        Markup('<rect x="8" y="8" width="104" height="104" class="frame"/>'),
        Markup('<line x1="8" y1="112" x2="112" y2="8" class="diagonal"/>'),
        Markup('<polyline points="{}" class="line training"/>').format(path),
    ]
    return _svg(120, 120, "score against calibrated score", parts, "calibration")


def _svg(width: float, height: float, title: str, parts: Sequence[Markup], style: str) -> Markup:
    inside = Markup("").join(parts)
    return Markup('<svg class="{}" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        style, width, height, visible(title), inside
    )
