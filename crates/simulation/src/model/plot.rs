//! The course of a run as a picture (SVG): what is done and what was sent above, demand against the limit below.

use std::fmt::Write;

use super::Report;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 680.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 888.0;
const TOP: Panel = Panel { top: 96.0, bottom: 356.0 };
const BOTTOM: Panel = Panel { top: 424.0, bottom: 624.0 };

const INK: &str = "#1f2a33";
const FAINT: &str = "#6b7780";
const GRID: &str = "#e3e8eb";
const POLL: &str = "#2f7f93";
const TRIGGER: &str = "#e59a2f";
const LIMIT: &str = "#c0392b";
const DEMAND: &str = "#44546a";

struct Panel {
    top: f64,
    bottom: f64,
}

impl Panel {
    /// The height of a share of the panel.
    fn y(&self, share: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * share
    }
}

/// Draws the run: cards done by their own poll and by trigger, and triggers per active card; then sessions wanted,
/// own polls among them, and the session limit, by the hour. `title` stands on top.
pub fn svg(report: &Report, title: &str) -> String {
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\" font-size=\"13\" fill=\"{INK}\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    text(
        &mut picture,
        LEFT,
        36.0,
        "start",
        &format!("<tspan font-size=\"20\" font-weight=\"600\">{title}</tspan>"),
    );
    text(&mut picture, LEFT, 60.0, "start", &format!("<tspan fill=\"{FAINT}\">{}</tspan>", summary(report)));

    let days = (report.hours.len() as f64 / 24.0).max(1.0 / 24.0);
    let x = |hour: f64| LEFT + (RIGHT - LEFT) * hour / 24.0 / days;
    axes(&mut picture, days, &x);
    done(&mut picture, report, &x);
    demand(&mut picture, report, &x);
    picture.push_str("</svg>\n");
    picture
}

fn summary(report: &Report) -> String {
    let day = |day: Option<f64>| day.map_or("not reached".into(), |day| format!("{day:.1} d"));
    format!(
        "{} cards, {} in the field \u{b7} {:.3} SMS per card \u{b7} half done {}, 90 % {}, all {} \u{b7} {} refused",
        grouped(u64::from(report.cards)),
        grouped(u64::from(report.active)),
        report.sms_per_active,
        day(report.days.p50),
        day(report.days.p90),
        day(report.days.p100),
        grouped(report.refused),
    )
}

fn axes(picture: &mut String, days: f64, x: &impl Fn(f64) -> f64) {
    let step = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
        .into_iter()
        .find(|step| days / step <= 12.0)
        .unwrap_or(100.0);
    for tick in 0..=(days / step) as usize {
        let day = tick as f64 * step;
        for panel in [&TOP, &BOTTOM] {
            line(picture, (x(day * 24.0), panel.top), (x(day * 24.0), panel.bottom), GRID, "");
        }
        text(picture, x(day * 24.0), BOTTOM.bottom + 20.0, "middle", &format!("{day}"));
    }
    text(
        picture,
        RIGHT,
        BOTTOM.bottom + 40.0,
        "end",
        &format!("<tspan fill=\"{FAINT}\">days since the start</tspan>"),
    );
}

fn done(picture: &mut String, report: &Report, x: &impl Fn(f64) -> f64) {
    for quarter in 0..=4 {
        let y = TOP.y(f64::from(quarter) / 4.0);
        line(picture, (LEFT, y), (RIGHT, y), GRID, "");
        text(picture, LEFT - 8.0, y + 4.0, "end", &format!("{} %", quarter * 25));
    }
    let active = f64::from(report.active.max(1));
    let (mut polls, mut all, mut sms) = (vec![(x(0.0), TOP.y(0.0))], vec![(x(0.0), TOP.y(0.0))], vec![0.0]);
    let (mut by_poll, mut by_trigger, mut sent) = (0.0, 0.0, 0.0);
    for (hour, passed) in report.hours.iter().zip(1..) {
        by_poll += hour.done_by_poll as f64;
        by_trigger += hour.done_by_trigger as f64;
        sent += hour.sms as f64;
        polls.push((x(f64::from(passed)), TOP.y(by_poll / active)));
        all.push((x(f64::from(passed)), TOP.y((by_poll + by_trigger) / active)));
        sms.push(sent / active);
    }
    area(picture, &all, TOP.bottom, TRIGGER, 0.75);
    area(picture, &polls, TOP.bottom, POLL, 0.85);
    let most = scale(sent / active);
    let points: Vec<_> = (0..).zip(&sms).map(|(hour, sms)| (x(f64::from(hour)), TOP.y(sms / most))).collect();
    path(picture, &points, INK, "stroke-width=\"2\" stroke-dasharray=\"6 4\"");
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        text(picture, RIGHT + 8.0, TOP.y(share) + 4.0, "start", &format!("{:.2}", most * share));
    }
    for (name, share, day) in [("half", 0.5, report.days.p50), ("90 %", 0.9, report.days.p90)] {
        if let Some(day) = day {
            let (at, y) = (x(day * 24.0), TOP.y(share));
            let _ = writeln!(
                picture,
                "<circle cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#fff\" stroke=\"{INK}\" stroke-width=\"1.5\"/>"
            );
            text(picture, at + 9.0, y + 16.0, "start", &format!("{name}: {day:.1} d"));
        }
    }
    legend(
        picture,
        TOP.top - 12.0,
        &[
            ("by their own poll", POLL, false),
            ("by trigger", TRIGGER, false),
            ("SMS per card (right)", INK, true),
        ],
    );
}

fn demand(picture: &mut String, report: &Report, x: &impl Fn(f64) -> f64) {
    let limit = f64::from(report.sessions_limit.max(1));
    let most = scale(report.demand_peak.max(limit) * 1.05);
    let mean = |sum: f64, minutes: u32| BOTTOM.y(sum / f64::from(minutes.max(1)) / most);
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        line(picture, (LEFT, BOTTOM.y(share)), (RIGHT, BOTTOM.y(share)), GRID, "");
        text(picture, LEFT - 8.0, BOTTOM.y(share) + 4.0, "end", &grouped((most * share).round() as u64));
    }
    let middle = |hour: usize| x(hour as f64 + 0.5);
    let hours = || report.hours.iter().enumerate();
    let all: Vec<_> = hours().map(|(at, hour)| (middle(at), mean(hour.demand, hour.minutes))).collect();
    let polls: Vec<_> = hours().map(|(at, hour)| (middle(at), mean(hour.polls, hour.minutes))).collect();
    let peaks: Vec<_> = hours().map(|(at, hour)| (middle(at), BOTTOM.y(hour.demand_max / most))).collect();
    area(picture, &all, BOTTOM.bottom, TRIGGER, 0.55);
    area(picture, &polls, BOTTOM.bottom, POLL, 0.85);
    path(picture, &peaks, DEMAND, "stroke-width=\"1.2\"");
    line(
        picture,
        (LEFT, BOTTOM.y(limit / most)),
        (RIGHT, BOTTOM.y(limit / most)),
        LIMIT,
        "stroke-width=\"2\"",
    );
    let label = format!(
        "<tspan fill=\"{LIMIT}\" font-weight=\"600\">limit {}</tspan>",
        grouped(u64::from(report.sessions_limit))
    );
    text(picture, RIGHT - 4.0, BOTTOM.y(limit / most) - 6.0, "end", &label);
    let peak = format!("demand, peak of the hour (highest {:.2} of the limit)", report.demand_peak / limit);
    legend(
        picture,
        BOTTOM.top - 12.0,
        &[
            ("own polls", POLL, false),
            ("with triggers and retries, mean", TRIGGER, false),
            (&peak, DEMAND, true),
        ],
    );
}

fn legend(picture: &mut String, y: f64, entries: &[(&str, &str, bool)]) {
    let mut at = LEFT;
    for (name, color, is_line) in entries {
        let (height, lift) = if *is_line { (2.0, 5.0) } else { (10.0, 9.0) };
        let _ = writeln!(
            picture,
            "<rect x=\"{at:.1}\" y=\"{:.1}\" width=\"18\" height=\"{height}\" fill=\"{color}\"/>",
            y - lift
        );
        text(picture, at + 24.0, y, "start", name);
        at += 24.0 + name.chars().count() as f64 * 7.0 + 28.0;
    }
}

/// A round number at or above.
fn scale(value: f64) -> f64 {
    let magnitude = 10f64.powf(value.max(1e-6).log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * magnitude).find(|step| *step >= value).unwrap_or(value)
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            // A narrow space, as SI groups digits.
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    shown
}

fn text(picture: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    // Writing to a String cannot fail; the same below.
    let _ = writeln!(picture, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>");
}

fn line(picture: &mut String, from: (f64, f64), to: (f64, f64), color: &str, style: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        picture,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\" {style}/>"
    );
}

fn points(of: &[(f64, f64)]) -> String {
    of.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

fn path(picture: &mut String, of: &[(f64, f64)], color: &str, style: &str) {
    let _ =
        writeln!(picture, "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" {style}/>", points(of));
}

fn area(picture: &mut String, of: &[(f64, f64)], floor: f64, color: &str, opacity: f64) {
    let (Some(first), Some(last)) = (of.first(), of.last()) else { return };
    let _ = writeln!(
        picture,
        "<polygon points=\"{:.1},{floor:.1} {} {:.1},{floor:.1}\" fill=\"{color}\" fill-opacity=\"{opacity}\"/>",
        first.0,
        points(of),
        last.0
    );
}
