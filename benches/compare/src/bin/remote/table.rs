//! Prints the results as two tables: all figures, and the targets.

/// The name of each measure, its unit, and the case that it is compared with.
const MEASURES: &[(&str, &str, Option<&str>)] = &[
    ("ask-p50", "us", Some("floor")),
    ("ask-p99", "us", Some("floor")),
    ("tell", "M/s", Some("floor")),
    ("wake-up", "us", None),
    ("wake-up-event-loop", "us", None),
    ("one-way-pool", "us, p50", None),
    ("one-way-thread", "us, p50", None),
    ("publish-react", "us, p50", None),
    ("join-p50", "ms", None),
    ("closed-disconnected", "ms", None),
    ("closed-lost", "ms", None),
    ("silent-disconnected", "ms", None),
    ("silent-lost", "ms", None),
    ("publishes", "a second", None),
    ("arrived", "a second", None),
    ("applied", "a second", None),
    ("reactions", "a second", None),
    ("state-age-p50", "ms", None),
    ("state-age-p99", "ms", None),
    ("head-cpu", "cores", None),
    ("node-cpu", "cores", None),
    ("head-rss-begin", "MiB", None),
    ("head-rss-end", "MiB", None),
    ("node-rss-begin", "MiB", None),
    ("node-rss-end", "MiB", None),
];

#[derive(Default)]
pub struct Figures(Vec<(String, &'static str, Vec<f64>)>);

impl Figures {
    pub fn add(&mut self, measure: &str, case: &'static str, value: f64) {
        match self.0.iter_mut().find(|(known, of, _)| known == measure && *of == case) {
            Some((_, _, values)) => values.push(value),
            None => self.0.push((measure.to_owned(), case, vec![value])),
        }
    }

    /// Returns the median of the rounds.
    fn get(&self, measure: &str, case: &str) -> Option<f64> {
        let (_, _, values) = self.0.iter().find(|(known, of, _)| known == measure && *of == case)?;
        Some(median(values))
    }

    pub fn print(&self) {
        println!(
            "| measure | unit | case | median | min–max | × floor |\n| --- | --- | --- | ---: | ---: | ---: |"
        );
        for (measure, unit, base) in MEASURES {
            let base = base.and_then(|base| self.get(measure, base));
            for (_, case, values) in self.0.iter().filter(|(known, ..)| known == measure) {
                let (least, most) =
                    values.iter().fold((f64::MAX, f64::MIN), |(a, b), value| (a.min(*value), b.max(*value)));
                let middle = median(values);
                let ratio = base.map_or_else(String::new, |base| format!("{:.3}", middle / base));
                println!(
                    "| {measure} | {unit} | {case} | {} | {}–{} | {ratio} |",
                    short(middle),
                    short(least),
                    short(most)
                );
            }
        }
        println!("\n| to be reached | figure | bound | |\n| --- | ---: | ---: | --- |");
        self.reach();
    }

    fn reach(&self) {
        let get = |measure, case| self.get(measure, case);
        let times = |factor: f64, value: Option<f64>| value.map(|value| value * factor);
        at_most(
            "ask of a pooled Work: 1.15 × the floor, us",
            get("ask-p50", "flowright-pool"),
            times(1.15, get("ask-p50", "floor")),
        );
        let wake_ups = times(2.4, get("wake-up", "wake-ups"));
        at_most(
            "ask of a Work on its own thread: that bound and 1.2 × two wake-ups, us",
            get("ask-p50", "flowright-thread"),
            times(1.15, get("ask-p50", "floor")).zip(wake_ups).map(|(ask, wake_ups)| ask + wake_ups),
        );
        at_most(
            "ask of a Work in its own process: 1.3 × faster than over TCP, us",
            get("ask-p50", "flowright-process"),
            times(1.0 / 1.3, get("ask-p50", "flowright-thread")),
        );
        at_least(
            "tell of a pooled Work: 0.15 × the batched floor, M/s",
            get("tell", "flowright-pool"),
            times(0.15, get("tell", "floor")),
        );
        at_least(
            "tell of a pooled Work: 0.15 × the batched floor in the fewest bytes, M/s",
            get("tell", "flowright-pool"),
            times(0.15, get("tell", "floor-compact")),
        );
        at_most(
            "publish → react: 1.3 × a message one way to a Work on its own thread, us",
            get("publish-react", "flowright-thread"),
            times(1.3, get("one-way-thread", "flowright-thread")),
        );
        at_most(
            "publish of a pooled Work → react: 1.3 × a message one way to a Work on its own thread, us",
            get("publish-react", "flowright-pool"),
            times(1.3, get("one-way-thread", "flowright-pool")),
        );
        at_most("a node joins and runs its first Work, ms", get("join-p50", "flowright-join"), Some(50.0));
        // Three heartbeats of a second, plus a margin for a busy machine.
        at_most("a silent node is noticed, ms", get("silent-disconnected", "flowright-loss"), Some(3_100.0));
        at_most(
            "a node whose socket was closed is lost, ms",
            get("closed-lost", "flowright-loss"),
            Some(100.0),
        );
    }
}

fn at_most(what: &str, figure: Option<f64>, bound: Option<f64>) {
    line(what, "≤", figure, bound, |figure, bound| figure <= bound);
}

fn at_least(what: &str, figure: Option<f64>, bound: Option<f64>) {
    line(what, "≥", figure, bound, |figure, bound| figure >= bound);
}

fn line(what: &str, sign: &str, figure: Option<f64>, bound: Option<f64>, holds: impl Fn(f64, f64) -> bool) {
    if let (Some(figure), Some(bound)) = (figure, bound) {
        let word = if holds(figure, bound) { "reached" } else { "missed" };
        println!("| {what} | {} | {sign} {} | {word} |", short(figure), short(bound));
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1_000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
