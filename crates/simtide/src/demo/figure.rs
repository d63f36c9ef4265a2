//! Seed A's Fig. 1 as it really happened: the tide before the campaign (scale 1A) and the campaign
//! running against it (scale 1B), as text for a terminal and as an SVG.
//!
//! A batch is an equal share of the cards, numbered in the order of their last own contact before the
//! start. It stands where half of its cards were done: below the axis when most of them came by
//! themselves, above it when most of them were called in by a trigger.

use std::fmt::Write;

/// How most cards of a batch came to their update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The card's own recurring contact.
    Poll,
    /// A trigger SMS of the campaign.
    Trigger,
}

/// Where one batch stands on a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchMark {
    /// Number of the batch, 1 for the cards that polled first after `t0`.
    pub number: usize,
    /// When half of its cards were done, in days since `t0`.
    pub at_days: f64,
    /// How most of its cards came.
    pub cause: Cause,
}

/// Everything that the figure shows. Times are days since `t0`, the start of the observed period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figure {
    /// Length of the recurring period, T.
    pub period_days: f64,
    /// DC: the start of the campaign.
    pub start_days: f64,
    /// FC: the end of the campaign: the last card that is in the field is done.
    pub end_days: f64,
    /// Scale 1A: the batches as they polled before the start.
    pub before: Vec<BatchMark>,
    /// Scale 1B: the batches as the campaign reached them.
    pub during: Vec<BatchMark>,
}

const COLUMNS: usize = 96;

impl Figure {
    /// The batches of the campaign in the order in which they were done, as `1-20-2-19-...`.
    pub fn batch_order(&self) -> String {
        let mut order = self.during.clone();
        order.sort_by(|a, b| a.at_days.total_cmp(&b.at_days));
        order.iter().map(|mark| mark.number.to_string()).collect::<Vec<_>>().join("-")
    }

    /// The figure for a terminal of 100 columns.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let before = Scale::new(0.0, self.start_days, COLUMNS);
        let _ = writeln!(out, "1A  the tide before the start: every card contacts the server once in T");
        let _ = writeln!(out, "    {}", before.numbers(&self.before, None));
        let _ = writeln!(out, "    {}", before.axis(&self.before, None));
        let _ = writeln!(
            out,
            "    t0{:^width$}DC",
            format!("T = {:.1} days  ->  first order", self.period_days),
            width = COLUMNS - 4
        );
        let during = Scale::new(self.start_days, self.end_days, COLUMNS);
        let _ = writeln!(out);
        let _ =
            writeln!(out, "1B  the campaign runs against it: trigger SMS above the axis, own polls below");
        let _ = writeln!(out, "    {:<COLUMNS$}", "triggered: latest contact first  <-");
        let _ = writeln!(out, "    {}", during.numbers(&self.during, Some(Cause::Trigger)));
        let _ = writeln!(out, "    {}", during.axis(&self.during, None));
        let _ = writeln!(out, "    {}", during.numbers(&self.during, Some(Cause::Poll)));
        let _ = writeln!(out, "    {:<COLUMNS$}", "polls: the tide goes on in the first order  ->");
        let _ = writeln!(
            out,
            "    DC{:^width$}FC",
            format!("{:.1} days, {:.2} T", self.end_days - self.start_days, self.share_of_period()),
            width = COLUMNS - 4
        );
        out
    }

    /// The figure as an SVG of 1000 x 420 units that needs nothing from outside.
    pub fn svg(&self) -> String {
        let mut out = String::from(concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 420" "#,
            r#"font-family="ui-sans-serif,system-ui,sans-serif" font-size="13">"#,
            "\n",
            r##"<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" "##,
            r##"orient="auto-start-reverse"><path d="M0,0 8,4 0,8z" fill="#334155"/></marker></defs>"##,
            "\n",
            r##"<rect width="1000" height="420" fill="#ffffff"/>"##,
            "\n",
        ));
        self.svg_before(&mut out);
        self.svg_during(&mut out);
        out.push_str("</svg>\n");
        out
    }

    fn share_of_period(&self) -> f64 {
        (self.end_days - self.start_days) / self.period_days
    }

    fn svg_before(&self, out: &mut String) {
        let scale = Scale::new(0.0, self.start_days, 900);
        text(out, 50.0, 34.0, "start", INK, "1A  the tide before the start");
        line(out, 50.0, 110.0, 960.0, 110.0, true);
        for mark in &self.before {
            batch(out, 50.0 + scale.at(mark.at_days), 92.0, mark.number, POLL);
        }
        text(out, 50.0, 134.0, "middle", INK, "t0");
        text(out, 950.0, 134.0, "middle", INK, "DC");
        line(out, 400.0, 54.0, 600.0, 54.0, true);
        let label = format!("first order, T = {:.1} days", self.period_days);
        text(out, 500.0, 46.0, "middle", POLL, &label);
    }

    fn svg_during(&self, out: &mut String) {
        let scale = Scale::new(self.start_days, self.end_days, 900);
        text(out, 50.0, 194.0, "start", INK, "1B  the campaign against the tide");
        line(out, 50.0, 290.0, 960.0, 290.0, true);
        for mark in &self.during {
            let x = 50.0 + scale.at(mark.at_days);
            let (y, stem, colour) = match mark.cause {
                Cause::Trigger => (262.0, 278.0, TRIGGER),
                Cause::Poll => (318.0, 302.0, POLL),
            };
            let _ = writeln!(
                out,
                r##"<line x1="{x:.1}" y1="{stem}" x2="{x:.1}" y2="290" stroke="{colour}" stroke-width="1"/>"##
            );
            batch(out, x, y, mark.number, colour);
        }
        line(out, 600.0, 226.0, 400.0, 226.0, true);
        text(out, 500.0, 218.0, "middle", TRIGGER, "trigger SMS: the reverse of the first order");
        line(out, 400.0, 352.0, 600.0, 352.0, true);
        text(out, 500.0, 370.0, "middle", POLL, "own polls: the first order");
        text(out, 50.0, 370.0, "middle", INK, "DC");
        text(out, 950.0, 370.0, "middle", INK, "FC");
        let label = format!("{:.1} days = {:.2} T", self.end_days - self.start_days, self.share_of_period());
        text(out, 500.0, 404.0, "middle", INK, &label);
    }
}

const INK: &str = "#334155";
const POLL: &str = "#0369a1";
const TRIGGER: &str = "#c2410c";

fn text(out: &mut String, x: f64, y: f64, anchor: &str, colour: &str, content: &str) {
    let _ = writeln!(
        out,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{content}</text>"#
    );
}

fn line(out: &mut String, x1: f64, y1: f64, x2: f64, y2: f64, arrow: bool) {
    let tip = if arrow { r#" marker-end="url(#tip)""# } else { "" };
    let _ = writeln!(
        out,
        r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{INK}" stroke-width="1.5"{tip}/>"#
    );
}

fn batch(out: &mut String, x: f64, y: f64, number: usize, colour: &str) {
    let _ = writeln!(
        out,
        r##"<circle cx="{x:.1}" cy="{y:.1}" r="11" fill="{colour}"/><text x="{x:.1}" y="{:.1}" text-anchor="middle" font-size="11" fill="#ffffff">{number}</text>"##,
        y + 4.0
    );
}

/// Maps days to columns or drawing units.
struct Scale {
    from: f64,
    to: f64,
    width: usize,
}

impl Scale {
    fn new(from: f64, to: f64, width: usize) -> Self {
        Self { from, to: to.max(from + f64::EPSILON), width }
    }

    fn at(&self, days: f64) -> f64 {
        ((days - self.from) / (self.to - self.from)).clamp(0.0, 1.0) * self.width as f64
    }

    /// The numbers of the marks (all of them, or those of one cause) above or below their places;
    /// a number that finds no room is left out, its tick stays on the axis.
    fn numbers(&self, marks: &[BatchMark], only: Option<Cause>) -> String {
        let mut row = vec![' '; self.width + 4];
        let mut sorted: Vec<_> = marks.iter().filter(|mark| only.is_none_or(|c| c == mark.cause)).collect();
        sorted.sort_by(|a, b| a.at_days.total_cmp(&b.at_days));
        let mut free_from = 0;
        for mark in sorted {
            let label = mark.number.to_string();
            let place = (self.at(mark.at_days) as usize).saturating_sub(label.len() / 2);
            if place < free_from || place + label.len() > row.len() {
                continue;
            }
            for (offset, digit) in label.chars().enumerate() {
                row[place + offset] = digit;
            }
            free_from = place + label.len() + 1;
        }
        row.into_iter().collect::<String>().trim_end().to_owned()
    }

    fn axis(&self, marks: &[BatchMark], only: Option<Cause>) -> String {
        let mut row = vec!['-'; self.width];
        for mark in marks.iter().filter(|mark| only.is_none_or(|c| c == mark.cause)) {
            let column = (self.at(mark.at_days) as usize).min(self.width - 1);
            row[column] = match mark.cause {
                Cause::Trigger => '\'',
                Cause::Poll => '.',
            };
        }
        row[0] = '|';
        row[self.width - 1] = '>';
        row.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The perfect world of the seed: what is free equals the tide, twenty batches.
    fn perfect() -> Figure {
        let before = (1..=20)
            .map(|number| BatchMark { number, at_days: number as f64 - 0.5, cause: Cause::Poll })
            .collect();
        let during = (1..=20)
            .map(|number| {
                if number <= 10 {
                    BatchMark { number, at_days: 19.5 + number as f64, cause: Cause::Poll }
                } else {
                    BatchMark { number, at_days: 40.6 - number as f64, cause: Cause::Trigger }
                }
            })
            .collect();
        Figure { period_days: 20.0, start_days: 20.0, end_days: 30.5, before, during }
    }

    #[test]
    fn the_perfect_world_interleaves_as_in_the_seed() {
        assert_eq!(perfect().batch_order(), "1-20-2-19-3-18-4-17-5-16-6-15-7-14-8-13-9-12-10-11");
    }

    #[test]
    fn text_shows_polls_below_and_triggers_above() {
        let text = perfect().text();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[7].contains("20") && lines[7].contains("11") && !lines[7].contains(" 3 "), "{text}");
        assert!(lines[9].contains(" 2 ") && lines[9].contains("10"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 104), "{text}");
    }

    #[test]
    fn svg_has_a_circle_per_batch_and_scale() {
        assert_eq!(perfect().svg().matches("<circle").count(), 40);
    }

    #[test]
    fn a_campaign_of_no_length_is_still_drawn() {
        let mut figure = perfect();
        figure.end_days = figure.start_days;
        assert!(figure.svg().ends_with("</svg>\n"));
        assert!(!figure.text().is_empty());
    }
}
